"""Text: a SentencePiece model of the corpus, lower-cased, with bytes for what it never saw.

Differs from the paper: its 65536 English words with one id for all others (VATT section 4.1) are
`vatt.corpus.tokenizer`. `open_tokenizer` opens either.

Text by the rules of the original: words of a vocabulary file, one id for all others (VATT section 4.1).
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from string import ascii_lowercase
from typing import Final

import sentencepiece
import torch
from jaxtyping import Int
from torch import Tensor

from vatt.core.errors import StageError

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


TOKENIZER_NAME: Final = "tokenizer.model"
VOCABULARY_NAME: Final = "vocabulary.txt"
PAD_ID = 0
UNKNOWN_ID = 1
NUM_BYTES = 256
MAX_SENTENCES = 1_000_000
"""The tokenizer is trained on the first ones; more would not change it and need much memory."""
MAX_CHARACTERS = 1000
"""Of one sentence; SentencePiece leaves out sentences above 4192 bytes."""
ALPHABET = " ".join(ascii_lowercase)
"""Always among the sentences, so that a corpus without text has a tokenizer, too."""
RULE = "nmt_nfkc_cf"
"""Unicode compatibility forms, lower case."""


def train_tokenizer(path: Path, texts: Iterable[str], vocab_size: int) -> int:
    """Train on texts and write the model; returns its number of pieces.

    The same texts give the same bytes. A corpus with few words gets fewer than `vocab_size` pieces.
    """
    sentences = [ALPHABET, *(text[:MAX_CHARACTERS] for text in islice(texts, MAX_SENTENCES))]
    file = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_drop_rare_characters(sentences, vocab_size)),
        model_writer=file,
        model_type="bpe",  # keeps frequent words whole, of small corpora too
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name=RULE,
        pad_id=PAD_ID,
        unk_id=UNKNOWN_ID,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(file.getvalue())
    return Tokenizer(path).vocab_size


def _drop_rare_characters(sentences: list[str], vocab_size: int) -> list[str]:
    """Leave to the bytes what would take more than half of the pieces that are not bytes.

    SentencePiece refuses a corpus that has more different characters than pieces.
    """
    normal = sentencepiece.SentencePieceNormalizer(rule_name=RULE).normalize(sentences)
    counts = Counter(chain.from_iterable(normal))
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    kept = {*ordered[: (vocab_size - NUM_BYTES) // 2]}
    return ["".join(c if c in kept else " " for c in sentence) for sentence in normal]


class Tokenizer:
    """Texts to word pieces; id 0 is padding, and there are no marks of begin or end."""

    def __init__(self, path: Path) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(
                model_proto=path.read_bytes(), num_threads=1
            )
        except OSError as error:
            raise StageError(f"{path}: cannot be read: {error.strerror}") from error
        except RuntimeError as error:
            raise StageError(f"{path}: is not a SentencePiece model: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Number of ids; all ids are below it."""
        return int(self._processor.vocab_size())

    @property
    def pieces(self) -> list[str]:
        """The word pieces, in the order of their ids."""
        return [str(self._processor.id_to_piece(number)) for number in range(self.vocab_size)]

    def encode(self, texts: Sequence[str], num_tokens: int) -> Int[Tensor, "P L"]:
        """Return the ids of texts, cut or padded with 0 to `num_tokens`; an empty text is all 0."""
        rows = torch.full((len(texts), num_tokens), PAD_ID)
        for row, text in zip(rows, texts, strict=True):
            ids = self._processor.encode(text)[:num_tokens]  # a list starts threads for each call
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return rows

    def decode(self, ids: Int[Tensor, "L"]) -> str:
        """Return the text of ids, lower-cased; padding is left out."""
        return str(self._processor.decode([i for i in ids.tolist() if i != PAD_ID]))


AnyTokenizer = Tokenizer | WordTokenizer


def find_tokenizer(directory: Path) -> Path:
    """Return the file in a folder that `open_tokenizer` opens: SentencePiece or a vocabulary.

    Raises:
        StageError: there is none, or there are both.
    """
    names = (TOKENIZER_NAME, VOCABULARY_NAME)
    found = [directory / name for name in names if (directory / name).is_file()]
    if not found:
        raise StageError(
            f"{directory}: has no {' or '.join(names)}; run `python -m vatt preprocess`"
        )
    if len(found) > 1:
        raise StageError(f"{directory}: has both {' and '.join(names)}; remove the wrong one")
    return found[0]


def open_tokenizer(directory: Path) -> AnyTokenizer:
    """Open the tokenizer that lies in a folder, of a preprocessed corpus or of an export.

    Raises:
        StageError: there is none, there are both, or it is damaged.
    """
    path = find_tokenizer(directory)
    return WordTokenizer(path) if path.name == VOCABULARY_NAME else Tokenizer(path)
