from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from vatt.media.audio import AudioReader, decode_audio, encode_audio
from vatt.media.decoding import MediaError

RNG = np.random.default_rng(5)
NOISE = RNG.integers(-32768, 32767, 100_000, np.int16, endpoint=True)
SAMPLE_FORMATS = {"int16": "s16p", "float32": "fltp", "float64": "dblp"}


def frames_of(
    channels: npt.NDArray[Any], rate_hz: int, layout: str, times_s: dict[int, float] | None = None
) -> Iterator[tuple[float, Any]]:
    """Frames of 1000 samples with their times; `times_s` changes those of some frames."""
    for number in range(channels.shape[1] // 1000):
        part = np.ascontiguousarray(channels[:, 1000 * number : 1000 * number + 1000])
        frame = av.AudioFrame.from_ndarray(part, SAMPLE_FORMATS[part.dtype.name], layout)
        frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
        yield (times_s or {}).get(number, number * 1000 / rate_hz), frame


@pytest.mark.parametrize("first_sample", [0, 1, 4607, 4608, 60_000])
def test_stored_sound_is_kept_to_the_bit(first_sample: int) -> None:
    part = decode_audio(encode_audio(NOISE), first_sample, 30_000)
    np.testing.assert_array_equal(part, NOISE[first_sample : first_sample + 30_000])


def test_sound_that_ends_too_early_is_an_error() -> None:
    with pytest.raises(MediaError, match="ends at sample 100000"):
        decode_audio(encode_audio(NOISE), 90_000, 10_001)


def test_48_khz_mono_goes_through_unchanged() -> None:
    reader = AudioReader(frames_of(NOISE[None], 48_000, "mono"), 0.0)
    parts = [reader.read(777) for _ in range(200)]
    np.testing.assert_array_equal(np.concatenate([part.samples for part in parts]), NOISE)
    assert sum(part.num_covered for part in parts) == len(NOISE)


@pytest.mark.parametrize(("layout", "num_channels"), [("stereo", 2), ("5.1", 6)])
def test_loud_channels_do_not_clip(layout: str, num_channels: int) -> None:
    time_s = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 300 * time_s).astype(np.float32)
    reader = AudioReader(frames_of(np.tile(tone, (num_channels, 1)), 48_000, layout), 0.0)
    np.testing.assert_allclose(reader.read(48_000).samples / 32768, tone, atol=2e-3)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_what_is_no_sound_is_silence_and_what_is_too_loud_is_cut(
    kind: type[np.floating[Any]], num_channels: int
) -> None:
    samples = np.full((num_channels, 3000), 0.25, kind)
    samples[:, 100:110], samples[:, 110:120], samples[:, 120:130] = np.nan, np.inf, -np.inf
    samples[:, 200:300], samples[:, 300:400] = 3.0, -3.0
    samples[:, 400:410], samples[:, 410:420] = 1e30, -1e30
    frames = frames_of(samples, 48_000, "mono" if num_channels == 1 else "stereo")
    found = AudioReader(frames, 0.0).read(3000).samples / 32768
    expected = np.full(3000, 0.25)
    expected[100:130] = 0
    expected[200:300], expected[300:400], expected[400:410], expected[410:420] = 1, -1, 1, -1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100, 96_000])
def test_other_rates_keep_pitch_and_place(rate_hz: int) -> None:
    time_s = np.arange(rate_hz) / rate_hz
    tone = (0.5 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    samples = AudioReader(frames_of(tone[None], rate_hz, "mono"), 0.0).read(96_000).samples
    length_s = rate_hz // 1000 * 1000 / rate_hz
    assert len(samples) == pytest.approx(length_s * 48_000, abs=2)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 48_000)
    inner = slice(2000, -2000)
    np.testing.assert_allclose(samples[inner] / 32768, expected[inner], atol=2e-3)


def test_gaps_are_silence_and_overlaps_are_cut() -> None:
    later = AudioReader(frames_of(NOISE[None], 48_000, "mono"), -0.5).read(200_000)
    np.testing.assert_array_equal(later.samples, np.append(np.zeros(24_000, np.int16), NOISE))
    assert later.num_covered == len(NOISE)
    times_s = {number: number / 48 + 0.5 for number in range(50, 100)}  # half a second is missing
    sound = AudioReader(frames_of(NOISE[None], 48_000, "mono", times_s), 0.0).read(200_000)
    np.testing.assert_array_equal(sound.samples[:50_000], NOISE[:50_000])
    np.testing.assert_array_equal(sound.samples[50_000:74_000], 0)
    np.testing.assert_array_equal(sound.samples[74_000:], NOISE[50_000:])
    assert sound.num_covered == len(NOISE)
    times_s = {number: number / 48 - 0.25 for number in range(50, 100)}
    sound = AudioReader(frames_of(NOISE[None], 48_000, "mono", times_s), 0.0).read(200_000)
    np.testing.assert_array_equal(sound.samples[50_000:], NOISE[62_000:])


def test_a_single_odd_time_stamp_moves_nothing() -> None:
    times_s = {40: 40 / 48 + 0.02, 70: 70 / 48 - 0.02}
    sound = AudioReader(frames_of(NOISE[None], 48_000, "mono", times_s), 0.0).read(200_000)
    np.testing.assert_array_equal(sound.samples, NOISE)


def test_a_change_of_format_is_heard_through() -> None:
    time_s = np.arange(48_000) / 48_000
    tone = (8000 * np.sin(2 * np.pi * 440 * time_s)).astype(np.int16)

    def frames() -> Iterator[tuple[float, Any]]:
        yield from frames_of(tone[None], 48_000, "mono")
        for after_s, frame in frames_of(np.tile(tone, (2, 1)), 48_000, "stereo"):
            yield 1.0 + after_s, frame

    samples = AudioReader(frames(), 0.0).read(200_000).samples
    np.testing.assert_allclose(samples, np.tile(tone, 2), atol=1)
