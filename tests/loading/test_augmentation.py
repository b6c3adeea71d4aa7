import colorsys
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from vatt.loading.augmentation import (
    add_noise,
    centre_view,
    draw_box,
    draw_view,
    jitter_colour,
    spread_crops,
)
from vatt.loading.clips import View
from vatt.loading.colour import scale_saturation, turn_hue
from vatt.media.video import Box
from vatt.params import AugmentParams

ALWAYS = AugmentParams(
    crop="vgg", scale_jitter_rate=1.0, flip_rate=1.0, colour_jitter_rate=1.0, audio_noise=0.01
)
NEVER = AugmentParams(
    crop="vgg", scale_jitter_rate=0.0, flip_rate=0.0, colour_jitter_rate=0.0, audio_noise=0.0
)
INCEPTION = ALWAYS.model_copy(update={"crop": "inception", "flip_rate": 0.5})
Colour = tuple[float, float, float]


def change_saturation(hsv: Colour, amount: float) -> Colour:
    return hsv[0], min(1.0, hsv[1] * amount), hsv[2]


def change_hue(hsv: Colour, amount: float) -> Colour:
    return (hsv[0] + amount) % 1, hsv[1], hsv[2]


def change_slowly(
    pixels: npt.NDArray[np.float64], change: Callable[[Colour, float], Colour], amount: float
) -> npt.NDArray[np.float64]:
    hsv = [colorsys.rgb_to_hsv(*rgb) for rgb in pixels.tolist()]
    return np.array([colorsys.hsv_to_rgb(*change(one, amount)) for one in hsv])


@pytest.mark.parametrize(
    ("ours", "change", "amount"),
    [
        *((scale_saturation, change_saturation, amount) for amount in (0.6, 1.0, 1.4)),
        *((turn_hue, change_hue, amount) for amount in (-0.2, 0.0, 0.05, 0.2)),
    ],
)
def test_colours_change_as_in_hsv(
    ours: Callable[..., Colour], change: Callable[[Colour, float], Colour], amount: float
) -> None:
    pixels = np.random.default_rng(1).random((500, 3), np.float32)
    pixels[0] = 0.4  # grey has no hue
    pixels[1] = 0.0
    expected = change_slowly(pixels.astype(np.float64), change, amount)
    found = [ours(*rgb, np.float32(amount)) for rgb in pixels]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def draw_bytes(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_colours_change_in_the_order_of_the_released_code(seed: int) -> None:
    video = draw_bytes(2, 5, 4, 3) // 2 + 64  # far from black and white, where HSV ends
    rng = np.random.default_rng(seed)
    brightness, saturation = rng.uniform(-32 / 255, 32 / 255), rng.uniform(0.6, 1.4)
    contrast, turns = rng.uniform(0.6, 1.4), rng.uniform(-0.2, 0.2)
    found = jitter_colour(video, ALWAYS, np.random.default_rng(seed)).flatten(1, 2)
    for frame, shown in zip(video.flatten(1, 2).numpy() / 255, found, strict=True):
        pixels = change_slowly(frame + brightness, change_saturation, saturation)
        pixels = pixels.mean(0) + (pixels - pixels.mean(0)) * contrast
        expected = change_slowly(pixels, change_hue, turns).clip(0, 1)
        np.testing.assert_allclose(shown, 2 * expected - 1, atol=2e-5, rtol=0)


def test_what_is_loaded_for_forked_processes_is_what_clips_need() -> None:
    """In a process of its own, as other tests here may have compiled for other arrays."""
    code = """
import numpy, torch
from vatt.loading.augmentation import jitter_colour
from vatt.loading.colour import change_colours, load_compiled
from vatt.params import AugmentParams

load_compiled()
for rate in (0.0, 1.0):
    rates = {"scale_jitter_rate": 0, "flip_rate": 0, "colour_jitter_rate": rate, "audio_noise": 0}
    params = AugmentParams(crop="vgg", **rates)
    video = torch.zeros(3, 2, 8, 8, dtype=torch.uint8).permute(1, 2, 3, 0)
    jitter_colour(video, params, numpy.random.default_rng(0))
print(len(change_colours.signatures))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.split() == [b"1"]


def test_colours_that_are_kept_are_those_of_the_bytes() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    video = torch.stack([levels, levels.flip(0), levels // 2], -1).reshape(2, 16, 8, 3)
    kept = jitter_colour(video, NEVER, np.random.default_rng(0))
    assert torch.equal(kept, video.float() / 255 * 2 - 1)


@pytest.mark.parametrize("size_px", [(64, 64), (64, 114), (114, 64), (70, 70)])
def test_views_fill_the_frame_with_the_short_side(size_px: tuple[int, int]) -> None:
    flips = 0
    for seed in range(200):
        view = draw_view(size_px, 64, ALWAYS, np.random.default_rng(seed))
        (height_px, width_px), part = view.size_px, view.part
        assert min(height_px, width_px) == 64
        assert part is not None
        assert part[2:] == (64, 64)
        assert 0 <= part.top_px <= height_px - 64
        assert 0 <= part.left_px <= width_px - 64
        stretch = height_px / width_px * size_px[1] / size_px[0]
        assert 0.8 / 1.2 - 0.03 <= stretch <= 1.2 / 0.8 + 0.03
        flips += view.is_flipped
    assert flips == 200


def test_no_jitter_keeps_the_proportions_and_sides() -> None:
    views = {draw_view((64, 128), 64, NEVER, np.random.default_rng(seed)) for seed in range(400)}
    assert views == {View((64, 128), Box(0, left, 64, 64)) for left in range(65)}


def test_rates_are_shares() -> None:
    rates = {"scale_jitter_rate": 0.3, "flip_rate": 0.5, "colour_jitter_rate": 0.8}
    params = NEVER.model_copy(update=rates)
    views = [draw_view((64, 64), 64, params, np.random.default_rng(seed)) for seed in range(1000)]
    assert np.mean([view.is_flipped for view in views]) == pytest.approx(0.5, abs=0.05)
    square = np.mean([view.size_px == (64, 64) for view in views])
    assert square == pytest.approx(0.7, abs=0.06)
    video = draw_bytes(1, 2, 2, 3)
    kept = jitter_colour(video, NEVER, np.random.default_rng(0))
    changed = [
        not torch.equal(jitter_colour(video, params, np.random.default_rng(seed)), kept)
        for seed in range(1000)
    ]
    assert np.mean(changed) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("size_px", [(64, 64), (256, 455), (455, 256), (40, 320), (16, 16)])
def test_inception_boxes_keep_their_bounds(size_px: tuple[int, int]) -> None:
    height_px, width_px = size_px
    for seed in range(500):
        box = draw_box(size_px, np.random.default_rng(seed))
        assert 0 <= box.top_px <= height_px - box.height_px
        assert 0 <= box.left_px <= width_px - box.width_px
        assert 0.1 <= box.height_px * box.width_px / (height_px * width_px) <= 1
        # The width is rounded to a pixel.
        assert 0.5 * box.height_px - 0.5 <= box.width_px <= 2 * box.height_px + 0.5


def expected_shares(height: float, width: float) -> npt.NDArray[np.float64]:
    """Distribution of (aspect, area, top, left), in shares, of TensorFlow's rule without pixels.

    Aspect uniform in [0.5, 2]; height uniform between those of area 0.08 and of the largest box
    that fits; boxes below a tenth of the picture are drawn again; the place is uniform.
    """
    steps = (np.arange(400) + 0.5) / 400
    aspect, place = np.meshgrid(0.5 + 1.5 * steps, steps, indexing="ij")
    least = np.sqrt(0.08 * height * width / aspect)
    most = np.minimum(np.minimum(np.sqrt(height * width / aspect), height), width / aspect)
    box_height = least + place * (most - least)
    area = box_height**2 * aspect / (height * width)
    top = (1 - box_height / height) / 2  # means over the uniform place
    left = (1 - box_height * aspect / width) / 2
    return np.stack([aspect, area, top, left])[:, area >= 0.1]


@pytest.mark.parametrize("size_px", [(1000, 1000), (720, 1280), (1280, 720)])
def test_inception_boxes_have_the_distribution_of_tensorflow(size_px: tuple[int, int]) -> None:
    height_px, width_px = size_px
    rng = np.random.default_rng(0)
    boxes = np.array([draw_box(size_px, rng) for _ in range(4000)])
    top, left, height, width = boxes.T
    areas = height * width / (height_px * width_px)
    aspect, area, *means = expected_shares(height_px, width_px)
    shares = np.linspace(0.05, 0.95, 19)
    for values, expected, atol in [(width / height, aspect, 0.05), (areas, area, 0.03)]:
        quantiles = np.quantile(values, shares)
        np.testing.assert_allclose(quantiles, np.quantile(expected, shares), atol=atol)
    for values, mean in zip((top / height_px, left / width_px), means, strict=True):
        assert values.mean() == pytest.approx(mean.mean(), abs=0.01)
    # The place in what is left beside the box is uniform.
    room = height_px - height
    places = top[room > 100] / room[room > 100]
    np.testing.assert_allclose(np.quantile(places, shares), shares, atol=0.035)


def test_a_picture_without_a_box_that_fits_is_seen_whole() -> None:
    # Of 1 x 25 pixels, a box of 2 is below a tenth, and wider ones are beyond 2 to 1.
    assert draw_box((1, 25), np.random.default_rng(0)) == Box(0, 0, 1, 25)


def test_inception_views_scale_the_box_to_the_frame_and_flip_half() -> None:
    views = [draw_view((90, 160), 64, INCEPTION, np.random.default_rng(n)) for n in range(400)]
    assert {view[:2] for view in views} == {((64, 64), None)}
    assert len({view.box for view in views}) > 390
    assert np.mean([view.is_flipped for view in views]) == pytest.approx(0.5, abs=0.08)
    again = [draw_view((90, 160), 64, INCEPTION, np.random.default_rng(n)) for n in range(400)]
    assert again == views


@pytest.mark.parametrize("seed", range(20))
def test_a_clip_is_coloured_as_its_frames_alone_and_stays_in_range(seed: int) -> None:
    video = draw_bytes(5, 6, 7, 3)
    together = jitter_colour(video, ALWAYS, np.random.default_rng(seed))
    alone = [jitter_colour(frame[None], ALWAYS, np.random.default_rng(seed)) for frame in video]
    assert torch.equal(together, torch.cat(alone))
    assert together.is_contiguous()
    assert -1 <= together.min() < together.max() <= 1


def test_the_middle_is_the_middle() -> None:
    assert centre_view((64, 114), 64) == View((64, 114), Box(0, 25, 64, 64))
    assert centre_view((256, 128), 64) == View((128, 64), Box(32, 0, 64, 64))


def test_noise_is_a_hundredth_of_the_loudest_sample() -> None:
    audio = torch.zeros(100_000)
    audio[7] = -0.5
    noise = add_noise(audio, ALWAYS, np.random.default_rng(3)) - audio
    assert float(noise.std()) == pytest.approx(0.005, rel=0.02)
    assert torch.equal(add_noise(torch.zeros(9), ALWAYS, np.random.default_rng(3)), torch.zeros(9))


@pytest.mark.parametrize(
    ("size_px", "places"),
    [
        ((64, 64), [(0, 0)]),  # all would be the same
        ((64, 128), [(0, 0), (0, 16), (0, 32)]),
        ((96, 48), [(0, 0), (16, 0), (32, 0)]),
        ((64, 67), [(0, 0), (0, 1), (0, 2)]),
    ],
)
def test_crops_of_a_test_clip_are_spread_over_its_longer_side(
    size_px: tuple[int, int], places: list[tuple[int, int]]
) -> None:
    scaled_px, crops = spread_crops(size_px, 32, 3)
    assert crops == [Box(*place, 32, 32) for place in places]
    assert min(scaled_px) == 32
    [middle] = spread_crops(size_px, 32, 1)[1]
    assert centre_view(size_px, 32) == View(scaled_px, middle)
