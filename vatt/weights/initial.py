"""The first weights of a training run that are not random (VATT section 4.1.3).

Pre-training starts from an export of the same network, or with a table of word vectors; fine-tuning
starts from the towers of any export. Position tables are stretched to clips of another size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vatt.core.errors import StageError
from vatt.corpus.tokenizer import AnyTokenizer
from vatt.loading.tasks import MODALITIES
from vatt.model.classifier import (
    AudioVisualParams,
    ClassifierParams,
    FusionParams,
    apply_rates,
    build_network,
    list_towers,
)
from vatt.model.stem import NUM_BANDS, count_frames, spline_matrix
from vatt.model.towers import TowerParams, collect_weights, describe_towers, restore_weights
from vatt.model.vatt import Vatt
from vatt.params import PRETRAINED, ClipParams, ModelParams, TaskName, TaskParams
from vatt.weights.export import (
    ExportedClassifierParams,
    ExportedParams,
    build_untrained,
    check_fit,
    read_params,
    read_tensors,
    save_weights,
)
from vatt.weights.inference import load, load_any
from vatt.weights.registry import find_export

WORDS = "words"  # the only tensor of a file of word vectors
MAY_DIFFER = {
    *("augment", "dropout_rate", "drop_token_rate", "drop_token_draw"),
    *("num_candidates", "train_word_table"),
    *("num_frames", "frame_size_px", "num_samples", "num_tokens"),
}
"""Parameters that the run which the weights come from may have had otherwise: they change training,
or only the lengths of position tables."""
TENSOR_WIDTH, SKETCH_WIDTH, ATTENTION_LAYERS = 32, 1024, 2
"""Of fusions: the width of a feature before the outer product, the width of the sketch, the number
of layers behind the towers."""


def write_initial_weights(
    source: str, params: ExportedParams, tokenizer: AnyTokenizer, out_path: Path
) -> None:
    """Write the weights of an export as the first ones of a run with `params` and `tokenizer`.

    `source` is the folder of the export, or "champion". The new corpus may have other word pieces:
    the vectors of those that the export knows are taken over, the others start at random.

    Raises StageError if the export is missing or damaged, or its network is another one.
    """
    exported = load(find_export(source))
    for section in ("clip", "model"):
        found = getattr(exported.params, section)
        for name, value in getattr(params, section):
            if name not in MAY_DIFFER and getattr(found, name) != value:
                raise StageError(
                    f"pretrain.initial_weights = {source}: it was trained with "
                    f"{section}.{name} = {getattr(found, name)}, params.yaml says {value}"
                )
    model = build_untrained(params)
    old_words, words = exported.model.words.weight.detach(), model.words.weight.detach().clone()
    old_ids = {piece: number for number, piece in enumerate(exported.tokenizer.pieces)}
    for number, piece in enumerate(tokenizer.pieces):
        if piece in old_ids:
            words[number] = old_words[old_ids[piece]]
    exported.model.words.weight = nn.Parameter(words)
    weights = collect_weights(exported.model)
    restore_weights(model, _stretch_positions(weights, collect_weights(model)))
    save_weights(model, out_path)


def write_word_vectors(source: Path, params: ExportedParams, out_path: Path) -> None:
    """Write the random first weights of a run with `params`, but the word table of a file.

    `source` is a safetensors file with one float32 tensor `words`, a row for each id.

    Raises StageError if the file cannot be read, or its tensor is not that table.
    """
    label = f"pretrain.word_vectors = {source}"
    tensors = read_tensors(source, label)
    if tensors.keys() != {WORDS}:
        raise StageError(f"{label}: expected one tensor `{WORDS}`, got {sorted(tensors)[:5]}")
    model = build_untrained(params)
    words, table = tensors[WORDS], model.words.weight
    if words.shape != table.shape or words.dtype != table.dtype:
        raise StageError(
            f"{label}: expected {table.dtype} {tuple(table.shape)}, (words of the vocabulary, "
            f"model.word_width), got {words.dtype} {tuple(words.shape)}"
        )
    broken = (~words.isfinite()).any(1).nonzero().flatten().tolist()
    if broken:
        raise StageError(f"{label}: {len(broken)} rows are not finite, the first is {broken[0]}")
    model.words.weight = nn.Parameter(words)
    save_weights(model, out_path)


@dataclass(frozen=True)
class Demand:
    """The task that a classifier is built for."""

    task_name: TaskName
    task: TaskParams
    clip: ClipParams
    """The clips of the task, not those of pre-training."""
    num_classes: int


def find_source(task: TaskParams, pretrain_dir: Path) -> Path | None:
    """Return the folder whose towers a task starts from; None: they are new.

    Raises StageError if it is that of the champion, and there is none yet.
    """
    if task.initial_weights is None:
        return None
    is_pretrained = task.initial_weights == PRETRAINED
    return pretrain_dir if is_pretrained else find_export(task.initial_weights)


def describe_classifier(
    source: Path | None, model: ModelParams, demand: Demand
) -> ClassifierParams | AudioVisualParams:
    """Return the classifier for a task whose towers are those of `source`, or of a new `model`.

    `source` is the folder of an export of any kind. Its towers get the positions of clips of the
    task.

    Raises StageError if the folder is no export, it has no tower for the task, the clips are not
    whole patches, or more layers are frozen than there are.
    """
    section = f"finetune.{demand.task_name}"
    name = f"{section}.initial_weights = {demand.task.initial_weights}"
    towers, shares_encoder = describe_towers(model), model.shared_encoder
    if source:
        try:
            found = read_params(source)
        except StageError as error:
            raise StageError(f"{name}: {error}") from error
        if isinstance(found, ExportedClassifierParams):
            towers, own = list_towers(found.classifier), found.classifier
            shares_encoder = isinstance(own, AudioVisualParams) and own.shared_encoder
        else:
            towers, shares_encoder = describe_towers(found.model), found.model.shared_encoder
    modalities = MODALITIES[demand.task_name]
    missing = ", ".join(modality for modality in modalities if modality not in towers)
    if missing:
        raise StageError(
            f"{name}: {source} has a tower for {', '.join(towers)}, none for {missing}: "
            f"it cannot be fine-tuned to the task {demand.task_name}"
        )
    towers = {modality: _fit(towers[modality], demand) for modality in modalities}
    num_layers = min(tower.size.num_layers for tower in towers.values())
    if isinstance(demand.task.freeze, int) and demand.task.freeze > num_layers:
        raise StageError(
            f"{section}.freeze = {demand.task.freeze}: there are {num_layers} layers; accepted are "
            f"none, tower and numbers up to {num_layers}"
        )
    params = _join(towers, demand, shares_encoder=shares_encoder)
    return apply_rates(params, demand.task.schedule)


def write_first_weights(
    source: Path, params: ClassifierParams | AudioVisualParams, seed: int, out_path: Path
) -> None:
    """Write the first weights of a classifier that `describe_classifier` described for `source`.

    Towers are those of the source; the head, and a fusion, begin at random, drawn from `seed`.

    Raises StageError if the folder cannot be read, or holds another network; the difference is
    named.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(params)
    model = load_any(source).model
    trained = (
        {"video": model.video, "audio": model.audio}
        if isinstance(model, Vatt)
        else dict(zip(model.modalities, model.towers, strict=True))
    )
    for modality, tower in zip(network.modalities, network.towers, strict=True):
        if modality not in trained:
            raise StageError(f"{source}: has no tower for {modality}")
        expected = tower.state_dict()
        weights = _stretch_positions(trained[modality].state_dict(), expected)
        check_fit(f"{source}: {modality}: is another network", weights, expected)
        tower.load_state_dict(weights)
    save_weights(network, out_path)


def _stretch_positions(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return `weights` with position tables as long as those `expected`, on the same spline."""
    stretched = dict(weights)
    for name, table in weights.items():
        if ".positions.tables." in name and name in expected and len(table) != len(expected[name]):
            spline = spline_matrix(len(table), len(expected[name]))  # in float64
            stretched[name] = (spline @ table.double()).to(table.dtype)
    return stretched


def _fit(tower: TowerParams, demand: Demand) -> TowerParams:
    """Return the tower for clips of the task."""
    clip, task = demand.clip, demand.task
    num_frames = clip.num_frames
    if demand.task_name == "image":
        num_frames = task.num_frames or tower.patch[0]
    num_samples = clip.num_samples // task.audio_stride
    lengths = {
        "video": (num_frames, clip.frame_size_px, clip.frame_size_px),
        "waveform": (num_samples,),
        "spectrogram": (count_frames(num_samples), NUM_BANDS),
    }[tower.input]
    axes = list(zip(lengths, tower.patch, strict=True))
    # The network cuts off what does not fill a patch of a spectrogram, as the original does.
    is_whole = tower.input == "spectrogram" or not any(length % points for length, points in axes)
    if not is_whole or any(length < points for length, points in axes):
        shown, patch = (" x ".join(map(str, numbers)) for numbers in (lengths, tower.patch))
        raise StageError(
            f"finetune.{demand.task_name}: a clip of {shown} is not whole patches of {patch} "
            f"({tower.input})"
        )
    return tower.model_copy(update={"grid": tuple(length // points for length, points in axes)})


def _join(
    towers: Mapping[str, TowerParams], demand: Demand, *, shares_encoder: bool
) -> ClassifierParams | AudioVisualParams:
    """Return the classifier on one tower, or on two with a fusion."""
    task = demand.task
    head: dict[str, Any] = {
        "num_classes": demand.num_classes,
        "head_dropout_rate": 0,
        "multi_label": task.multi_label,
    }
    if demand.task_name != "audio_visual":
        (tower,) = towers.values()
        fields = tower.model_dump(include=set(TowerParams.model_fields))
        return ClassifierParams.model_validate(fields | head)
    if task.fusion is None:
        raise StageError("finetune.audio_visual.fusion = null: a way to fuse is needed")
    video = towers["video"]
    fusion = FusionParams(
        kind=task.fusion,
        width=TENSOR_WIDTH if task.fusion == "tensor" else SKETCH_WIDTH,
        size=video.size.model_copy(update={"num_layers": ATTENTION_LAYERS}),
        dropout_rate=video.dropout_rate,
    )
    return AudioVisualParams(**towers, shared_encoder=shares_encoder, fusion=fusion, **head)
