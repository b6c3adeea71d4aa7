from itertools import chain, pairwise

import av
import numpy as np
import pytest

from vatt.preprocess.analysis import Heard, Listener
from vatt.preprocess.hashes import (
    NOTHING,
    BandMeter,
    hash_picture,
    hash_pictures,
    seconds_within,
)


def bits_between(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def mean_bits(ones: list[str], others: list[str]) -> float:
    return float(np.mean([bits_between(*pair) for pair in zip(ones, others, strict=False)]))


def draw(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """A picture of some soft blobs of colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / height
    picture = np.zeros((height, width, 3))
    for _ in range(12):
        place = rng.uniform(0, 1.3, 2)
        blob = np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / rng.uniform(0.01, 0.1))
        picture += rng.uniform(-1, 1, 3) * blob[..., None]
    return np.clip(128 + 90 * picture, 0, 255).astype(np.uint8)


def play(seed: int, duration_s: float) -> np.ndarray:
    """Tones that come and go, at 48 kHz."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(round(duration_s * 48_000)) / 48_000
    sound = rng.normal(0, 0.002, len(times_s))
    for start_s in np.arange(0, duration_s, 0.2):
        tone = np.sin(2 * np.pi * rng.choice([220, 330, 500, 800, 1300, 2500, 4000]) * times_s)
        sound += rng.uniform(0, 0.15) * tone * np.exp(-(((times_s - start_s) / 0.15) ** 2))
    return (32767 * np.clip(sound, -1, 1)).astype(np.int16)


def hear(start_s: float, *parts: np.ndarray) -> Heard:
    listener = Listener()
    for part in parts:
        listener.hear(start_s, part)
        start_s += len(part) / 48_000
    heard = listener.finish()
    assert heard is not None
    return heard


def listen(samples: np.ndarray, cuts: tuple[int, ...] = ()) -> list[str]:
    return hear(0.0, *np.split(samples, cuts)).hashes


def test_a_picture_in_another_form_has_nearly_the_same_hash() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        picture = draw(seed)
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        smaller = frame.reformat(60, 46).to_ndarray(format="rgb24")
        darker = (picture * 0.8 + 5).astype(np.uint8)
        noisy = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
        for other in (smaller, darker, noisy):
            assert bits_between(hash_picture(picture), hash_picture(other)) <= 8
        assert bits_between(hash_picture(picture), hash_picture(draw(seed + 100))) > 14


def test_flat_pictures_have_no_hash() -> None:
    assert hash_picture(np.full((40, 50, 3), 200, np.uint8)) == NOTHING


@pytest.mark.parametrize(
    ("start_s", "num_pictures", "places"),
    [(0.0, 20, [0, 5, 10, 15]), (3.4, 10, [3, 8]), (4.0, 3, [0]), (4.2, 3, []), (2.8, 6, [1])],
)
def test_pictures_are_taken_at_whole_seconds(
    start_s: float, num_pictures: int, places: list[int]
) -> None:
    pictures = [draw(seed) for seed in range(num_pictures)]
    found = hash_pictures(pictures, start_s, frame_rate_hz=5.0)
    assert found == [hash_picture(pictures[place]) for place in places]
    assert hash_pictures([None] * num_pictures, start_s, 5.0) == [NOTHING] * len(places)


def test_each_second_belongs_to_one_piece() -> None:
    edges_s = np.cumsum([0.0, 2.56, 2.56, 0.04, 3.0, 1.84])
    pieces = [list(seconds_within(*pair)) for pair in pairwise(edges_s)]
    assert list(chain.from_iterable(pieces)) == list(range(10))


def test_a_sound_in_another_form_has_nearly_the_same_hashes() -> None:
    rng = np.random.default_rng(0)
    for seed in range(2):
        sound = play(seed, 10.0)
        hashes = listen(sound)
        assert len(hashes) == 7  # the last begins 3 s before the end
        quieter = (sound * 0.3).astype(np.int16)
        noisy = (sound + rng.normal(0, 40, len(sound))).astype(np.int16)
        for other in (quieter, noisy):
            assert len(listen(other)) == 7
            assert mean_bits(hashes, listen(other)) < 8
        assert mean_bits(hashes, listen(play(seed + 100, 10.0))) > 14


def test_a_copy_that_starts_a_little_later_has_similar_hashes() -> None:
    sound = play(1, 12.0)
    assert mean_bits(listen(sound), listen(sound[round(0.25 * 48_000) :])) < 13


def test_silence_has_no_hash_and_short_sounds_have_none() -> None:
    assert set(listen(np.zeros(5 * 48_000, np.int16))) == {NOTHING}
    assert listen(play(0, 2.5)) == []
    assert listen(np.ones(3, np.int16)) == []


def test_gaps_between_pieces_are_silence() -> None:
    sound = play(2, 8.0)
    heard = hear(4.0, sound)
    whole = np.concatenate([np.zeros(4 * 48_000, np.int16), sound])
    assert heard.hashes == listen(whole) == listen(whole, (5, 100_000, 300_001))
    assert heard.cut_hashes(4.0, 6.0) == "".join(heard.hashes[4:6])
    assert heard.cut_hashes(8.0, 12.0) == "".join(heard.hashes[8:]) + 3 * NOTHING
    assert Listener().finish() is None


def test_bands_are_those_of_a_plain_transform() -> None:
    sound = play(3, 3.0)[::3].astype(np.float32) / 32768
    found = BandMeter().hear(sound)
    assert found.shape == ((48_000 - 4000) // 1000 + 1, 32)
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    loudest = BandMeter().hear(tone).mean(axis=0).argmax()
    edges_hz = np.geomspace(150, 6000, 33)
    assert edges_hz[loudest] - 4 < 1000 < edges_hz[loudest + 1] + 4
