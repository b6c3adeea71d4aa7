"""Random changes of training windows, drawn from one generator per sample (VATT section 4.2).

The order is that of the released code: size and crop, flip, colour; noise on the sound. The paper
names the Inception crop for pre-training, the released code takes the VGG crop: both are here.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vatt.loading.clips import View, to_signal
from vatt.loading.colour import change_colours
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
"""The largest change, in turns of the colour circle."""


def centre_view(size_px: tuple[int, int], frame_size_px: int) -> View:
    """Return the view of the middle of a picture of (height, width), with all of its short side."""
    scaled_px, [part] = spread_crops(size_px, frame_size_px, 1)
    return View(scaled_px, part)


def spread_crops(
    size_px: tuple[int, int], frame_size_px: int, num_crops: int
) -> tuple[tuple[int, int], list[Box]]:
    """Return the size that a picture of (height, width) is scaled to, and squares in it.

    The squares hold all of the short side and are spread over the longer one, its ends included.
    One square is that of the middle; so is that of a square picture, where all would be the same.
    """
    height_px, width_px = _fit(size_px, frame_size_px)
    rest_px = max(height_px, width_px) - frame_size_px
    starts_px = [rest_px // 2]
    if num_crops > 1 and rest_px:
        starts_px = np.linspace(0, rest_px, num_crops).round().astype(int).tolist()
    corners = [(start, 0) if height_px > width_px else (0, start) for start in starts_px]
    crops = [Box(*corner, frame_size_px, frame_size_px) for corner in corners]
    return (height_px, width_px), crops


def draw_view(
    size_px: tuple[int, int], frame_size_px: int, params: AugmentParams, rng: np.random.Generator
) -> View:
    """Draw a view of a picture of (height, width) for all frames of a clip."""
    if params.crop == "inception":
        box = draw_box(size_px, rng)
        scaled_px, part = (frame_size_px, frame_size_px), None
    else:
        stretch = (rng.uniform(*SCALE), rng.uniform(*SCALE))
        if rng.random() >= params.scale_jitter_rate:
            stretch = (1.0, 1.0)
        box, scaled_px = None, _fit(size_px, frame_size_px, stretch)
        top_px, left_px = (int(rng.integers(side - frame_size_px + 1)) for side in scaled_px)
        part = Box(top_px, left_px, frame_size_px, frame_size_px)
    return View(scaled_px, part, box, is_flipped=bool(rng.random() < params.flip_rate))


def _fit(
    size_px: tuple[int, int], short_side_px: int, stretch: tuple[float, float] = (1.0, 1.0)
) -> tuple[int, int]:
    """Stretch the sides of a picture, then scale it so that the short one is `short_side_px`."""
    height, width = size_px[0] * stretch[0], size_px[1] * stretch[1]
    scale = short_side_px / max(1, min(height, width))
    return max(short_side_px, round(height * scale)), max(short_side_px, round(width * scale))


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


def jitter_colour(
    video: UInt8[Tensor, "T H W 3"], params: AugmentParams, rng: np.random.Generator
) -> Float[Tensor, "T H W 3"]:
    """Turn bytes to numbers in [-1, 1], and change the colours of a clip, all frames alike."""
    # All are drawn whether or not they are used, so that the rate does not move later draws.
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    saturation = rng.uniform(*SATURATION)
    contrast = rng.uniform(*CONTRAST)
    changes = tuple(map(np.float32, (brightness, saturation, contrast, rng.uniform(-HUE, HUE))))
    if rng.random() >= params.colour_jitter_rate:
        return to_signal(video)
    planes = video.permute(0, 3, 1, 2).contiguous().flatten(2).numpy()
    shown = torch.empty(video.shape)
    change_colours(planes, changes, shown.flatten(1, 2).numpy())
    return shown


def add_noise(
    audio: Float[Tensor, " S"], params: AugmentParams, rng: np.random.Generator
) -> Float[Tensor, " S"]:
    """Add Gaussian noise in proportion to the loudest sample; loud sound may pass 1 by a little."""
    if params.audio_noise == 0:  # drawing takes as long as decoding
        return audio
    noise = torch.from_numpy(rng.standard_normal(len(audio), dtype=np.float32))
    return audio + noise * (params.audio_noise * audio.abs().max())
