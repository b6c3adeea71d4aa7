"""First weights from an export whose tokenizer knows other words."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.interop.test_export import PARAMS
from vatt.data.tokenizer import Tokenizer, train_tokenizer
from vatt.interop.export import ExportedParams, build_untrained, save_export
from vatt.interop.initial import write_initial_weights


def make_tokenizer(path: Path, words: list[str]) -> tuple[Tokenizer, ExportedParams]:
    train_tokenizer(path, [f"{word} {other}" for word in words for other in words], 300)
    tokenizer = Tokenizer(path)
    return tokenizer, PARAMS.model_copy(update={"vocab_size": tokenizer.vocab_size})


def test_known_words_keep_their_vectors_and_new_ones_start_at_random(tmp_path: Path) -> None:
    old, old_params = make_tokenizer(tmp_path / "old", ["bird", "sings", "drum"])
    new, new_params = make_tokenizer(tmp_path / "new", ["zebra", "sings", "quiz", "walks"])
    model = build_untrained(old_params)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    save_export(tmp_path / "export", model, old_params, tmp_path / "old")

    write_initial_weights(str(tmp_path / "export"), new_params, new, tmp_path / "out")

    found, trained = load_file(tmp_path / "out"), model.state_dict()
    fresh = build_untrained(new_params).state_dict()["text.stem.words.weight"]
    words = found.pop("text.stem.words.weight")
    known = [piece for piece in new.pieces if piece in old.pieces]
    assert 0 < len(known) < len(new.pieces)
    for number, piece in enumerate(new.pieces):
        if piece in known:
            expected = trained["text.stem.words.weight"][old.pieces.index(piece)]
        else:
            expected = fresh[number]
        assert torch.equal(words[number], expected), piece
    for name, weight in found.items():
        assert torch.equal(weight, trained[name]), name
