"""How many words a text has, also in a language that puts no spaces between them.

Words per second say whether a caption can be said in its time, so a word is what takes as long to
say as an English one: 1.5 syllables. Where each character is a syllable, as in Chinese, Korean or
the Japanese kana, 1.5 of them count as a word, whether or not there are spaces (Korean is written
with and without). In Thai, Lao, Tibetan, Burmese and Khmer, whose characters are sounds, 3 letters
do. Mandarin at its usual 5.2 syllables a second so has 3.5 words a second, as English has.
"""

import re
import unicodedata

SYLLABLES = re.compile(
    "[\u1100-\u11ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
SOUNDS = re.compile("[\u0e00-\u109f\u1780-\u17ff]")
CHARACTERS_PER_WORD = ((SYLLABLES, 1.5), (SOUNDS, 3.0))


def count_words(text: str) -> float:
    """Return the number of words; what holds no letter and no digit, such as a dash, is none."""
    text = unicodedata.normalize("NFKC", text)  # Korean may come in single letters
    num_words = 0.0
    for characters, per_word in CHARACTERS_PER_WORD:
        num_words += sum(map(str.isalpha, characters.findall(text))) / per_word
        text = characters.sub(" ", text)
    return num_words + sum(any(map(str.isalnum, word)) for word in text.split())
