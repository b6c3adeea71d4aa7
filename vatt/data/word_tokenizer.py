"""Text by the rules of the original: words of a vocabulary file, one id for all others (VATT section 4.1)."""

import re
import string
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from vatt.params import StageError

PAD = "<pad>"
UNKNOWN = "<unk>"
END = "<eos>"
PAD_ID = 0
"""The models take id 0 for padding."""
MAX_BYTES = 100_000_000
MAX_WORDS = 2_000_000
"""Larger files are no vocabulary; the original has 65536 words."""
SHOWN = 60
"""Characters of a wrong line in a message."""

# As in the original, all three know ASCII only, except that every space of Unicode parts words.
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
SPACES = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


class WordTokenizer:
    """Texts to ids of whole words; id 0 is padding, and there are no marks of begin or end.

    Punctuation is deleted ("don't" is the word "dont"), then A to Z become a to z, then words are
    parted at spaces. A word that is not in the vocabulary has the id of <unk>.

    Raises:
        StageError: the file cannot be read or is no vocabulary; the message names the line.
    """

    def __init__(self, path: Path) -> None:
        self.pieces = read_vocabulary(path)
        self._ids = {word: number for number, word in enumerate(self.pieces)}
        self._unknown_id = self._ids[UNKNOWN]

    @property
    def vocab_size(self) -> int:
        """Number of ids; all ids are below it."""
        return len(self.pieces)

    def encode(self, texts: Sequence[str], num_tokens: int) -> Int[Tensor, "P L"]:
        """Return the ids of texts, cut or padded with 0 to `num_tokens`; an empty text is all 0."""
        rows = torch.full((len(texts), num_tokens), PAD_ID)
        for row, text in zip(rows, texts, strict=True):
            ids = [self._ids.get(word, self._unknown_id) for word in split_words(text)[:num_tokens]]
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return rows

    def decode(self, ids: Int[Tensor, "L"]) -> str:
        """Return the words of ids up to the first <pad> or <eos>, with a space between them."""
        words = [self.pieces[number] for number in ids.tolist()]
        ends = [place for place, word in enumerate(words) if word in {PAD, END}]
        return " ".join(words[: ends[0] if ends else None])


def split_words(text: str) -> list[str]:
    """Return the words of a text, by the rules of the original."""
    plain = text.translate(WITHOUT_PUNCTUATION).translate(LOWER)
    return [word for word in SPACES.split(plain) if word]


def read_vocabulary(path: Path) -> list[str]:
    """Read a vocabulary file: UTF-8, a word a line, <pad> first and <unk> anywhere.

    A line may also be the number of the line, from 0, a space and the word.

    Raises:
        StageError: the file cannot be read or is no vocabulary; the message names the line.
    """
    words: dict[str, int] = {}
    for number, line in enumerate(_read_lines(path)):
        place = f"{path}: line {number + 1}"
        first, _, rest = line.strip().partition(" ")
        word = rest if rest and first == str(number) else line.strip()
        if not word or " " in word:
            raise StageError(
                f"{place}: expected one word (or {number} and a word), got {line[:SHOWN]!r}"
            )
        if number == PAD_ID and word != PAD:
            raise StageError(
                f"{place}: expected {PAD}, because id 0 is padding, got {word[:SHOWN]!r}"
            )
        if word in words:
            raise StageError(f"{place}: {word[:SHOWN]!r} stands in line {words[word] + 1} already")
        words[word] = number
    if UNKNOWN not in words:
        raise StageError(f"{path}: has no line {UNKNOWN}, the word for all that are not listed")
    return list(words)


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a file of plausible size."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_BYTES:
            raise StageError(
                f"{path}: {num_bytes} bytes are no vocabulary; at most {MAX_BYTES} are read"
            )
        content = path.read_bytes()
    except OSError as error:
        raise StageError(f"{path}: cannot be read: {error.strerror}") from error
    lines = content.removesuffix(b"\n").split(b"\n")
    if len(lines) > MAX_WORDS:
        raise StageError(f"{path}: {len(lines)} lines; a vocabulary has at most {MAX_WORDS}")
    return [_decode_line(path, number, line) for number, line in enumerate(lines)]


def _decode_line(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StageError(f"{path}: line {number + 1}: is not UTF-8: {line[:SHOWN]!r}") from error
