"""The command `python -m vatt import-tf CHECKPOINT OUT`: TensorFlow weights to an export.

Which network a checkpoint holds is read from the shapes of its tensors, by their original keys.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError

from vatt.core.errors import StageError
from vatt.corpus.tokenizer import VOCABULARY_NAME, WordTokenizer
from vatt.model.classifier import ClassifierParams
from vatt.model.stem import HOP, NUM_BANDS
from vatt.model.towers import TowerParams, collect_weights
from vatt.params import TOWER_SIZES, ClipParams, ModelParams, Section, TowerSize
from vatt.weights import original
from vatt.weights.export import (
    PARAMS,
    AnyParams,
    ExportedClassifierParams,
    ExportedParams,
    build_untrained,
    save_export,
)
from vatt.weights.original import find_originals, find_shape, lay_out_weights
from vatt.weights.tensor_bundle import TensorBundle, TensorEntry

Shapes = Mapping[str, tuple[int, ...]]
LEFT_OUT = "left out: "
PRETRAINING_RATE_HZ = 10.0
CLASSIFIER_RATE_HZ, CLASSIFIER_AUDIO_STRIDE = 12.5, 2
"""Every second frame of 25 Hz and every second sample of 48 kHz (VATT appendix A.3)."""
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


class ImportOptions(Section):
    """What a checkpoint does not hold; the defaults are those of every preset of the original."""

    head_width: int = Field(default=64, ge=1)
    """The width of an attention head of video, audio and shared encoders."""
    text_max_distance: int = Field(default=64, ge=2)
    """From so many words on, relative positions do not distinguish distances."""
    num_tokens: int = Field(default=16, ge=1)
    """The words of a text, where relative positions set no limit."""
    frame_rate_hz: float | None = Field(default=None, gt=0)
    """The rate of the video that the model was trained on; None is the original's."""
    vocabulary: Path | None = None
    """The words of the text tower, one a line; None leaves the export without a tokenizer."""


class Fate(NamedTuple):
    """What became of one tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    text: str
    """Our tensor, with rows where it is a part of one; or why it was left out."""


def main(checkpoint: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Import with the options `given` (None is the default); print the fate of each tensor.

    Raises StageError if an option is out of range, or the import failed.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        options = ImportOptions.model_validate(chosen)
    except ValidationError as error:
        raise StageError(_explain(error)) from error
    fates = import_checkpoint(checkpoint, out, options)
    for fate in fates:
        print(f"{fate.name} {fate.shape} -> {fate.text}")
    num_left_out = sum(fate.text.startswith(LEFT_OUT) for fate in fates)
    num_taken = len(fates) - num_left_out
    print(f"{out}: {num_taken} tensors taken over, {num_left_out} left out; see {out / PARAMS}")


def import_checkpoint(checkpoint: Path, out: Path, options: ImportOptions) -> list[Fate]:
    """Write an original checkpoint as an export to the new folder `out`; return all fates.

    The network is worked out from the shapes. Weights are read one at a time.

    Raises StageError if `out` exists or cannot be written, the checkpoint is damaged or of another
    model, or the vocabulary does not fit; the message names files and tensors.
    """
    with _name_unwritable(out):
        if out.exists():
            raise StageError(f"{out}: exists already; name a new folder, or remove it")
    bundle = TensorBundle(checkpoint)
    texts = {name: _explain_omission(name, entry) for name, entry in bundle.entries.items()}
    weights = {name: entry for name, entry in bundle.entries.items() if not texts[name]}
    try:
        params = read_architecture({name: entry.shape for name, entry in weights.items()}, options)
        with torch.device("meta"):  # names and shapes only
            model = build_untrained(params)
        sources = find_originals(collect_weights(model), weights)
        _check_tensors(collect_weights(model), sources, weights)
    except StageError as error:
        raise StageError(f"{checkpoint}: {error}") from error
    if vocabulary := options.vocabulary:
        if isinstance(params, ExportedClassifierParams):
            raise StageError(f"{vocabulary}: a classifier has no text, so it takes no vocabulary")
        num_words, num_rows = WordTokenizer(vocabulary).vocab_size, params.vocab_size
        if num_words != num_rows:
            reason = f"has {num_words} words, the checkpoint's table {num_rows}"
            raise StageError(f"{vocabulary}: {reason}")
    # Assigned, because tensors on the device meta have no memory to copy to.
    model.load_state_dict(lay_out_weights(sources, bundle), strict=False, assign=True)
    with _name_unwritable(out):
        save_export(out, model, params, options.vocabulary)
    for name, keys in sources.items():
        row = 0
        for key in keys:
            num_rows = find_shape(key, weights[key].shape)[0]
            texts[key] = f"{name}[{row}:{row + num_rows}]" if len(keys) > 1 else name
            row += num_rows
    return [Fate(name, entry.shape, texts[name]) for name, entry in bundle.entries.items()]


@contextmanager
def _name_unwritable(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StageError(f"{out}: cannot be written: {error}") from error


def _explain_omission(name: str, entry: TensorEntry) -> str:
    """Return why a tensor is none of the model's; empty where it is one."""
    if entry.dtype == object:
        return f"{LEFT_OUT}text, no weight"
    if "/.OPTIMIZER_SLOT/" in name or name.startswith("optimizer/"):
        return f"{LEFT_OUT}state of the optimiser"
    return f"{LEFT_OUT}counts the checkpoints" if name == "save_counter" else ""


def _check_tensors(
    ours: Mapping[str, torch.Tensor],
    sources: Mapping[str, tuple[str, ...]],
    weights: Mapping[str, TensorEntry],
) -> None:
    """Refuse tensors that are not float32, or do not have the shape that the others ask for."""
    problems = []
    for name, keys in sources.items():
        num_rows, *rest = ours[name].shape
        expected = (num_rows // len(keys), *rest)
        for key in keys:
            entry = weights[key]
            if entry.dtype != np.float32:
                problems.append(f"{key}: is {entry.dtype or 'of an unknown type'}, not float32")
            elif find_shape(key, entry.shape) != expected:
                problems.append(f"{key}: has shape {entry.shape}, its part of {name} is {expected}")
    if problems:
        raise StageError("original weights do not fit: " + "; ".join(problems))


def read_architecture(shapes: Shapes, options: ImportOptions) -> AnyParams:
    """Return the params.yaml of an export of original tensors of these shapes, by their keys.

    Raises StageError if it is none of the original's models, or a tensor is missing or misshapen.
    """
    readers: dict[str, Callable[[Shapes, ImportOptions], AnyParams]] = {
        original.UNIFIED: _read_agnostic,
        original.VIDEO: _read_specific,
        original.CLASSIFIER_TOWER: _read_classifier,
    }
    for tower, read in readers.items():
        if any(key.startswith(f"{tower}/") for key in shapes):
            try:
                return read(shapes, options)
            except ValidationError as error:
                reason = f"the shapes of its tensors do not fit together: {_explain(error)}"
                raise StageError(reason) from error
    some = ", ".join(sorted(shapes)[:3]) or "none"
    raise StageError(
        f"holds none of VATT's models: expected weights below {original.VIDEO}, "
        f"{original.UNIFIED} or {original.CLASSIFIER_TOWER}, got {some}"
    )


def _explain(error: ValidationError) -> str:
    """Return the problems of an error in one line."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}, got {problem['input']}"
        for problem in error.errors()
    )


def _read_specific(shapes: Shapes, options: ImportOptions) -> ExportedParams:
    """Return a network of three towers that share nothing."""
    text = f"{original.TEXT}/base_lm"
    attention = f"{text}/layers/0/self_attention/attention"
    table = f"{attention}/relative_attention_bias/embeddings"
    num_buckets, num_heads = _axes(shapes, table, 2)
    inner = _axes(shapes, f"{attention}/q/kernel", 2)[1]
    if inner % num_heads:
        reason = f"{inner} columns, but {table} has {num_heads} heads"
        raise StageError(f"{attention}/q/kernel: {reason}")
    size = _read_size(shapes, text, inner // num_heads, attention="self_attention/attention")
    video, audio = (
        _read_tower(shapes, options, tower, original.find_input(tower, shapes))
        for tower in (original.VIDEO, original.AUDIO)
    )
    found = {"text": _name(size), "text_buckets": num_buckets}
    return _describe(shapes, options, f"{original.TEXT}/embedding", (video, audio), found)


def _read_agnostic(shapes: Shapes, options: ImportOptions) -> ExportedParams:
    """Return a network of three towers that share an encoder."""
    root = original.UNIFIED
    video = _read_tower(shapes, options, root, "video", part="/video")
    audio = _read_tower(shapes, options, root, "waveform", part="/audio")
    found = {
        "text": _name(video.size),
        "text_style": "bert",
        "shared_encoder": True,
        "post_projection_width": video.post_projection_width,
    }
    positions = f"{root}/pos_embedding_lookup/text/temporal_position_embeddings/embeddings"
    num_tokens = _axes(shapes, positions, 2)[0]
    options = options.model_copy(update={"num_tokens": num_tokens})
    return _describe(shapes, options, f"{root}/raw_to_embeddings/text", (video, audio), found)


def _describe(
    shapes: Shapes,
    options: ImportOptions,
    words: str,
    towers: tuple[TowerParams, TowerParams],
    found: Mapping[str, Any],
) -> ExportedParams:
    """Return the network of this word table, towers of video and audio, and what was found."""
    video, audio = towers
    vocab_size, word_width = _axes(shapes, f"{words}/embeddings", 2)
    va_width, vt_width = _axes(shapes, f"{original.HEADS}/va_to_vat/dense/kernel", 2)
    is_waveform = audio.input == "waveform"
    described = {
        "video": _name(video.size),
        "audio": _name(audio.size),
        "video_patch": video.patch,
        "audio_input": audio.input,
        "audio_patch": audio.patch[0] if is_waveform else RELEASED["audio_patch"],
        "spectrogram_patch": RELEASED["spectrogram_patch"] if is_waveform else audio.patch,
        "text_max_distance": options.text_max_distance,
        "word_width": word_width,
        "space_va_width": va_width,
        "space_vt_width": vt_width,
    }
    model = ModelParams.model_validate({**RELEASED, **described, **found})
    num_frames, height, width, _ = video.measure()
    if height != width:
        size = f"{width} x {height} pixels"
        raise StageError(f"its videos are {size}; only square ones are supported")
    length, *bands = audio.measure()
    if bands not in ([], [NUM_BANDS]):
        raise StageError(f"its spectrograms have {bands[0]} bands; only {NUM_BANDS} are supported")
    return ExportedParams(
        clip=ClipParams(
            num_frames=num_frames,
            frame_size_px=height,
            num_samples=length if is_waveform else length * HOP,
            num_tokens=options.num_tokens,
            num_candidates=5,  # the paper's neighbouring captions, which only training needs
        ),
        model=model,
        frame_rate_hz=options.frame_rate_hz or PRETRAINING_RATE_HZ,
        vocab_size=vocab_size,
        tokenizer=VOCABULARY_NAME if options.vocabulary else None,
        seed=0,
        code_version=version("vatt"),
    )


def _read_classifier(shapes: Shapes, options: ImportOptions) -> ExportedClassifierParams:
    root = original.CLASSIFIER_TOWER
    tower = _read_tower(shapes, options, root, original.find_input(root, shapes))
    classifier = ClassifierParams(
        **dict(tower),
        num_classes=_axes(shapes, f"{original.CLASSIFIER_HEAD}/kernel", 2)[1],
        head_dropout_rate=0.5 if tower.input == "video" else 0.0,
    )
    return ExportedClassifierParams(
        classifier=classifier,
        frame_rate_hz=options.frame_rate_hz or CLASSIFIER_RATE_HZ,
        audio_stride=CLASSIFIER_AUDIO_STRIDE,
        code_version=version("vatt"),
    )


def _read_tower(
    shapes: Shapes, options: ImportOptions, tower: str, kind: str, part: str = ""
) -> TowerParams:
    """Return a tower of video or audio; `part` is its own where towers share an encoder."""
    layer, axes = original.INPUTS[kind]
    kernel = f"{tower}/raw_to_embeddings{part}/kernel" if part else f"{tower}/{layer}/kernel"
    # The kernel of the convolution has the size of a patch, the tables that of the grid.
    *patch, num_channels, _ = _axes(shapes, kernel, len(axes) + 2)
    expected = 3 if kind == "video" else 1
    if num_channels != expected:
        raise StageError(f"{kernel}: has {num_channels} channels, expected {expected}")
    positions = f"{tower}/pos_embedding_lookup{part}"
    tables = (f"{positions}/{axis}_position_embeddings/embeddings" for axis in axes)
    projection = f"{tower}/post_proj{part}/kernel"
    has_projection = part or projection in shapes
    found = {
        "input": kind,
        "size": _read_size(shapes, f"{tower}/tx", options.head_width),
        "patch": tuple(patch),
        "grid": tuple(_axes(shapes, table, 2)[0] for table in tables),
        "post_projection_width": _axes(shapes, projection, 2)[1] if has_projection else None,
        "dropout_rate": RELEASED["dropout_rate"],
        "drop_token_rate": 0.0,
    }
    return TowerParams.model_validate(found)


def _read_size(shapes: Shapes, encoder: str, head_width: int, attention: str = "mha") -> TowerSize:
    """Return the size of an encoder whose layers have their attention below this name."""
    layer = f"{encoder}/layers/0"
    width, inner = _axes(shapes, f"{layer}/{attention}/q/kernel", 2)
    if inner % head_width:
        raise StageError(
            f"{layer}/{attention}/q/kernel: {inner} columns are no multiple of head_width = "
            f"{head_width}; give the width of a head (--head-width)"
        )
    numbers = (re.match(rf"{encoder}/layers/(\d+)/", key) for key in shapes)
    return TowerSize(
        num_layers=1 + max(int(match[1]) for match in numbers if match),
        width=width,
        mlp_width=_axes(shapes, f"{layer}/feed_forward/mlp/wi/kernel", 2)[1],
        num_heads=inner // head_width,
        head_width=head_width,
    )


def _name(size: TowerSize) -> str | TowerSize:
    """Return the name of the preset of this size, or the size."""
    return next((name for name, preset in TOWER_SIZES.items() if preset == size), size)


def _axes(shapes: Shapes, key: str, num_axes: int) -> tuple[int, ...]:
    """Return the lengths of a tensor's axes, of which there must be so many."""
    if key not in shapes:
        raise StageError(f"{key}: is missing")
    shape = shapes[key]
    if len(shape) != num_axes or 0 in shape:
        raise StageError(f"{key}: has shape {shape}, expected {num_axes} axes")
    return shape
