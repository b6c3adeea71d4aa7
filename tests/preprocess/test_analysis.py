"""What is measured of pictures, sound and captions is what a person would say of them."""

import math
from functools import cache
from itertools import chain, pairwise

import av
import numpy as np
import pytest
import silero_vad
import torch

from tests.speech import CHARACTERS_PER_SECOND, Speech, say
from vatt.media.captions import Caption
from vatt.preprocess.analysis import (
    FRAME_S,
    NOTHING,
    UNKNOWN,
    BandMeter,
    Heard,
    Listener,
    SpeechDetector,
    estimate_timing,
    hash_picture,
    hash_pictures,
    measure_black,
    measure_clipping,
    measure_freezing,
    measure_silence,
    seconds_within,
)

SECOND_S = np.arange(48_000) / 48_000


def test_silence_is_below_60_decibels() -> None:
    tone = np.sin(2 * np.pi * 500 * SECOND_S)
    quiet, audible = (
        (tone * 32768 * 10 ** (level / 20) * math.sqrt(2)).round().astype(np.int16)
        for level in (-61, -59)
    )
    assert measure_silence(quiet) == 1.0
    assert measure_silence(audible) == 0.0
    assert measure_silence(np.concatenate([quiet, audible])) == 0.5
    assert measure_silence(np.zeros(10, np.int16)) == 1.0
    assert math.isnan(measure_silence(np.zeros(0, np.int16)))


def test_clipped_is_at_full_scale() -> None:
    tone = np.sin(2 * np.pi * 100 * SECOND_S)
    assert measure_clipping((32767 * 0.9 * tone).astype(np.int16)) == 0.0
    doubled = np.clip(2 * 32767 * tone, -32768, 32767).astype(np.int16)
    # A sine of twice full scale is beyond it for two thirds of the time.
    np.testing.assert_allclose(measure_clipping(doubled), 2 / 3, atol=0.005)
    lowest = np.array([-32768, 0, 0, 0], np.int16)  # has no positive counterpart
    assert measure_clipping(lowest) == 0.25
    assert math.isnan(measure_clipping(np.zeros(0, np.int16)))


def test_black_is_below_luma_16() -> None:
    blue, green = np.zeros((2, 4, 6, 3), np.uint8)
    blue[..., 2] = 130  # luma 14.8
    green[..., 1] = 30  # luma 17.6
    assert measure_black([blue, green, green, green]) == 0.25
    assert math.isnan(measure_black([]))
    pictures = np.random.default_rng(0).integers(0, 40, (50, 7, 9, 3)).astype(np.uint8)
    expected = [p.reshape(-1, 3).mean(0) @ [0.299, 0.587, 0.114] < 16 for p in pictures]
    assert [measure_black([p]) for p in pictures] == [float(black) for black in expected]


def test_a_frozen_picture_is_still_but_for_noise() -> None:
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    noise = rng.integers(-4, 5, (4, 60, 80, 3))
    noisy = [np.clip(still.astype(int) + part, 0, 255).astype(np.uint8) for part in noise]
    moving = [np.roll(still, shift, axis=1) for shift in range(4)]
    speck = still.copy()
    speck[:3, :3] = 255 - speck[:3, :3]  # 9 of 4800 pixels move
    assert measure_freezing(noisy) == 1.0
    assert measure_freezing(moving) == 0.0
    assert measure_freezing([still, still, *moving]) == 2 / 5
    assert measure_freezing([still, speck]) == 0.0
    assert math.isnan(measure_freezing([still]))
    assert math.isnan(measure_freezing([]))


@pytest.mark.parametrize(
    ("level", "is_frozen"), [(8, 1.0), (9, 0.0), (247, 0.0), (250, 0.0), (255, 0.0)]
)
def test_differences_do_not_wrap_round(level: int, is_frozen: float) -> None:
    dark, bright = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert measure_freezing([dark, dark + np.uint8(level)]) == is_frozen
    assert measure_freezing([dark + np.uint8(level), dark]) == is_frozen
    assert measure_freezing([bright, bright - np.uint8(level)]) == is_frozen


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
        quieter = (sound * 0.3).astype(np.int16)
        noisy = (sound + rng.normal(0, 40, len(sound))).astype(np.int16)
        hashes, *others = (hear(0.0, other).hashes for other in (sound, quieter, noisy))
        # The last begins 3 s before the end.
        assert {len(found) for found in (hashes, *others)} == {7}
        assert all(mean_bits(hashes, found) < 8 for found in others)
        assert mean_bits(hashes, hear(0.0, play(seed + 100, 10.0)).hashes) > 14
    sound = play(1, 12.0)
    later = hear(0.0, sound[round(0.25 * 48_000) :]).hashes
    assert mean_bits(hear(0.0, sound).hashes, later) < 13


def test_silence_has_no_hash_and_short_sounds_have_none() -> None:
    assert set(hear(0.0, np.zeros(5 * 48_000, np.int16)).hashes) == {NOTHING}
    assert hear(0.0, play(0, 2.5)).hashes == []
    assert hear(0.0, np.ones(3, np.int16)).hashes == []
    assert Listener().finish() is None


def test_gaps_between_pieces_are_silence() -> None:
    sound = play(2, 8.0)
    heard = hear(4.0, sound)
    whole = np.concatenate([np.zeros(4 * 48_000, np.int16), sound])
    parts = np.split(whole, (5, 100_000, 300_001))
    assert heard.hashes == hear(0.0, whole).hashes == hear(0.0, *parts).hashes
    assert heard.cut_hashes(4.0, 6.0) == "".join(heard.hashes[4:6])
    assert heard.cut_hashes(8.0, 12.0) == "".join(heard.hashes[8:]) + 3 * NOTHING


def test_bands_are_those_of_a_plain_transform() -> None:
    sound = play(3, 3.0)[::3].astype(np.float32) / 32768
    assert BandMeter().hear(sound).shape == ((48_000 - 4000) // 1000 + 1, 32)
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    loudest = BandMeter().hear(tone).mean(axis=0).argmax()
    edges_hz = np.geomspace(150, 6000, 33)
    assert edges_hz[loudest] - 4 < 1000 < edges_hz[loudest + 1] + 4


def detect(samples: np.ndarray, cuts: tuple[int, ...] = ()) -> np.ndarray:
    detector = SpeechDetector()
    parts = [detector.hear(part) for part in np.split(samples, cuts)]
    return np.concatenate([*parts, detector.finish()])


def test_speech_is_heard_where_it_is() -> None:
    speech = say(30.0, seed=1)
    found = detect(speech.samples)
    assert len(found) == np.ceil(30.0 / FRAME_S)
    times_s = (np.arange(len(found)) + 0.5) * FRAME_S
    starts_s, ends_s = np.array(speech.phrases_s).T[..., None]
    far_inside = ((times_s > starts_s + 0.3) & (times_s < ends_s - 0.3)).any(axis=0)
    near = ((times_s > starts_s - 0.3) & (times_s < ends_s + 0.3)).any(axis=0)
    assert np.mean(found[far_inside] > 0.5) > 0.95
    assert np.mean(found[~near] > 0.5) < 0.05


def test_other_sounds_are_no_speech() -> None:
    rng = np.random.default_rng(0)
    times_s = np.arange(16_000 * 5) / 16_000
    beats = np.sin(2 * np.pi * 420 * times_s) * (np.sin(2 * np.pi * 3 * times_s) > 0)
    for sound in (rng.normal(0, 0.1, len(times_s)), 0.3 * beats, np.zeros(len(times_s))):
        assert np.mean(detect(sound.astype(np.float32)) > 0.5) < 0.05


def test_probabilities_are_those_of_the_package() -> None:
    samples = say(12.0, seed=2).samples
    with torch.inference_mode():
        expected = silero_vad.load_silero_vad().audio_forward(torch.from_numpy(samples), 16_000)
    np.testing.assert_allclose(detect(samples), expected[0].numpy(), atol=1e-3)
    assert [len(detect(np.zeros(length, np.float32))) for length in (5, 0)] == [1, 0]


@pytest.mark.parametrize("cuts", [(1,), (511, 512, 513), (100, 100, 5000), (64_000,)])
def test_it_does_not_matter_how_the_sound_is_cut(cuts: tuple[int, ...]) -> None:
    samples = say(6.0, seed=3).samples
    np.testing.assert_allclose(detect(samples, cuts), detect(samples), atol=1e-5)


SEEDS = range(6)


@cache
def speak(seed: int) -> tuple[Speech, np.ndarray]:
    """A minute of speech, and the probability of speech that is heard in it."""
    speech = say(60.0, seed)
    return speech, detect(speech.samples)


def subtitle(seed: int, shift_s: float) -> list[Caption]:
    """Captions as people write them: a little off, and they stay for a while."""
    rng = np.random.default_rng(seed)
    return [
        Caption(
            start_s + shift_s + rng.normal(0, 0.1),
            end_s + shift_s + rng.uniform(0, 0.8),
            "x" * round((end_s - start_s) * CHARACTERS_PER_SECOND * rng.uniform(0.8, 1.2)),
        )
        for start_s, end_s in speak(seed)[0].phrases_s
    ]


def recognise(seed: int, shift_s: float) -> list[Caption]:
    """Captions as recognisers write them: each stays until the next one begins."""
    captions = subtitle(seed, shift_s)
    ends_s = [caption.start_s for caption in captions[1:]] + [captions[-1].end_s + 3]
    pairs = zip(captions, ends_s, strict=True)
    return [Caption(caption.start_s, end_s, caption.text) for caption, end_s in pairs]


@pytest.mark.parametrize("style", [subtitle, recognise])
@pytest.mark.parametrize("shift_s", [-3.0, -1.7, -0.4, 0.0, 0.9, 2.0, 3.0])
def test_shifted_captions_are_found(style: type, shift_s: float) -> None:
    for seed in SEEDS:
        timing = estimate_timing(speak(seed)[1], style(seed, shift_s))
        assert abs(timing.offset_s - shift_s) < 0.5
        assert timing.score > 0.3


@pytest.mark.parametrize("style", [subtitle, recognise])
def test_captions_of_another_video_score_low(style: type) -> None:
    scores = [
        estimate_timing(speak(seed)[1], style(other, 0.0)).score
        for seed in SEEDS
        for other in SEEDS
        if other != seed
    ]
    assert max(scores) < 0.3
    assert np.mean(np.array(scores) < 0.2) > 0.9


def test_correlation_and_lag_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    speech = np.repeat(rng.uniform(0, 1, 400), 5)
    captions = [Caption(float(t), t + 0.7, "x" * 7) for t in np.cumsum(rng.uniform(1, 5, 18))]
    best = {}
    for lag in range(-312, 313):
        places = np.arange(len(speech)) + lag
        shown = np.zeros(len(speech))
        for caption in captions:
            begin, end = round(caption.start_s / FRAME_S), round(caption.end_s / FRAME_S)
            shown[(places >= begin) & (places < end)] = 1
        if shown.std() > 0:
            best[lag] = np.corrcoef(speech, shown)[0, 1]
    found_s = estimate_timing(speech, captions).offset_s
    assert found_s == pytest.approx(max(best, key=best.__getitem__) * FRAME_S, abs=1e-3)


def test_without_captions_or_speech_nothing_is_known() -> None:
    captions, track = subtitle(0, 0.0), speak(0)[1]
    assert estimate_timing(np.zeros(2000), captions) == UNKNOWN
    assert estimate_timing(track, []) == UNKNOWN
    assert estimate_timing(np.zeros(0), captions) == UNKNOWN
    assert estimate_timing(track, [Caption(900.0, 910.0, "far beyond")]) == UNKNOWN


def test_a_short_or_even_video_has_no_score() -> None:
    captions, track = subtitle(0, 0.0), speak(0)[1]
    assert math.isnan(estimate_timing(track[:150], captions[:2]).score)
    assert math.isnan(estimate_timing(track, [Caption(0.0, 60.0, "x" * 600)]).score)
    assert math.isnan(estimate_timing(np.ones(2000), captions).score)
