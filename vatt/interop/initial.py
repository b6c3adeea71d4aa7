"""The first weights of a training run that are not random: from an export, or a table of words."""

from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vatt.atomic import atomic_path
from vatt.data.tokenizer import AnyTokenizer
from vatt.interop.export import ExportedParams, build_untrained, load
from vatt.interop.registry import CHAMPION, find_champion
from vatt.models.positions import spline_matrix
from vatt.models.tower import collect_weights, restore_weights
from vatt.models.vatt import Vatt
from vatt.params import Section, StageError

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
