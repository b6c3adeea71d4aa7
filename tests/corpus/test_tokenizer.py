import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vatt.core.errors import StageError
from vatt.corpus.tokenizer import (
    Tokenizer,
    WordTokenizer,
    find_tokenizer,
    open_tokenizer,
    train_tokenizer,
)

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


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(StageError, match=r"tokenizer\.model: cannot be read: No such file"):
        Tokenizer(path)
    path.write_bytes(b"\x00garbage")
    with pytest.raises(StageError, match=r"tokenizer\.model: is not a SentencePiece model"):
        Tokenizer(path)
    with pytest.raises(StageError, match=r"words\.txt: cannot be read: No such file"):
        WordTokenizer(tmp_path / "words.txt")
    with pytest.raises(StageError, match="cannot be read: Is a directory"):
        WordTokenizer(tmp_path)


WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "hello", "world", "dont", "5", "pad", "日本", "été"]
UNKNOWN_ID = 3


@pytest.fixture(scope="module")
def word_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> WordTokenizer:
    path = tmp_path_factory.mktemp("words") / "vocabulary.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return WordTokenizer(path)


def encode_slowly(text: str, num_tokens: int) -> list[int]:
    """The rules of the original, one character after the other.

    Its regular expressions, its lower case and its white space are RE2's [[:punct:]], TensorFlow's
    tf.strings.lower of bytes, and the property White_Space of Unicode.
    """
    punctuation = {*range(0x21, 0x30), *range(0x3A, 0x41), *range(0x5B, 0x61), *range(0x7B, 0x7F)}
    words = [""]
    for character in text:
        code = ord(character)
        is_space = unicodedata.category(character).startswith("Z") or code in {*range(9, 14), 0x85}
        if code in punctuation:
            continue
        if is_space:
            words.append("")
        elif 0x41 <= code <= 0x5A:
            words[-1] += chr(code + 32)
        else:
            words[-1] += character
    ids = [WORDS.index(word) if word in WORDS else UNKNOWN_ID for word in words if word]
    return (ids + [0] * num_tokens)[:num_tokens]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, WORLD!", ["hello", "world"]),
        ("don't", ["dont"]),
        ("hello-world", ["<unk>"]),  # punctuation goes, it does not part words
        ("hello — world", ["hello", "<unk>", "world"]),  # a dash beyond ASCII is a word
        ("<pad> <unk>", ["pad", "<unk>"]),  # marks cannot be written
        ("\u3000日本\u00a0hello\u2028world\n5", ["日本", "hello", "world", "5"]),
        ("été ÉTÉ", ["été", "<unk>"]),  # lower case is of ASCII only
        ("a\u200bb hel\u200blo", ["<unk>", "<unk>"]),  # no white space, whatever its name says
        ("hello\x1fworld", ["<unk>"]),  # white space of Python, not of Unicode
        ("", []),
        (" \t\n...", []),
    ],
)
def test_known_texts(word_tokenizer: WordTokenizer, text: str, expected: list[str]) -> None:
    ids = word_tokenizer.encode([text], 8)[0].tolist()
    assert ids == [WORDS.index(word) for word in expected] + [0] * (8 - len(expected))


ANY_CHARACTER = st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*WORDS, "Hello", "WORLD", "it's"]),
        st.sampled_from(" \t\n\x1c\x1f\x85\xa0\u1680\u180e\u2009\u200b\u2029\u202f\u3000.,'<>"),
        st.text(ANY_CHARACTER, max_size=5),
    )
).map("".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, max_size=4), num_tokens=st.integers(1, 6))
def test_it_equals_the_rules_of_the_original(
    word_tokenizer: WordTokenizer, texts: list[str], num_tokens: int
) -> None:
    ids = word_tokenizer.encode(texts, num_tokens)
    assert ids.dtype == torch.int64
    assert ids.shape == (len(texts), num_tokens)
    assert ids.tolist() == [encode_slowly(text, num_tokens) for text in texts]


def test_decoding_ends_at_padding_or_at_the_end(word_tokenizer: WordTokenizer) -> None:
    assert word_tokenizer.pieces == WORDS
    assert word_tokenizer.vocab_size == len(WORDS)
    assert (
        word_tokenizer.decode(word_tokenizer.encode(["Hello strange world"], 6)[0])
        == "hello <unk> world"
    )
    assert word_tokenizer.decode(torch.tensor([4, 5, 2, 4])) == "hello world"
    assert word_tokenizer.decode(torch.tensor([0, 0])) == ""


@pytest.mark.parametrize(
    "content",
    [
        b"0 <pad>\n1 <unk>\n2 hello\n3 3\n",
        b"<pad>\r\n<unk>\r\nhello\r\n3\r\n",
        b"<pad>\n<unk>\nhello\n3",
    ],
    ids=["numbered", "Windows", "no last line end"],
)
def test_forms_of_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    assert WordTokenizer(path).pieces == ["<pad>", "<unk>", "hello", "3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: expected one word .* got ''"),
        (b"<unk>\n<pad>\n", "line 1: expected <pad>, because id 0 is padding, got '<unk>'"),
        (b"\xef\xbb\xbf<pad>\n<unk>\n", r"line 1: expected <pad>.* got '\\ufeff<pad>'"),
        (b"<pad>\nhello\n", "has no line <unk>"),
        (b"<pad>\n<unk>\n\nhello\n", "line 3: expected one word .* got ''"),
        (b"<pad>\n<unk>\nhello\n\n", "line 4: expected one word .* got ''"),
        (b"<pad>\n<unk>\nhello world\n", "line 3: expected one word .* got 'hello world'"),
        (b"0 <pad>\n1 <unk>\n3 hello\n", "line 3: expected one word .* got '3 hello'"),
        (b"<pad>\n<unk>\na\nb\na\n", "line 5: 'a' stands in line 3 already"),
        (b"<pad>\n<unk>\ncaf\xe9\n", r"line 3: is not UTF-8: b'caf\\xe9'"),
        (b"<pad>\n<unk>\n\xff\xfe\x00" + b"x" * 10_000, r"line 3: is not UTF-8: .{,300}$"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    with pytest.raises(StageError, match=rf"vocabulary\.txt: {message}"):
        WordTokenizer(path)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(StageError, match="200000000 bytes are no vocabulary; at most 100000000"):
        WordTokenizer(path)
    path.write_bytes(b"\n" * 3_000_000)
    with pytest.raises(StageError, match="3000000 lines; a vocabulary has at most 2000000"):
        WordTokenizer(path)


def test_the_opener_takes_what_lies_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"has no tokenizer\.model or vocabulary\.txt"):
        open_tokenizer(tmp_path)
    vocabulary_path, model_path = tmp_path / "vocabulary.txt", tmp_path / "tokenizer.model"
    vocabulary_path.write_text("<pad>\n<unk>\nhello\n")
    assert find_tokenizer(tmp_path) == vocabulary_path
    assert isinstance(open_tokenizer(tmp_path), WordTokenizer)
    train_tokenizer(model_path, ["hello"], 400)
    with pytest.raises(StageError, match=r"has both tokenizer\.model and vocabulary\.txt"):
        open_tokenizer(tmp_path)
    vocabulary_path.unlink()
    assert find_tokenizer(tmp_path) == model_path
    assert isinstance(open_tokenizer(tmp_path), Tokenizer)
