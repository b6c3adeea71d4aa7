"""Texts to ids by the tokenizer of a corpus; `open_tokenizer` opens either of two kinds.

`Tokenizer` is the default: word pieces of the corpus, lower-cased, and bytes for all else. Differs
from the paper, whose 65536 English words with one id for all others (VATT section 4.1) are those of
`WordTokenizer`.
"""

import re
import string
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Final

import sentencepiece
import torch
from jaxtyping import Int
from torch import Tensor

from vatt.core.errors import StageError

TOKENIZER_NAME: Final = "tokenizer.model"
VOCABULARY_NAME: Final = "vocabulary.txt"
PAD_ID = 0
"""The id of padding in both kinds and in the models."""

UNKNOWN_ID = 1
NUM_BYTES = 256
MAX_SENTENCES = 1_000_000
"""The tokenizer is trained on the first ones; more would not change it and need much memory."""
MAX_CHARACTERS = 1000
"""The length of a sentence; SentencePiece leaves out sentences above 4192 bytes."""
ALPHABET = " ".join(string.ascii_lowercase)
"""Stands among the sentences, so that a corpus without text has a tokenizer, too."""
RULE = "nmt_nfkc_cf"
"""Unicode compatibility forms, lower case."""
INVISIBLE = dict.fromkeys([0xAD, 0x61C, 0x200E, 0x200F, 0x2060, *range(0x202A, 0x202F), 0xFEFF])
INVISIBLE |= dict.fromkeys(range(0x2066, 0x206A))
"""Marks of direction and of where a word may break, which the rule keeps or makes spaces of.
Captions in Hebrew and Arabic have two on each line: six pieces of the 16 that a clip reads."""

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
MAX_BYTES = 100_000_000
MAX_WORDS = 2_000_000
"""Larger files are no vocabulary; the original has 65536 words."""
SHOWN = 60
"""How many characters of a wrong line a message shows."""
# As in the original, all three know ASCII only, except that every space of Unicode parts words.
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
SPACES = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


class AnyTokenizer(ABC):
    """Texts to ids; id 0 is padding, and there are no marks of begin or end."""

    pieces: list[str]
    """The word pieces or words, in the order of their ids."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; all ids are below it."""
        return len(self.pieces)

    def encode(self, texts: Sequence[str], num_tokens: int) -> Int[Tensor, "P L"]:
        """Return the ids of texts, cut or padded with 0 to `num_tokens`; an empty text is all 0."""
        rows = torch.full((len(texts), num_tokens), PAD_ID)
        for row, text in zip(rows, texts, strict=True):
            ids = self._list_ids(text, num_tokens)
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return rows

    @abstractmethod
    def _list_ids(self, text: str, num_tokens: int) -> list[int]:
        """Return the ids of a text, the first `num_tokens` at most."""

    @abstractmethod
    def decode(self, ids: Int[Tensor, "L"]) -> str:
        """Return the text of ids, without padding."""


class Tokenizer(AnyTokenizer):
    """Texts to word pieces of a SentencePiece model, lower-cased; StageError if it is none."""

    def __init__(self, path: Path) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(
                model_proto=path.read_bytes(), num_threads=1
            )
        except OSError as error:
            raise StageError(f"{path}: cannot be read: {error.strerror}") from error
        except RuntimeError as error:
            raise StageError(f"{path}: is not a SentencePiece model: {error}") from error
        numbers = range(self._processor.vocab_size())
        self.pieces = [str(self._processor.id_to_piece(number)) for number in numbers]

    def _list_ids(self, text: str, num_tokens: int) -> list[int]:
        text = text.translate(INVISIBLE)
        ids: list[int] = self._processor.encode(text)  # a list would start threads for each call
        return ids[:num_tokens]

    def decode(self, ids: Int[Tensor, "L"]) -> str:
        """Return the text of ids, lower-cased, without padding."""
        return str(self._processor.decode([i for i in ids.tolist() if i != PAD_ID]))


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
    visible = [sentence.translate(INVISIBLE) for sentence in sentences]
    normal = sentencepiece.SentencePieceNormalizer(rule_name=RULE).normalize(visible)
    counts = Counter(chain.from_iterable(normal))
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    kept = {*ordered[: (vocab_size - NUM_BYTES) // 2]}
    return ["".join(c if c in kept else " " for c in sentence) for sentence in normal]


class WordTokenizer(AnyTokenizer):
    """Texts to whole words of a vocabulary file, by the rules of the original.

    Punctuation is deleted ("don't" is the word "dont"), then A to Z become a to z, then words are
    parted at spaces. A word that is not in the vocabulary has the id of <unk>. What
    `read_vocabulary` refuses is a StageError.
    """

    def __init__(self, path: Path) -> None:
        self.pieces = read_vocabulary(path)
        normal = [unicodedata.normalize("NFC", word) for word in self.pieces]
        self._ids = {word: number for number, word in reversed([*enumerate(normal)])}

    def _list_ids(self, text: str, num_tokens: int) -> list[int]:
        plain = text.translate(WITHOUT_PUNCTUATION).translate(LOWER)
        words = [word for word in SPACES.split(plain) if word]
        return [self._find(word) for word in words[:num_tokens]]

    def _find(self, word: str) -> int:
        """Return the id of a word; accents have two forms in Unicode, and either one is found."""
        return self._ids.get(unicodedata.normalize("NFC", word), self._ids[UNKNOWN])

    def decode(self, ids: Int[Tensor, "L"]) -> str:
        """Return the words of ids up to the first <pad> or <eos>, with a space between them."""
        words = [self.pieces[number] for number in ids.tolist()]
        return " ".join(takewhile(lambda word: word not in {PAD, END}, words))


def read_vocabulary(path: Path) -> list[str]:
    """Read a vocabulary file: UTF-8, a word a line, <pad> first and <unk> anywhere.

    A line may also be the number of the line, from 0, a space and the word.

    Raises:
        StageError: the file cannot be read or is no vocabulary; the message names the line.
    """
    try:
        num_bytes = path.stat().st_size
        content = path.read_bytes() if num_bytes <= MAX_BYTES else b""
    except OSError as error:
        raise StageError(f"{path}: cannot be read: {error.strerror}") from error
    if num_bytes > MAX_BYTES:
        raise StageError(
            f"{path}: {num_bytes} bytes are no vocabulary; at most {MAX_BYTES} are read"
        )
    lines = content.removesuffix(b"\n").split(b"\n")
    if len(lines) > MAX_WORDS:
        raise StageError(f"{path}: {len(lines)} lines; a vocabulary has at most {MAX_WORDS}")
    words: dict[str, int] = {}
    for number, encoded in enumerate(lines):
        place = f"{path}: line {number + 1}"
        try:
            line = encoded.decode("utf-8")
        except UnicodeDecodeError as error:
            raise StageError(f"{place}: is not UTF-8: {encoded[:SHOWN]!r}") from error
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
    """Open the tokenizer of a preprocessed corpus or of an export; StageError as `find_tokenizer`.

    A file that is damaged is a StageError, too.
    """
    path = find_tokenizer(directory)
    return WordTokenizer(path) if path.name == VOCABULARY_NAME else Tokenizer(path)
