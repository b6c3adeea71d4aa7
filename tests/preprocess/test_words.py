"""Words per second, in languages with spaces between words and without."""

import unicodedata

import pytest

from tests.languages import LANGUAGES
from vatt.preprocess.words import count_words


@pytest.mark.parametrize(
    ("text", "num_words"),
    [
        ("now we wash the lettuce", 5),
        ("now - we wash ... ♪ the lettuce!", 5),
        ("d'abord, l’été", 2),
        ("שופכים לתוך הקערה", 3),
        ("", 0),
        ("🔪🍅", 0),
        ("现在洗绿色的生菜。", 8 / 1.5),
        ("カレー", 3 / 1.5),
        ("ｶﾚｰ 2", 3 / 1.5 + 1),
        ("빨간 토마토", 5 / 1.5),
        ("빨간토마토", 5 / 1.5),
        ("ใส่เกลือ", 6 / 3),
        ("iPhone 手机", 1 + 2 / 1.5),
    ],
)
def test_words_are_counted(text: str, num_words: float) -> None:
    for form in ("NFC", "NFD"):
        assert count_words(unicodedata.normalize(form, text)) == pytest.approx(num_words)


@pytest.mark.parametrize("name", [name for name in LANGUAGES if name != "emoji"])
def test_the_same_said_in_any_language_has_about_as_many_words(name: str) -> None:
    """By spaces, the Chinese and Thai texts would have one word each."""
    english = sum(map(count_words, LANGUAGES["English"]))
    assert english / 2 < sum(map(count_words, LANGUAGES[name])) < english * 1.6
