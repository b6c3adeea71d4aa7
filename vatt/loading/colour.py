"""Changes of colour, compiled by Numba: short loops over a frame that stays in the cache.

As some forty operations of torch, one after the other, they took longer than all the decoding. They
have a module of their own as tests check the shapes in `augmentation`, which Numba cannot compile.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np

SMALL = np.float32(1e-6)
ZERO, ONE, TWO, THREE, FOUR, FIVE, SIX = (np.float32(number) for number in range(7))
BYTE = np.float32(255)


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile a function; what comes of it is kept on disk, as compiling takes seconds."""
    # Divisors are not checked: that would keep the loops from being vectorised, as would loops over
    # rows and columns.
    options: dict[str, Any] = {"fastmath": True, "error_model": "numpy"}
    # Numba keeps it beside the code or in the home folder; neither need be writable.
    for cache_dir in (numba.config.CACHE_DIR, str(Path(".cache/numba").absolute())):
        numba.config.CACHE_DIR = cache_dir
        with suppress(RuntimeError):
            return numba.njit(cache=True, **options)(function)
    return numba.njit(**options)(function)


@_compiled
def change_colours(planes: Any, changes: Any, out: Any) -> None:
    """Write bytes of `planes` (T 3 P) with changed colours to `out` (T P 3), in [-1, 1].

    P counts the pixels of a frame. `changes` are the brightness to add (white is 1), the factors of
    saturation and of contrast (around the mean of a channel of a frame), and the turns of hue, all
    float32.
    """
    brightness, saturation, contrast, turns = changes
    num_pixels = planes.shape[2]
    held = np.empty((3, num_pixels), np.float32)
    reds, greens, blues = held[0], held[1], held[2]
    for frame in range(len(planes)):
        stored, shown = planes[frame], out[frame]
        sums = ZERO, ZERO, ZERO
        for pixel in range(num_pixels):
            red = stored[0, pixel] / BYTE + brightness
            green = stored[1, pixel] / BYTE + brightness
            blue = stored[2, pixel] / BYTE + brightness
            red, green, blue = scale_saturation(red, green, blue, saturation)
            reds[pixel], greens[pixel], blues[pixel] = red, green, blue
            sums = sums[0] + red, sums[1] + green, sums[2] + blue
        share = (ONE - contrast) / np.float32(num_pixels)
        for pixel in range(num_pixels):
            red = sums[0] * share + reds[pixel] * contrast
            green = sums[1] * share + greens[pixel] * contrast
            blue = sums[2] * share + blues[pixel] * contrast
            red, green, blue = turn_hue(red, green, blue, turns)
            reds[pixel], greens[pixel], blues[pixel] = _show(red), _show(green), _show(blue)
        # A loop of its own: with it, the one before would not be vectorised.
        for pixel in range(num_pixels):
            for channel in range(3):
                shown[pixel, channel] = held[channel, pixel]


def load_compiled() -> None:
    """Load what Numba compiled: nearly a second, which processes forked later need not spend."""
    planes, out = np.zeros((1, 3, 1), np.uint8), np.zeros((1, 1, 3), np.float32)
    change_colours(planes, (ZERO, ONE, ONE, ZERO), out)


@_compiled
def scale_saturation(red: Any, green: Any, blue: Any, factor: Any) -> Any:
    """Return a colour with its saturation (of HSV) times a factor, at most full saturation."""
    value = max(red, green, blue)
    chroma = value - min(red, green, blue)
    # Saturation is chroma / value, and may not pass 1.
    kept = min(max(value / max(chroma, SMALL), ZERO), factor)
    return (
        value - (value - red) * kept,
        value - (value - green) * kept,
        value - (value - blue) * kept,
    )


@_compiled
def turn_hue(red: Any, green: Any, blue: Any, turns: Any) -> Any:
    """Return a colour with its hue (of HSV) turned; value and saturation stay."""
    value = max(red, green, blue)
    chroma = value - min(red, green, blue)
    difference = red - green + FOUR * chroma
    difference = blue - red + chroma + chroma if value == green else difference
    difference = green - blue if value == red else difference
    sixths = difference / max(chroma, SMALL) + SIX * turns
    # The closed form of HSV to RGB: each channel falls and rises along the circle of hues.
    return (
        value - chroma * _fall(sixths + FIVE),
        value - chroma * _fall(sixths + THREE),
        value - chroma * _fall(sixths + ONE),
    )


@_compiled
def _fall(sixths: Any) -> Any:
    """Return how far a channel has fallen at a place of the circle, in [0, 1]."""
    place = sixths - SIX * np.floor(sixths / SIX)
    return min(max(min(place, FOUR - place), ZERO), ONE)


@_compiled
def _show(level: Any) -> Any:
    """Turn [0, 1] to [-1, 1]; what is outside is cut off."""
    return min(max(level, ZERO), ONE) * TWO - ONE
