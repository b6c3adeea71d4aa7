"""The numbers that the original TensorFlow implementation gave for a small model."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.tiny import TINY_MODEL
from vatt.batch import Batch
from vatt.interop.original import state_from_original
from vatt.models.vatt import Vatt
from vatt.params import ClipParams, TowerSize

PATH = Path(__file__).parents[1] / "reference" / "parity_ms.npz"
SIZE = TowerSize(num_layers=2, width=32, mlp_width=64, num_heads=4, head_width=8)
CLIP = ClipParams(num_frames=4, frame_size_px=16, num_samples=96, num_tokens=6, num_candidates=3)
MODEL = TINY_MODEL.model_copy(
    update={
        "video": SIZE,
        "audio": SIZE,
        "text": SIZE,
        "video_patch": (2, 4, 4),
        "audio_patch": 8,
        "text_buckets": 8,
        "text_max_distance": 6,
        "word_width": 12,
        "train_word_table": False,
        "space_va_width": 20,
        "space_vt_width": 10,
        "dropout_rate": 0.0,
        "drop_token_rate": 0.0,
    }
)


@cache
def numbers() -> Mapping[str, np.ndarray]:
    with np.load(PATH) as file:
        return dict(file)


def group(prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose key starts with `prefix`, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in numbers().items()
        if key.startswith(prefix)
    }


def tensor(key: str) -> Tensor:
    return torch.from_numpy(numbers()[key].copy())


def build_model() -> Vatt:
    model = Vatt(MODEL, CLIP, vocab_size=50)
    model.load_state_dict(state_from_original(model.state_dict(), group("w::")))
    return model


def build_batch() -> Batch:
    return Batch(
        video=tensor("in::video"),
        audio=tensor("in::audio").squeeze(-1),
        text=tensor("in::text").view(4, 3, 6),
        audio_mask=tensor("in::audio_mask").bool(),
        text_mask=tensor("in::text_mask").bool()[:, None].expand(4, 3),
    )
