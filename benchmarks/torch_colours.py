"""The changes of colour of a clip by operations of torch, for loaders without a compiler."""

import numpy as np
import torch
from torch import Tensor

from vatt.loading.augmentation import BRIGHTNESS, CONTRAST, HUE, SATURATION
from vatt.params import AugmentParams


def jitter_colour(video: Tensor, params: AugmentParams, rng: np.random.Generator) -> Tensor:
    """Change a clip of bytes (T H W 3) to [-1, 1], frame by frame to stay in the cache."""
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    saturation = rng.uniform(*SATURATION)
    contrast = rng.uniform(*CONTRAST)
    hue = rng.uniform(-HUE, HUE)
    if rng.random() >= params.colour_jitter_rate:
        return video.contiguous().float().div_(127.5).sub_(1)
    changed = []
    for frame in video.split(1):
        planes = frame.permute(3, 0, 1, 2).float() / 255
        planes = _scale_saturation(planes + brightness, saturation)
        means = planes.mean(dim=(2, 3), keepdim=True)
        planes = _turn_hue(torch.lerp(means, planes, contrast), hue)
        changed.append(planes.clamp(0, 1).permute(1, 2, 3, 0))
    return torch.cat(changed).mul_(2).sub_(1)


def _scale_saturation(planes: Tensor, factor: float) -> Tensor:
    value = planes.amax(0)
    chroma = value - planes.amin(0)
    factors = (value / chroma.clamp_min(1e-6)).clamp(0, factor)
    return value - (value - planes) * factors


def _turn_hue(planes: Tensor, turns: float) -> Tensor:
    red, green, blue = planes
    value = planes.amax(0)
    chroma = value - planes.amin(0)
    differences = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    sixths = differences / chroma.clamp_min(1e-6) + 6 * turns
    turned = []
    for offset in (5, 3, 1):
        place = (sixths + offset) % 6
        turned.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(turned)
