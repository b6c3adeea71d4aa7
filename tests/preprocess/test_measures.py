import math

import numpy as np

from vatt.preprocess.analysis import (
    measure_black,
    measure_clipping,
    measure_freezing,
    measure_silence,
)


def test_silence_is_below_60_decibels() -> None:
    time_s = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 500 * time_s)
    quiet = (tone * 32768 * 10 ** (-61 / 20) * math.sqrt(2)).round().astype(np.int16)
    audible = (tone * 32768 * 10 ** (-59 / 20) * math.sqrt(2)).round().astype(np.int16)
    assert measure_silence(quiet) == 1.0
    assert measure_silence(audible) == 0.0
    assert measure_silence(np.concatenate([quiet, audible])) == 0.5
    assert measure_silence(np.zeros(10, np.int16)) == 1.0
    assert math.isnan(measure_silence(np.zeros(0, np.int16)))


def test_black_is_below_luma_16() -> None:
    blue = np.zeros((4, 6, 3), np.uint8)
    blue[..., 2] = 130  # luma 14.8
    green = np.zeros((4, 6, 3), np.uint8)
    green[..., 1] = 30  # luma 17.6
    assert measure_black([blue, green, green, green]) == 0.25
    assert math.isnan(measure_black([]))
    pictures = np.random.default_rng(0).integers(0, 40, (50, 7, 9, 3)).astype(np.uint8)
    expected = [p.reshape(-1, 3).mean(0) @ [0.299, 0.587, 0.114] < 16 for p in pictures]
    assert [measure_black([p]) for p in pictures] == [float(black) for black in expected]


def test_clipped_is_at_full_scale() -> None:
    time_s = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 100 * time_s)
    assert measure_clipping((32767 * 0.9 * tone).astype(np.int16)) == 0.0
    doubled = np.clip(2 * 32767 * tone, -32768, 32767).astype(np.int16)
    # A sine of twice full scale is beyond it for two thirds of the time.
    np.testing.assert_allclose(measure_clipping(doubled), 2 / 3, atol=0.005)
    lowest = np.array([-32768, 0, 0, 0], np.int16)  # has no positive counterpart
    assert measure_clipping(lowest) == 0.25
    assert math.isnan(measure_clipping(np.zeros(0, np.int16)))


def test_a_frozen_picture_is_still_but_for_noise() -> None:
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    noise = rng.integers(-4, 5, (4, 60, 80, 3))
    noisy = [np.clip(still.astype(int) + part, 0, 255).astype(np.uint8) for part in noise]
    moving = [np.roll(still, shift, axis=1) for shift in range(4)]
    assert measure_freezing(noisy) == 1.0
    assert measure_freezing(moving) == 0.0
    assert measure_freezing([still, still, *moving]) == 2 / 5
    speck = still.copy()
    speck[:3, :3] = 255 - speck[:3, :3]  # 9 of 4800 pixels move
    assert measure_freezing([still, speck]) == 0.0
    assert math.isnan(measure_freezing([still]))
    assert math.isnan(measure_freezing([]))


def test_differences_do_not_wrap_round() -> None:
    dark, bright = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    for level, is_frozen in [(8, 1.0), (9, 0.0), (247, 0.0), (250, 0.0), (255, 0.0)]:
        assert measure_freezing([dark, dark + np.uint8(level)]) == is_frozen
        assert measure_freezing([dark + np.uint8(level), dark]) == is_frozen
    assert measure_freezing([bright, bright - np.uint8(8)]) == 1.0
