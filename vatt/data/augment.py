"""Random changes of training clips, all drawn from one generator per sample (as released).

The order is that of the released code: size and crop, flip, colour; noise on the sound.
Differs from the paper: it names the Inception crop for pre-training; the code uses this one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vatt.params import AugmentParams

SCALE = (0.8, 1.2)
BRIGHTNESS = 32 / 255
CONTRAST = (0.6, 1.4)
SATURATION = (0.6, 1.4)
HUE = 0.2
"""In turns of the colour circle."""


@dataclass(frozen=True)
class View:
    """Which part of a picture is seen: it is scaled to a size, then a square is cut out."""

    height_px: int
    width_px: int
    top_px: int
    left_px: int
    is_flipped: bool


def centre_view(size_px: tuple[int, int], frame_size_px: int) -> View:
    """Return the view of the middle of a picture of (height, width), with all of its short side."""
    height_px, width_px = _fit(*size_px, frame_size_px)
    top_px, left_px = (height_px - frame_size_px) // 2, (width_px - frame_size_px) // 2
    return View(height_px, width_px, top_px, left_px, is_flipped=False)


def draw_view(
    size_px: tuple[int, int], frame_size_px: int, params: AugmentParams, rng: np.random.Generator
) -> View:
    """Draw a view of a picture of (height, width): proportions, place and side."""
    factors = rng.uniform(*SCALE, size=2)
    if rng.random() >= params.scale_jitter_rate:
        factors = np.ones(2)
    height_px, width_px = _fit(size_px[0] * factors[0], size_px[1] * factors[1], frame_size_px)
    top_px = int(rng.integers(height_px - frame_size_px + 1))
    left_px = int(rng.integers(width_px - frame_size_px + 1))
    return View(height_px, width_px, top_px, left_px, bool(rng.random() < params.flip_rate))


def _fit(height: float, width: float, short_side_px: int) -> tuple[int, int]:
    """Scale a size so that its short side is `short_side_px`."""
    scale = short_side_px / max(1, min(height, width))
    return max(short_side_px, round(height * scale)), max(short_side_px, round(width * scale))


def jitter_colour(
    video: Float[Tensor, "T H W 3"], params: AugmentParams, rng: np.random.Generator
) -> Float[Tensor, "T H W 3"]:
    """Change the colours of a clip in [0, 1], all frames alike; the result is in [0, 1] again."""
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    saturation = rng.uniform(*SATURATION)
    contrast = rng.uniform(*CONTRAST)
    hue = rng.uniform(-HUE, HUE)
    if rng.random() >= params.colour_jitter_rate:
        return video
    video = scale_saturation(video + brightness, saturation)
    means = video.mean(dim=(1, 2), keepdim=True)
    video = torch.lerp(means, video, contrast)
    return turn_hue(video, hue).clamp(0, 1)


def scale_saturation(video: Float[Tensor, "T H W 3"], factor: float) -> Float[Tensor, "T H W 3"]:
    """Multiply the saturation (of HSV) of RGB pixels, at most to full saturation."""
    value = video.amax(-1, keepdim=True)
    chroma = value - video.amin(-1, keepdim=True)
    # Saturation is chroma / value; it may not pass 1.
    factors = torch.minimum(value / chroma.clamp_min(1e-6), torch.tensor(factor)).clamp_min(0)
    return value - (value - video) * factors


def turn_hue(video: Float[Tensor, "T H W 3"], turns: float) -> Float[Tensor, "T H W 3"]:
    """Turn the hue (of HSV) of RGB pixels; value and saturation stay."""
    value = video.amax(-1)
    chroma = value - video.amin(-1)
    red, green, blue = video.unbind(-1)
    scale = 1 / chroma.clamp_min(1e-6)
    hue = torch.where(
        value == red,
        (green - blue) * scale,
        torch.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    hue = hue + 6 * turns
    # The closed form of HSV to RGB: each channel falls and rises along the circle of hues.
    channels = []
    for offset in (5, 3, 1):
        place = (hue + offset) % 6
        share = torch.minimum(place, 4 - place).clamp(0, 1)
        channels.append(value - chroma * share)
    return torch.stack(channels, -1)


def add_noise(
    audio: Float[Tensor, " S"], params: AugmentParams, rng: np.random.Generator
) -> Float[Tensor, " S"]:
    """Add Gaussian noise in proportion to the loudest sample."""
    noise = torch.from_numpy(rng.standard_normal(len(audio), dtype=np.float32))
    return audio + noise * (params.audio_noise * audio.abs().max())
