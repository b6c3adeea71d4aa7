"""The first weights of a training run, taken from an earlier export."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from vatt.atomic import atomic_path
from vatt.data.tokenizer import AnyTokenizer
from vatt.interop.export import ExportedParams, build_untrained, load
from vatt.interop.registry import CHAMPION, find_champion
from vatt.models.tower import collect_weights
from vatt.params import Section, StageError

TRAINING_ONLY = {"augment", "dropout_rate", "drop_token_rate"}
"""What may differ from the run that the weights come from: the network is the same."""


def write_initial_weights(
    source: str, params: ExportedParams, tokenizer: AnyTokenizer, out_path: Path
) -> None:
    """Write the weights of an export as the first ones of a run with `params` and `tokenizer`.

    `source` is the folder of the export, or "champion". The new corpus may have other word
    pieces: the vectors of those that the export knows are taken over, the others start at random.

    Raises:
        StageError: the export is missing or damaged, or its clip or network is another one.
    """
    exported = load(find_champion() if source == CHAMPION else Path(source))
    _check_same(source, "clip", exported.params.clip, params.clip)
    _check_same(source, "model", exported.params.model, params.model)
    model = build_untrained(params)
    words = _take_over_words((exported.model.words, exported.tokenizer), (model.words, tokenizer))
    model = exported.model
    model.words.weight = nn.Parameter(words)
    weights = collect_weights(model)
    with atomic_path(out_path) as partial:
        save_file({name: tensor.detach() for name, tensor in weights.items()}, partial)


def _check_same(source: str, section: str, found: Section, wanted: Section) -> None:
    """Refuse an export made for another clip size or network; how it is trained may differ."""
    for name, value in wanted:
        if name not in TRAINING_ONLY and getattr(found, name) != value:
            raise StageError(
                f"pretrain.initial_weights = {source}: it was trained with "
                f"{section}.{name} = {getattr(found, name)}, params.yaml says {value}"
            )


def _take_over_words(
    old: tuple[nn.Embedding, AnyTokenizer], new: tuple[nn.Embedding, AnyTokenizer]
) -> torch.Tensor:
    """Return the new table of words with the vectors of the pieces that the old one has."""
    (old_words, old_tokenizer), (new_words, new_tokenizer) = old, new
    old_ids = {piece: number for number, piece in enumerate(old_tokenizer.pieces)}
    table = new_words.weight.detach().clone()
    for number, piece in enumerate(new_tokenizer.pieces):
        if piece in old_ids:
            table[number] = old_words.weight.detach()[old_ids[piece]]
    return table
