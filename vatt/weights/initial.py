"""The first weights of a training run that are not random: from an export, or a table of words.

What fine-tuning starts from: a classifier made of the towers of a trained model (VATT section 4.1.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.tokenizer import AnyTokenizer
from vatt.loading.labelled import MODALITIES
from vatt.model.classifier import (
    AudioVisualParams,
    ClassifierParams,
    apply_rates,
    build_network,
    list_towers,
)
from vatt.model.fusion import FusionParams
from vatt.model.spectrogram import NUM_BANDS, count_frames
from vatt.model.stem import spline_matrix
from vatt.model.towers import (
    Tower,
    TowerParams,
    collect_weights,
    describe_towers,
    restore_weights,
)
from vatt.model.vatt import Vatt
from vatt.params import PRETRAINED, ClipParams, ModelParams, Section, TaskName, TaskParams
from vatt.weights.classifier import (
    ExportedClassifierParams,
    load_classifier,
    read_classifier_params,
)
from vatt.weights.export import (
    CLASSIFIER_SECTION,
    ExportedParams,
    build_untrained,
    list_misfits,
    load,
    read_export_params,
    read_params,
)
from vatt.weights.registry import CHAMPION, find_champion

WORDS = "words"
"""The tensor of a file of word vectors."""
TRAINING_ONLY = {
    *("augment", "dropout_rate", "drop_token_rate", "drop_token_draw"),
    *("num_candidates", "train_word_table"),
}
"""What may differ from the run that the weights come from: the network is the same."""
SIZES = {"num_frames", "frame_size_px", "num_samples", "num_tokens"}
"""What only the position tables depend on."""


def write_initial_weights(
    source: str, params: ExportedParams, tokenizer: AnyTokenizer, out_path: Path
) -> None:
    """Write the weights of an export as the first ones of a run with `params` and `tokenizer`.

    `source` is the folder of the export, or "champion". The new corpus may have other word
    pieces: the vectors of those that the export knows are taken over, the others start at random.
    For clips of another size the position tables are stretched by the spline (VATT section 4.1.3).

    Raises:
        StageError: the export is missing or damaged, or its network is another one.
    """
    exported = load(find_champion() if source == CHAMPION else Path(source))
    _check_same(source, "clip", exported.params.clip, params.clip)
    _check_same(source, "model", exported.params.model, params.model)
    model = build_untrained(params)
    words = _take_over_words((exported.model.words, exported.tokenizer), (model.words, tokenizer))
    weights = collect_weights(exported.model)
    for name, wanted in collect_weights(model).items():
        if ".positions.tables." in name and len(wanted) != len(weights[name]):
            weights[name] = stretch_table(weights[name], len(wanted))
    restore_weights(model, weights | {_find_words(model): words})
    save_weights(model, out_path)


def write_word_vectors(source: Path, params: ExportedParams, out_path: Path) -> None:
    """Write the random first weights of a run with `params`, but the word table of a file.

    `source` is a safetensors file with one float32 tensor `words`, a row for each id.

    Raises:
        StageError: the file cannot be read, or its tensor is not that table.
    """
    model = build_untrained(params)
    model.words.weight = nn.Parameter(_read_words(source, model.words.weight))
    save_weights(model, out_path)


def _find_words(model: Vatt) -> str:
    """Return the name of the word table."""
    return next(name for name, weight in model.named_parameters() if weight is model.words.weight)


def stretch_table(table: Float[Tensor, "K D"], num_places: int) -> Float[Tensor, "L D"]:
    """Return a table of positions for `num_places` by the spline, computed in float64."""
    return (spline_matrix(len(table), num_places) @ table.double()).to(table.dtype)


def save_weights(model: nn.Module, out_path: Path) -> None:
    """Write all weights of a model to a safetensors file."""
    weights = collect_weights(model)
    with atomic_path(out_path) as partial:
        save_file({name: tensor.detach() for name, tensor in weights.items()}, partial)


def _read_words(source: Path, like: Tensor) -> Tensor:
    """Read a table of words of the shape and type of another."""
    name = f"pretrain.word_vectors = {source}"
    try:
        tensors = load_file(source)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{name}: is not a safetensors file: {error}") from error
    if tensors.keys() != {WORDS}:
        raise StageError(f"{name}: expected one tensor `{WORDS}`, got {sorted(tensors)[:5]}")
    words: Tensor = tensors[WORDS]
    if words.shape != like.shape or words.dtype != like.dtype:
        raise StageError(
            f"{name}: expected {like.dtype} {tuple(like.shape)}, (words of the vocabulary, "
            f"model.word_width), got {words.dtype} {tuple(words.shape)}"
        )
    broken = (~words.isfinite()).any(1).nonzero().flatten().tolist()
    if broken:
        raise StageError(f"{name}: {len(broken)} rows are not finite, the first is {broken[0]}")
    return words


def _check_same(source: str, section: str, found: Section, wanted: Section) -> None:
    """Refuse an export of another network; the size of its clips, and its training, may differ."""
    for name, value in wanted:
        if name not in TRAINING_ONLY | SIZES and getattr(found, name) != value:
            raise StageError(
                f"pretrain.initial_weights = {source}: it was trained with "
                f"{section}.{name} = {getattr(found, name)}, params.yaml says {value}"
            )


def _take_over_words(
    old: tuple[nn.Embedding, AnyTokenizer], new: tuple[nn.Embedding, AnyTokenizer]
) -> Tensor:
    """Return the new table of words with the vectors of the pieces that the old one has."""
    (old_words, old_tokenizer), (new_words, new_tokenizer) = old, new
    old_ids = {piece: number for number, piece in enumerate(old_tokenizer.pieces)}
    table = new_words.weight.detach().clone()
    for number, piece in enumerate(new_tokenizer.pieces):
        if piece in old_ids:
            table[number] = old_words.weight.detach()[old_ids[piece]]
    return table


TENSOR_WIDTH, SKETCH_WIDTH, ATTENTION_LAYERS = 32, 1024, 2
"""Of the fusions: each feature before the outer product, the sketch, the layers behind the towers."""
POSITIONS = ".positions.tables."


@dataclass(frozen=True)
class Demand:
    """What a classifier is wanted for. clip: the task's; num_classes: of its label."""

    task_name: TaskName
    task: TaskParams
    clip: ClipParams
    num_classes: int


def find_source(task: TaskParams, pretrain_dir: Path) -> Path | None:
    """Return the folder whose towers a task starts from; None: they are new.

    Raises:
        StageError: the champion is wanted, and there is none yet.
    """
    initial = task.initial_weights
    if initial == PRETRAINED:
        return pretrain_dir
    if initial == CHAMPION:
        return find_champion()
    return None if initial is None else Path(initial)


def describe_classifier(
    source: Path | None, model: ModelParams, demand: Demand
) -> ClassifierParams | AudioVisualParams:
    """Return the classifier for a task whose towers are those of `source`, or of a new `model`.

    `source` is the folder of an export, or of a classifier, imported or fine-tuned. Its towers get
    the positions of clips of the task.

    Raises:
        StageError: the folder is neither, it has no tower for the task, the clips are not whole
            patches, or more layers are frozen than there are.
    """
    section = f"finetune.{demand.task_name}"
    name = f"{section}.initial_weights = {demand.task.initial_weights}"
    try:
        found = None if source is None else _read(source)
    except StageError as error:
        raise StageError(f"{name}: {error}") from error
    if isinstance(found, ExportedClassifierParams):
        towers = list_towers(found.classifier)
        shared = isinstance(found.classifier, AudioVisualParams) and found.classifier.shared_encoder
    else:
        model = model if found is None else found.model
        towers, shared = describe_towers(model), model.shared_encoder
    missing = [name for name in MODALITIES[demand.task_name] if name not in towers]
    if missing:
        raise StageError(
            f"{name}: {source} has a tower for {', '.join(towers)}, none for {', '.join(missing)}: "
            f"it cannot be fine-tuned to the task {demand.task_name}"
        )
    fitted: dict[str, TowerParams] = {
        name: _fit(towers[name], demand) for name in MODALITIES[demand.task_name]
    }
    num_layers = min(tower.size.num_layers for tower in fitted.values())
    if isinstance(demand.task.freeze, int) and demand.task.freeze > num_layers:
        raise StageError(
            f"{section}.freeze = {demand.task.freeze}: there are {num_layers} layers; accepted are "
            f"none, tower and numbers up to {num_layers}"
        )
    params = _join(fitted, demand, shared_encoder=shared)
    return apply_rates(params, demand.task.schedule)


def write_first_weights(
    source: Path, params: ClassifierParams | AudioVisualParams, seed: int, out_path: Path
) -> None:
    """Write the first weights of a classifier that `describe_classifier` gave for `source`.

    Towers are those of the source, with position tables stretched by the spline to the classifier's
    sizes; the head, and a fusion, begin at random, drawn from `seed`.

    Raises:
        StageError: the folder cannot be read, or holds another network; the difference is named.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(params)
    trained = _load_towers(source)
    for modality, tower in zip(network.modalities, network.towers, strict=True):
        if modality not in trained:
            raise StageError(f"{source}: has no tower for {modality}")
        _fill(tower, trained[modality].state_dict(), f"{source}: {modality}")
    save_weights(network, out_path)


def _read(source: Path) -> ExportedParams | ExportedClassifierParams:
    if CLASSIFIER_SECTION in read_params(source):
        return read_classifier_params(source)
    return read_export_params(source)


def _load_towers(source: Path) -> dict[str, Tower]:
    """Return the towers of an export or classifier for each modality that can be classified."""
    if CLASSIFIER_SECTION in read_params(source):
        network = load_classifier(source).model
        return dict(zip(network.modalities, network.towers, strict=True))
    model = load(source).model
    return {"video": model.video, "audio": model.audio}


def _fill(tower: Tower, weights: Mapping[str, Tensor], name: str) -> None:
    """Give a tower the weights of one that differs in the length of its position tables only."""
    fitted = dict(weights)
    wanted = tower.state_dict()
    for key, table in weights.items():
        if POSITIONS in key and key in wanted:
            fitted[key] = stretch_table(table, len(wanted[key]))
    misfits = list_misfits(fitted, wanted)
    if misfits:
        raise StageError(
            f"{name}: is another network, {len(misfits)} tensors do not fit: "
            + "; ".join(misfits[:3])
        )
    tower.load_state_dict(fitted)


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
    grid = tuple(length // points for length, points in zip(lengths, tower.patch, strict=True))
    covered = tuple(points * count for points, count in zip(tower.patch, grid, strict=True))
    # Of a spectrogram the network cuts off what does not fill a patch, as the original does.
    if 0 in grid or (covered != lengths and tower.input != "spectrogram"):
        raise StageError(
            f"finetune.{demand.task_name}: a clip of {_show(lengths)} is not whole patches of "
            f"{_show(tower.patch)} ({tower.input})"
        )
    return tower.model_copy(update={"grid": grid})


def _show(lengths: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in lengths)


def _join(
    towers: Mapping[str, TowerParams], demand: Demand, *, shared_encoder: bool
) -> ClassifierParams | AudioVisualParams:
    """Return the classifier on one tower, or on two with a fusion."""
    head: dict[str, Any] = {
        "num_classes": demand.num_classes,
        "head_dropout_rate": 0,
        "multi_label": demand.task.multi_label,
    }
    if demand.task_name == "audio_visual":
        fusion = _describe_fusion(demand.task, towers["video"])
        return AudioVisualParams(**towers, shared_encoder=shared_encoder, fusion=fusion, **head)
    (tower,) = towers.values()
    return ClassifierParams.model_validate(
        {**tower.model_dump(include=set(TowerParams.model_fields)), **head}
    )


def _describe_fusion(task: TaskParams, video: TowerParams) -> FusionParams:
    if task.fusion is None:
        raise StageError("finetune.audio_visual.fusion = null: a way to fuse is needed")
    return FusionParams(
        kind=task.fusion,
        width=TENSOR_WIDTH if task.fusion == "tensor" else SKETCH_WIDTH,
        size=video.size.model_copy(update={"num_layers": ATTENTION_LAYERS}),
        dropout_rate=video.dropout_rate,
    )
