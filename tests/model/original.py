"""The numbers that the original TensorFlow implementation gave for small models."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.tiny import TINY_MODEL
from vatt.core.batch import Batch
from vatt.model.towers import collect_weights, restore_weights
from vatt.model.vatt import Vatt
from vatt.params import ClipParams, TowerSize
from vatt.weights.original import state_from_original

REFERENCE_DIR = Path(__file__).parents[1] / "reference"
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
AGNOSTIC = MODEL.model_copy(
    update={"shared_encoder": True, "text_style": "bert", "post_projection_width": 24}
)


def take_share(batch: Batch, num_ranks: int) -> Batch:
    """Return the clips of this rank."""
    rank = torch.distributed.get_rank()
    return Batch(*(part.chunk(num_ranks)[rank] for part in vars(batch).values()))


class Original:
    """One model of the original: weights, inputs and what it made of them."""

    def __init__(self, name: str) -> None:
        with np.load(REFERENCE_DIR / f"parity_{name}.npz") as file:
            self.numbers: Mapping[str, np.ndarray] = dict(file)
        self._params = AGNOSTIC if name == "ma" else MODEL

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays whose key starts with `prefix`, without it."""
        return {
            key.removeprefix(prefix): value
            for key, value in self.numbers.items()
            if key.startswith(prefix)
        }

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.numbers[key].copy())

    def build_model(self) -> Vatt:
        model = Vatt(self._params, CLIP, vocab_size=50)
        weights = state_from_original(collect_weights(model), self.group("w::"))
        restore_weights(model, weights)
        return model

    def build_batch(self) -> Batch:
        return Batch(
            video=self.tensor("in::video"),
            audio=self.tensor("in::audio").squeeze(-1),
            text=self.tensor("in::text").view(4, 3, 6),
            audio_mask=self.tensor("in::audio_mask").bool(),
            text_mask=self.tensor("in::text_mask").bool()[:, None].expand(4, 3),
        )
