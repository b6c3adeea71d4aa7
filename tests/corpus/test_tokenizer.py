from pathlib import Path

import pytest
import torch

from vatt.core.errors import StageError
from vatt.corpus.tokenizer import Tokenizer, train_tokenizer

SENTENCES = [
    f"the {colour} {thing} {verb}"
    for colour in ("red", "green", "blue")
    for thing in ("ball", "box", "wheel")
    for verb in ("moves left", "moves right", "spins slowly")
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(path, SENTENCES, vocab_size=512)
    return Tokenizer(path)


@pytest.mark.parametrize(
    "text", ["the red ball moves left", "unseen wörds, 42!", "日本語 🎬", "line\u2028end"]
)
def test_any_text_survives_in_lower_case(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode([text.upper()], 64)[0]
    assert tokenizer.decode(ids) == text.replace("\u2028", " ")


def test_long_texts_are_cut_and_short_ones_padded_with_zero(tokenizer: Tokenizer) -> None:
    whole = tokenizer.encode(["the red ball moves left"], 16)
    assert (whole != 0).sum() == 5  # words of the corpus are whole pieces
    ids = tokenizer.encode(["the red ball moves left", "the", ""], 3)
    assert ids.dtype == torch.int64
    assert ids.shape == (3, 3)
    torch.testing.assert_close(ids[0], whole[0, :3])
    assert ids[1].tolist() == [int(whole[0, 0]), 0, 0]
    assert ids[2].tolist() == [0, 0, 0]


def test_ids_are_below_the_size_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(SENTENCES, 16).max() < tokenizer.vocab_size == len(tokenizer.pieces)
    assert tokenizer.pieces[:2] == ["<pad>", "<unk>"]


def test_same_texts_give_same_bytes(tmp_path: Path) -> None:
    models = []
    for name in ("one", "two"):
        train_tokenizer(tmp_path / name, SENTENCES, 512)
        models.append((tmp_path / name).read_bytes())
    assert models[0] == models[1]


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["", "  ", "\u200b"],
        ["a" * 100_000],
        ["".join(chr(0x4E00 + 7 * line + place) for place in range(20)) for line in range(400)],
    ],
    ids=["none", "empty", "long", "thousands of characters"],
)
def test_odd_corpora_get_a_tokenizer(texts: list[str], tmp_path: Path) -> None:
    vocab_size = train_tokenizer(tmp_path / "tokenizer.model", texts, 400)
    tokenizer = Tokenizer(tmp_path / "tokenizer.model")
    assert vocab_size == tokenizer.vocab_size <= 400
    assert tokenizer.decode(tokenizer.encode(["some text 龍"], 32)[0]) == "some text 龍"


def test_a_missing_or_damaged_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(StageError, match=r"tokenizer\.model: cannot be read: No such file"):
        Tokenizer(path)
    path.write_bytes(b"\x00garbage")
    with pytest.raises(StageError, match=r"tokenizer\.model: is not a SentencePiece model"):
        Tokenizer(path)
