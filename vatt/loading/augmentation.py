"""Random changes of training clips, all drawn from one generator per sample (VATT section 4.2).

The order is that of the released code: size and crop, flip, colour; noise on the sound. The paper
names the Inception crop for pre-training, the released code takes the VGG crop: both are here.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vatt.loading.colour import change_colours, keep_colours
from vatt.media.video import Box
from vatt.params import AugmentParams

ASPECT = (0.5, 2.0)
"""Width over height of the Inception crop."""
AREA = (0.08, 1.0)
"""Its share of the picture."""
MIN_COVERED = 0.1
"""A box that covers less of the picture is drawn again, as released: in effect the least area."""
ATTEMPTS = 100
SCALE = (0.8, 1.2)
BRIGHTNESS = 32 / 255
CONTRAST = (0.6, 1.4)
SATURATION = (0.6, 1.4)
HUE = 0.2
"""In turns of the colour circle."""


@dataclass(frozen=True)
class View:
    """Which part of a picture is seen: a box of it is scaled to a size, then a square is cut out."""

    height_px: int
    width_px: int
    top_px: int
    left_px: int
    is_flipped: bool
    box: Box | None = None
    """The part of the stored picture that is scaled; None is all of it."""


def centre_view(size_px: tuple[int, int], frame_size_px: int) -> View:
    """Return the view of the middle of a picture of (height, width), with all of its short side."""
    height_px, width_px = _fit(float(size_px[0]), float(size_px[1]), frame_size_px)
    top_px, left_px = (height_px - frame_size_px) // 2, (width_px - frame_size_px) // 2
    return View(height_px, width_px, top_px, left_px, is_flipped=False)


def side_views(size_px: tuple[int, int], frame_size_px: int, num_views: int) -> list[View]:
    """Return views spread over the longer side of a picture of (height, width), its ends included.

    The short side is seen whole. One view is that of the middle; so is that of a square, where all
    would be the same.
    """
    centre = centre_view(size_px, frame_size_px)
    rest_px = max(centre.height_px, centre.width_px) - frame_size_px
    if num_views == 1 or rest_px == 0:
        return [centre]
    starts_px = np.linspace(0, rest_px, num_views).round().astype(int).tolist()
    if centre.height_px > centre.width_px:
        return [replace(centre, top_px=start_px) for start_px in starts_px]
    return [replace(centre, left_px=start_px) for start_px in starts_px]


def draw_view(
    size_px: tuple[int, int], frame_size_px: int, params: AugmentParams, rng: np.random.Generator
) -> View:
    """Draw a view of a picture of (height, width) for all frames of a clip: its part, its side."""
    if params.crop == "inception":
        height_px, width_px, top_px, left_px = frame_size_px, frame_size_px, 0, 0
        box = draw_box(size_px, rng)
    else:
        height_px, width_px = _draw_size(size_px, frame_size_px, params, rng)
        top_px = int(rng.integers(height_px - frame_size_px + 1))
        left_px = int(rng.integers(width_px - frame_size_px + 1))
        box = None
    is_flipped = bool(rng.random() < params.flip_rate)
    return View(height_px, width_px, top_px, left_px, is_flipped, box)


def draw_box(size_px: tuple[int, int], rng: np.random.Generator) -> Box:
    """Draw an Inception crop of a picture of (height, width), as TensorFlow does.

    The proportions are uniform in ASPECT, then the height in what they and AREA leave, then the
    place. After ATTEMPTS boxes that do not fit, it is the whole picture.
    """
    height_px, width_px = size_px
    for _ in range(ATTEMPTS):
        aspect = rng.uniform(*ASPECT)
        least, most = (math.sqrt(share * height_px * width_px / aspect) for share in AREA)
        highest = min(round(most), height_px, int((width_px + 0.5) / aspect))
        box_height_px = int(rng.integers(min(round(least), highest), highest + 1))
        box_width_px = round(box_height_px * aspect)
        share = box_height_px * box_width_px / (height_px * width_px)
        if MIN_COVERED <= share <= AREA[1] and box_width_px <= width_px:
            top_px = int(rng.integers(height_px - box_height_px + 1))
            left_px = int(rng.integers(width_px - box_width_px + 1))
            return Box(top_px, left_px, box_height_px, box_width_px)
    return Box(0, 0, height_px, width_px)


def _draw_size(
    size_px: tuple[int, int], frame_size_px: int, params: AugmentParams, rng: np.random.Generator
) -> tuple[int, int]:
    """Draw the size that a picture is scaled to before the VGG crop: its proportions change."""
    factors = rng.uniform(*SCALE, size=2)
    if rng.random() >= params.scale_jitter_rate:
        factors = np.ones(2)
    return _fit(size_px[0] * factors[0], size_px[1] * factors[1], frame_size_px)


def _fit(height: float, width: float, short_side_px: int) -> tuple[int, int]:
    """Scale a size so that its short side is `short_side_px`."""
    scale = short_side_px / max(1, min(height, width))
    return max(short_side_px, round(height * scale)), max(short_side_px, round(width * scale))


def jitter_colour(
    video: UInt8[Tensor, "T H W 3"], params: AugmentParams, rng: np.random.Generator
) -> Float[Tensor, "T H W 3"]:
    """Turn bytes to numbers in [-1, 1], and change the colours of a clip, all frames alike."""
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    saturation = rng.uniform(*SATURATION)
    contrast = rng.uniform(*CONTRAST)
    hue = rng.uniform(-HUE, HUE)
    changes = (brightness, saturation, contrast, hue)
    planes = video.permute(0, 3, 1, 2).contiguous().flatten(2).numpy()
    shown = torch.empty(video.shape)
    if rng.random() < params.colour_jitter_rate:
        numbers = tuple(np.float32(change) for change in changes)
        change_colours(planes, numbers, shown.flatten(1, 2).numpy())
    else:
        keep_colours(planes, shown.flatten(1, 2).numpy())
    return shown


def to_unit(video: UInt8[Tensor, "*K T H W 3"]) -> Float[Tensor, "*K T H W 3"]:
    """Turn bytes to numbers in [0, 1]."""
    return video.contiguous().float().div_(255)


def add_noise(
    audio: Float[Tensor, " S"], params: AugmentParams, rng: np.random.Generator
) -> Float[Tensor, " S"]:
    """Add Gaussian noise in proportion to the loudest sample; loud sound may so pass 1 by a little."""
    if params.audio_noise == 0:  # drawing takes as long as decoding
        return audio
    noise = torch.from_numpy(rng.standard_normal(len(audio), dtype=np.float32))
    return audio + noise * (params.audio_noise * audio.abs().max())
