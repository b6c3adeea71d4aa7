"""Whatever the script, a tokenizer keeps all that a person would read."""

import unicodedata
from pathlib import Path
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.languages import LANGUAGES
from vatt.corpus.tokenizer import Tokenizer, WordTokenizer, train_tokenizer

MORE = [
    *("안녕하세요", "ﾌﾗｲﾊﾟﾝ", "Straße", "شَاهِدْ", "שָׁלוֹם", "पहले कड़ाही", "ပထမ", "ដំបូង"),
    *("Ωμέγα", "Ёлка", "İstanbul", "🇫🇷 👨‍👩‍👧‍👦", "l’été", "𠮷野家"),
]
TEXTS = [*MORE, *(text for language in LANGUAGES.values() for text in language)]
Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, ...] = get_args(Form)


@pytest.fixture(scope="module", params=["of these languages", "of English alone"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    texts = TEXTS if request.param == "of these languages" else LANGUAGES["English"]
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(path, texts, vocab_size=1500)
    return Tokenizer(path)


def read(tokenizer: Tokenizer, text: str) -> list[int]:
    return [number for number in tokenizer.encode([text], 512)[0].tolist() if number]


def fold(text: str) -> str:
    """Return a text as people compare it: compatibility forms, lower case."""
    # SentencePiece keeps the Turkish capital I with a dot.
    parts = unicodedata.normalize("NFKC", text).split("İ")
    return "İ".join(part.lower() for part in parts)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", TEXTS)
def test_every_script_survives_in_both_normal_forms(
    tokenizer: Tokenizer, text: str, form: Form
) -> None:
    ids = read(tokenizer, unicodedata.normalize(form, text))
    assert ids == read(tokenizer, text)
    assert tokenizer.decode(tokenizer.encode([text], 512)[0]) == fold(text)


@given(st.text(st.characters(categories=["L", "M", "N", "So"]), min_size=1, max_size=30))
def test_letters_of_any_script_are_never_unknown(tokenizer: Tokenizer, text: str) -> None:
    assert "<unk>" not in [tokenizer.pieces[number] for number in read(tokenizer, text)]


@pytest.mark.parametrize("text", [*LANGUAGES["Hebrew"], *LANGUAGES["Arabic"], "שלום abc"])
def test_marks_of_direction_take_no_place(tokenizer: Tokenizer, text: str) -> None:
    first, rest = text[:2], text[2:]  # as sites write them, around a line, and as editors do
    for marked in (
        f"\u202b{text}\u202c",
        f"\u2067{text}\u2069",
        f"\u200f{first}\u200e{rest}\u061c",
    ):
        assert read(tokenizer, marked) == read(tokenizer, text)


def test_a_joiner_that_parts_a_persian_word_is_a_space(tokenizer: Tokenizer) -> None:
    assert read(tokenizer, "می\u200cخواهم") == read(tokenizer, "می خواهم")


@pytest.mark.parametrize("name", LANGUAGES)
def test_sixteen_pieces_tell_the_texts_of_a_corpus_apart(name: str, tmp_path: Path) -> None:
    train_tokenizer(tmp_path / "tokenizer.model", LANGUAGES[name], vocab_size=512)
    rows = Tokenizer(tmp_path / "tokenizer.model").encode(LANGUAGES[name], 16)
    assert len({tuple(row.tolist()) for row in rows}) == 4


def test_words_of_a_vocabulary_are_found_in_both_normal_forms(tmp_path: Path) -> None:
    words = ["<pad>", "<unk>", unicodedata.normalize("NFC", "été"), "한국어"]
    for form in FORMS:
        content = unicodedata.normalize(form, "\n".join(words))
        (tmp_path / "vocabulary.txt").write_text(content, encoding="utf-8")
        tokenizer = WordTokenizer(tmp_path / "vocabulary.txt")
        for other in FORMS:
            text = unicodedata.normalize(other, "été 한국어 안녕")
            assert tokenizer.encode([text], 4)[0].tolist() == [2, 3, 1, 0]
