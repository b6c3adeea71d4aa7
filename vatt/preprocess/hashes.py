"""Perceptual hashes: what a picture or a stretch of sound is like in 64 bits, to find it again.

That of a picture is the one of the library imagehash: the signs of the 64 slowest cosines. That of
a sound are the signs of 2 x 32 cosines, in time and in pitch, of the power in 32 bands during 3 s:
so slow in time that a copy that starts half a second later differs little. Equal content that was
coded, scaled or amplified in another way differs in few bits; other content in about 32.

Hashes are strings of 16 hexadecimal digits, one for each whole second of a file, in a row;
sixteen zeros where there is nothing to recognise.
"""

from collections.abc import Sequence

import imagehash
import numpy as np
import scipy.fft
from jaxtyping import Float, Float32
from PIL import Image

from vatt.media.video import Picture

HASH_DIGITS = 16
NOTHING = "0" * HASH_DIGITS
MIN_CONTRAST = 4.0
"""Standard deviation, of 255; below it a picture is flat."""
SOUND_RATE_HZ = 16_000
"""Sample rate of the sound that is hashed."""
BANDS_RATE_HZ = 16
"""Spectra per second."""
HOP_SAMPLES = SOUND_RATE_HZ // BANDS_RATE_HZ
SPECTRUM_SAMPLES = 4 * HOP_SAMPLES
NUM_BANDS = 32
LOWEST_HZ, HIGHEST_HZ = 150.0, 6000.0
QUIET = 1e-7
"""Power of a band, relative to full scale, below which differences are noise."""
WINDOW_FRAMES = 3 * BANDS_RATE_HZ
MIN_DEVIATION = 1.0
"""Decibels; sound whose bands differ less, such as silence, is flat."""


def seconds_within(start_s: float, end_s: float) -> range:
    """Return the whole seconds from a time on and before another, with a tolerance of 1 us."""
    return range(int(np.ceil(start_s - 1e-6)), int(np.ceil(end_s - 1e-6)))


def hash_picture(picture: Picture) -> str:
    """Return the hash of a picture; zeros if it is flat."""
    if picture.std() < MIN_CONTRAST:
        return NOTHING
    return str(imagehash.phash(Image.fromarray(picture)))


def hash_pictures(
    pictures: Sequence[Picture | None], start_s: float, frame_rate_hz: float
) -> list[str]:
    """Return the hash at each whole second of a file in a piece that starts at `start_s`."""
    seconds = seconds_within(start_s, start_s + len(pictures) / frame_rate_hz)
    places = [min(len(pictures) - 1, round((s - start_s) * frame_rate_hz)) for s in seconds]
    shown = [pictures[place] for place in places]
    return [NOTHING if picture is None else hash_picture(picture) for picture in shown]


class BandMeter:
    """Measures the power of a sound in bands, piece by piece: every 62.5 ms that of 250 ms."""

    def __init__(self) -> None:
        self._ahead = np.zeros(0, np.float32)
        self._window = np.hanning(SPECTRUM_SAMPLES).astype(np.float32)
        edges_hz = np.geomspace(LOWEST_HZ, HIGHEST_HZ, NUM_BANDS + 1)
        self._edges = np.round(edges_hz / SOUND_RATE_HZ * SPECTRUM_SAMPLES).astype(int)

    def hear(self, samples: Float32[np.ndarray, "S"]) -> Float32[np.ndarray, "T B"]:
        """Return the power of every band, in decibels, at all times that it is now known for."""
        ahead = np.concatenate([self._ahead, samples])
        num_frames = max(0, (len(ahead) - SPECTRUM_SAMPLES) // HOP_SAMPLES + 1)
        self._ahead = ahead[num_frames * HOP_SAMPLES :]
        if not num_frames:
            return np.zeros((0, NUM_BANDS), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(ahead, SPECTRUM_SAMPLES)[::HOP_SAMPLES]
        spectra = np.fft.rfft(frames[:num_frames] * self._window)
        powers = np.abs(spectra).astype(np.float32) ** 2 / SPECTRUM_SAMPLES**2
        bands = np.add.reduceat(powers, self._edges, axis=1)[:, :NUM_BANDS]
        return 10 * np.log10(bands + np.float32(QUIET))


def hash_sound(bands: Float[np.ndarray, "T B"]) -> list[str]:
    """Return the hash of the 3 s from each second of a file on, as far as there are so many."""
    last = len(bands) - WINDOW_FRAMES
    return [_hash_bands(bands[t : t + WINDOW_FRAMES]) for t in range(0, last + 1, BANDS_RATE_HZ)]


def _hash_bands(bands: Float[np.ndarray, "T B"]) -> str:
    if bands.std() < MIN_DEVIATION:
        return NOTHING
    cosines = scipy.fft.dctn(bands - bands.mean(), norm="ortho")[:2]
    return np.packbits(cosines > 0).tobytes().hex()
