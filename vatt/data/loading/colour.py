"""Change of colours, compiled by Numba: short loops over a frame that stays in the cache.

As some forty operations of torch, one after the other, this took longer than all the decoding.
"""

from typing import Any

import numba
import numpy as np

SMALL = np.float32(1e-6)
ZERO, ONE, THREE, FOUR, FIVE, SIX = (np.float32(number) for number in (0, 1, 3, 4, 5, 6))

# Kept on disk, as compiling takes seconds. Divisors are not checked: that would keep the loops from
# being vectorised, as would loops over rows and columns.
_compiled = numba.njit(cache=True, fastmath=True, error_model="numpy")


@_compiled  # type: ignore[untyped-decorator]
def change_colours(planes: Any, scale: Any, changes: Any, out: Any) -> None:
    """Write `planes` (T 3 P) times `scale`, with changed colours in [0, 1], to `out` (T P 3).

    P are the pixels of a frame. changes: brightness to add, factors of saturation and of contrast
    (around the mean of a channel of a frame), turns of hue. All numbers are float32.
    """
    brightness, saturation, contrast, turns = changes
    num_pixels = planes.shape[2]
    held = np.empty((3, num_pixels), np.float32)
    for frame in range(len(planes)):
        for channel in range(3):
            source, target = planes[frame, channel], held[channel]
            for pixel in range(num_pixels):
                target[pixel] = source[pixel] * scale + brightness
        scale_saturation(held, saturation)
        for channel in range(3):
            target = held[channel]
            total = ZERO
            for pixel in range(num_pixels):
                total += target[pixel]
            mean = total / np.float32(num_pixels)
            for pixel in range(num_pixels):
                target[pixel] = mean + (target[pixel] - mean) * contrast
        turn_hue(held, turns)
        for pixel in range(num_pixels):
            for channel in range(3):
                out[frame, pixel, channel] = min(max(held[channel, pixel], ZERO), ONE)


@_compiled  # type: ignore[untyped-decorator]
def scale_saturation(planes: Any, factor: Any) -> None:
    """Multiply the saturation (of HSV) of RGB planes (3 P), at most to full saturation."""
    reds, greens, blues = planes[0], planes[1], planes[2]
    for pixel in range(planes.shape[1]):
        red, green, blue = reds[pixel], greens[pixel], blues[pixel]
        value = max(red, green, blue)
        chroma = value - min(red, green, blue)
        # Saturation is chroma / value, and may not pass 1.
        kept = min(max(value / max(chroma, SMALL), ZERO), factor)
        reds[pixel] = value - (value - red) * kept
        greens[pixel] = value - (value - green) * kept
        blues[pixel] = value - (value - blue) * kept


@_compiled  # type: ignore[untyped-decorator]
def turn_hue(planes: Any, turns: Any) -> None:
    """Turn the hue (of HSV) of RGB planes (3 P); value and saturation stay."""
    reds, greens, blues = planes[0], planes[1], planes[2]
    for pixel in range(planes.shape[1]):
        red, green, blue = reds[pixel], greens[pixel], blues[pixel]
        value = max(red, green, blue)
        chroma = value - min(red, green, blue)
        difference = red - green + FOUR * chroma
        difference = blue - red + chroma + chroma if value == green else difference
        difference = green - blue if value == red else difference
        sixths = difference / max(chroma, SMALL) + SIX * turns
        # The closed form of HSV to RGB: each channel falls and rises along the circle of hues.
        reds[pixel] = value - chroma * _fall(sixths + FIVE)
        greens[pixel] = value - chroma * _fall(sixths + THREE)
        blues[pixel] = value - chroma * _fall(sixths + ONE)


@_compiled  # type: ignore[untyped-decorator]
def _fall(sixths: Any) -> Any:
    """Return how far a channel has fallen at a place of the circle, in [0, 1]."""
    place = sixths - SIX * np.floor(sixths / SIX)
    return min(max(min(place, FOUR - place), ZERO), ONE)
