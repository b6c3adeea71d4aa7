"""Which network an original checkpoint holds, read from the shapes of its tensors."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from vatt.core.errors import StageError
from vatt.model.classifier import ClassifierParams
from vatt.model.spectrogram import HOP, NUM_BANDS
from vatt.params import TOWER_SIZES, ClipParams, ModelParams, Section, TowerSize
from vatt.weights import original

Shapes = Mapping[str, tuple[int, ...]]

INPUTS = {
    "voxel_to_patch": "video",
    "wave_to_patch": "waveform",
    "spectrum_to_patch": "spectrogram",
}
RELEASED: dict[str, Any] = {
    "shared_encoder": False,
    "post_projection_width": 1024,
    "audio_patch": 128,
    "spectrogram_patch": (16, 5),
    "text_style": "t5",
    "text_buckets": 32,
    "train_word_table": False,
    "space_kind": "fac",
    "batch_norm_everywhere": False,
    "dropout_rate": 0.1,
    "drop_token_rate": 0.5,
    "drop_token_draw": "batch",
}
"""What the original's model is, where its tensors do not say otherwise."""


class Choices(Section):
    """What shapes cannot tell; the defaults are those of every preset of the original."""

    head_width: int = Field(default=64, ge=1)
    """Of the attention of video, audio and shared encoders."""
    text_max_distance: int = Field(default=64, ge=2)
    """Words from which on relative positions tell no distances apart."""
    num_tokens: int = Field(default=16, ge=1)
    """Words of a text, where relative positions set no limit."""


class Network(NamedTuple):
    """A model for pre-training: what `Vatt` is built from."""

    model: ModelParams
    clip: ClipParams
    vocab_size: int


class _Patches(NamedTuple):
    """Of one tower: points along each axis of a patch, and patches along each axis of a clip."""

    patch: tuple[int, ...]
    grid: tuple[int, ...]

    def measure(self) -> list[int]:
        """Return the points of a clip along each axis."""
        return [points * count for points, count in zip(self.patch, self.grid, strict=True)]


def read_architecture(shapes: Shapes, choices: Choices) -> Network | ClassifierParams:
    """Return what to build for original tensors of these shapes, by their keys.

    Raises:
        StageError: it is none of the original's models, or a tensor is missing or misshapen.
    """
    try:
        if _has(shapes, original.UNIFIED):
            return _read_agnostic(shapes, choices)
        if _has(shapes, original.VIDEO):
            return _read_specific(shapes, choices)
        if _has(shapes, original.CLASSIFIER_TOWER):
            return _read_classifier(shapes, choices)
    except ValidationError as error:
        raise StageError(
            f"the shapes of its tensors do not fit together: {explain(error)}"
        ) from error
    some = ", ".join(sorted(shapes)[:3]) or "none"
    raise StageError(
        f"holds none of VATT's models: expected weights below {original.VIDEO}, "
        f"{original.UNIFIED} or {original.CLASSIFIER_TOWER}, got {some}"
    )


def explain(error: ValidationError) -> str:
    """Return the problems of an error in one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}, got {problem['input']}"
        for problem in error.errors()
    )


def _read_specific(shapes: Shapes, choices: Choices) -> Network:
    video, audio = _read_tower(shapes, original.VIDEO), _read_tower(shapes, original.AUDIO)
    vocab_size, word_width = _axes(shapes, f"{original.TEXT}/embedding/embeddings", 2)
    text_size, num_buckets = _read_text_size(shapes)
    found: dict[str, Any] = {
        "video": _name(_read_size(shapes, f"{original.VIDEO}/tx", choices)),
        "audio": _name(_read_size(shapes, f"{original.AUDIO}/tx", choices)),
        "text": _name(text_size),
        "video_patch": video.patch,
        "audio_input": INPUTS[original.find_patches(original.AUDIO, shapes)],
        "text_buckets": num_buckets,
        "text_max_distance": choices.text_max_distance,
        "word_width": word_width,
        **_read_spaces(shapes),
    }
    if found["audio_input"] == "waveform":
        (found["audio_patch"],) = audio.patch
    else:
        found["spectrogram_patch"] = audio.patch
    model = ModelParams.model_validate(RELEASED | found)
    return Network(model, _describe_clip(video, audio, choices.num_tokens), vocab_size)


def _read_agnostic(shapes: Shapes, choices: Choices) -> Network:
    video, audio = (
        _read_patches(
            shapes,
            f"{original.UNIFIED}/raw_to_embeddings/{modality}",
            f"{original.UNIFIED}/pos_embedding_lookup/{modality}",
            original.AXES[patches],
        )
        for modality, patches in (("video", "voxel_to_patch"), ("audio", "wave_to_patch"))
    )
    words = f"{original.UNIFIED}/raw_to_embeddings/text/embeddings"
    text_positions = f"{original.UNIFIED}/pos_embedding_lookup/text"
    size = _name(_read_size(shapes, f"{original.UNIFIED}/tx", choices))
    vocab_size, word_width = _axes(shapes, words, 2)
    found = {
        "shared_encoder": True,
        "post_projection_width": _axes(shapes, f"{original.UNIFIED}/post_proj/video/kernel", 2)[1],
        **dict.fromkeys(("video", "audio", "text"), size),
        "video_patch": video.patch,
        "audio_input": "waveform",
        "audio_patch": audio.patch[0],
        "text_style": "bert",
        "text_max_distance": choices.text_max_distance,
        "word_width": word_width,
        **_read_spaces(shapes),
    }
    num_tokens = _axes(shapes, f"{text_positions}/temporal_position_embeddings/embeddings", 2)[0]
    model = ModelParams.model_validate(RELEASED | found)
    return Network(model, _describe_clip(video, audio, num_tokens), vocab_size)


def _read_classifier(shapes: Shapes, choices: Choices) -> ClassifierParams:
    tower = original.CLASSIFIER_TOWER
    patches = _read_tower(shapes, tower)
    is_video = len(patches.patch) == 3
    projection = f"{tower}/post_proj/kernel"
    return ClassifierParams.model_validate(
        {
            "input": INPUTS[original.find_patches(tower, shapes)],
            "size": _read_size(shapes, f"{tower}/tx", choices),
            "patch": patches.patch,
            "grid": patches.grid,
            "post_projection_width": (
                _axes(shapes, projection, 2)[1] if projection in shapes else None
            ),
            "num_classes": _axes(shapes, f"{original.CLASSIFIER_HEAD}/kernel", 2)[1],
            "dropout_rate": 0.1,
            "head_dropout_rate": 0.5 if is_video else 0.0,
            "drop_token_rate": 0.0,
        }
    )


def _read_tower(shapes: Shapes, tower: str) -> _Patches:
    patches = original.find_patches(tower, shapes)
    positions = f"{tower}/pos_embedding_lookup"
    return _read_patches(shapes, f"{tower}/{patches}", positions, original.AXES[patches])


def _read_patches(shapes: Shapes, patches: str, positions: str, axes: tuple[str, ...]) -> _Patches:
    """Return the size of a patch from the kernel of a convolution, the grid from the tables."""
    *patch, num_channels, _ = _axes(shapes, f"{patches}/kernel", len(axes) + 2)
    expected = 3 if len(axes) == 3 else 1
    if num_channels != expected:
        raise StageError(f"{patches}/kernel: has {num_channels} channels, expected {expected}")
    tables = (f"{positions}/{axis}_position_embeddings/embeddings" for axis in axes)
    return _Patches(tuple(patch), tuple(_axes(shapes, table, 2)[0] for table in tables))


def _read_size(shapes: Shapes, encoder: str, choices: Choices) -> TowerSize:
    """Return the size of a standard encoder."""
    layer = f"{encoder}/layers/0"
    width, inner = _axes(shapes, f"{layer}/mha/q/kernel", 2)
    if inner % choices.head_width:
        raise StageError(
            f"{layer}/mha/q/kernel: {inner} columns are no multiple of head_width = "
            f"{choices.head_width}; give the width of a head (--head-width)"
        )
    return TowerSize(
        num_layers=_count_layers(shapes, encoder),
        width=width,
        mlp_width=_axes(shapes, f"{layer}/feed_forward/mlp/wi/kernel", 2)[1],
        num_heads=inner // choices.head_width,
        head_width=choices.head_width,
    )


def _read_text_size(shapes: Shapes) -> tuple[TowerSize, int]:
    """Return the size of the T5 encoder and the number of its relative positions."""
    layer = f"{original.TEXT}/base_lm/layers/0"
    attention = f"{layer}/self_attention/attention"
    table = f"{attention}/relative_attention_bias/embeddings"
    num_buckets, num_heads = _axes(shapes, table, 2)
    width, inner = _axes(shapes, f"{attention}/q/kernel", 2)
    if inner % num_heads:
        raise StageError(
            f"{attention}/q/kernel: {inner} columns, but {table} has {num_heads} heads"
        )
    size = TowerSize(
        num_layers=_count_layers(shapes, f"{original.TEXT}/base_lm"),
        width=width,
        mlp_width=_axes(shapes, f"{layer}/feed_forward/mlp/wi/kernel", 2)[1],
        num_heads=num_heads,
        head_width=inner // num_heads,
    )
    return size, num_buckets


def _read_spaces(shapes: Shapes) -> dict[str, int]:
    """Return the widths of the shared spaces."""
    va_width, vt_width = _axes(shapes, f"{original.HEADS}/va_to_vat/dense/kernel", 2)
    return {"space_va_width": va_width, "space_vt_width": vt_width}


def _describe_clip(video: _Patches, audio: _Patches, num_tokens: int) -> ClipParams:
    num_frames, height, width = video.measure()
    if height != width:
        raise StageError(
            f"its videos are {width} x {height} pixels; only square ones are supported"
        )
    num_samples, *bands = audio.measure()
    if bands not in ([], [NUM_BANDS]):
        raise StageError(f"its spectrograms have {bands[0]} bands; only {NUM_BANDS} are supported")
    return ClipParams(
        num_frames=num_frames,
        frame_size_px=height,
        num_samples=num_samples * HOP if bands else num_samples,
        num_tokens=num_tokens,
        num_candidates=5,
    )


def _name(size: TowerSize) -> str | TowerSize:
    """Return the name of the preset of this size, or the size."""
    return next((name for name, preset in TOWER_SIZES.items() if preset == size), size)


def _count_layers(shapes: Shapes, encoder: str) -> int:
    numbers = (re.match(rf"{encoder}/layers/(\d+)/", key) for key in shapes)
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)


def _has(shapes: Shapes, tower: str) -> bool:
    return any(key.startswith(f"{tower}/") for key in shapes)


def _axes(shapes: Shapes, key: str, num_axes: int) -> tuple[int, ...]:
    """Return the lengths of a tensor's axes, of which there must be so many."""
    if key not in shapes:
        raise StageError(f"{key}: is missing")
    shape = shapes[key]
    if len(shape) != num_axes or 0 in shape:
        raise StageError(f"{key}: has shape {shape}, expected {num_axes} axes")
    return shape
