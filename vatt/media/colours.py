"""Colours as a player shows them: the matrix of a picture, and HDR and wide gamut as BT.709.

FFmpeg's scaler knows matrix and range only. A picture in HDR (PQ, HLG) or a wide gamut that is not
converted looks grey.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from jaxtyping import Float32, Float64, UInt8, UInt16

WHITE_NITS = 203.0
"""Luminance of a white sheet in HDR (ITU-R BT.2408), which becomes the white of the screen."""
DEFAULT_PEAK_NITS = 1000.0
"""What most HDR is graded for; also that of HLG by definition."""
GAMMA = 2.4
"""ITU-R BT.1886: how ordinary pictures are shown."""
MATRICES = frozenset({1, 4, 5, 6, 7, 9})
"""AVCOL_SPC numbers that the scaler takes; it refuses the others, even reserved ones."""
NO_MATRIX = frozenset({0, 2, 3})
"""RGB, which says nothing of YUV, unspecified, reserved."""
CONSTANT_LUMINANCE = 10
HD_WIDTH_PX, SD_HEIGHT_PX = 1280, 576
PRIMARIES: dict[int, tuple[tuple[float, float], ...]] = {
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    # DCI-P3 has another white, which a viewer's eye, and so a player, takes for white.
    ColorPrimaries.SMPTE431: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
D65 = (0.3127, 0.3290)
HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
BT2020_LUMA = (np.float32(0.2627), np.float32(0.6780), np.float32(0.0593))
CODES = np.linspace(0.0, 1.0, 1 << 16)
HLG_GAINS = (CODES**0.4).astype(np.float32)
"""The system gain of HLG at 1,000 cd/m2: luminance to the power of 0.2, by its square root."""

Light = Float32[np.ndarray, "3 H W"]
"""Red, green and blue light; 1 is the white of an ordinary picture."""
Table = Float32[np.ndarray, "65536"]


def choose_matrix(frame: Any) -> tuple[Colorspace | None, str | None]:
    """Return the matrix to convert a frame with, and what was guessed about it, if it may be wrong.

    None is the frame's own matrix. Without one it is that of the primaries, or that of the size as
    players choose it: BT.709 from 1280 columns or more than 576 rows on, else BT.601.
    """
    matrix = frame.colorspace
    if frame.format.is_rgb or matrix in MATRICES:
        return None, None
    if matrix == CONSTANT_LUMINANCE or (matrix in NO_MATRIX and _is_wide(frame)):
        return Colorspace.BT2020, None
    is_hd = frame.width >= HD_WIDTH_PX or frame.height > SD_HEIGHT_PX
    choice, name = (Colorspace.ITU709, "BT.709") if is_hd else (Colorspace.ITU601, "BT.601")
    if _is_wide(frame):
        choice, name = Colorspace.BT2020, "BT.2020"
    if matrix in NO_MATRIX:
        return choice, None
    return choice, f"colours: the matrix (number {matrix}) is not supported: {name} is assumed"


def _is_wide(frame: Any) -> bool:
    return frame.color_primaries == ColorPrimaries.BT2020 or frame.color_trc in HDR


class ColourMap:
    """Turns RGB of 16 bits in HDR or a wide gamut to BT.709 of 8 bits."""

    def __init__(self, transfer: int, primaries: int, peak_nits: float) -> None:
        if primaries == ColorPrimaries.UNSPECIFIED and transfer in HDR:
            primaries = ColorPrimaries.BT2020
        self._light = _tabulate_light(transfer)
        self._is_hlg = transfer == ColorTrc.ARIB_STD_B67
        matrix = _to_xyz(BT709, inverse=True) @ _to_xyz(PRIMARIES.get(primaries, BT709))
        self._matrix = matrix.astype(np.float32)
        self._peak = max(1.0, peak_nits / WHITE_NITS) if transfer in HDR else 1.0
        # By square roots, so that dark values are as fine as bright ones.
        brightness = CODES**2 * self._peak
        gains = _compress(brightness, self._peak) / np.maximum(brightness, 1e-9)
        self._gains: Table = gains.astype(np.float32)
        self._codes = np.round(255 * (CODES**2) ** (1 / GAMMA)).astype(np.uint8)

    def apply(self, picture: UInt16[np.ndarray, "3 H W"]) -> UInt8[np.ndarray, "3 H W"]:
        """Return red, green and blue of a picture as an ordinary screen shows them.

        All is tables and plain arithmetic, so that the bytes are the same on any processor.
        """
        light: Light = self._light.take(picture)
        if self._is_hlg:
            scene = _mix(light, BT2020_LUMA) * np.float32(WHITE_NITS / DEFAULT_PEAK_NITS)
            light *= HLG_GAINS.take(_index_root(scene))
        light = np.stack([_mix(light, row) for row in self._matrix])
        if self._peak > 1.0:
            # The brightest component decides for all three, so that no hue changes.
            light *= self._gains.take(_index_root(light.max(0) / np.float32(self._peak)))
        codes: UInt8[np.ndarray, "3 H W"] = self._codes.take(_index_root(light))
        return codes


def _mix(light: Light, weights: Sequence[np.float32]) -> Float32[np.ndarray, "H W"]:
    """Return a weighted sum of the components; not by BLAS, whose last bit differs by processor."""
    red, green, blue = light
    mixed: Float32[np.ndarray, "H W"] = red * weights[0] + green * weights[1] + blue * weights[2]
    return mixed


def _index_root(light: Float32[np.ndarray, "*S"]) -> UInt16[np.ndarray, "*S"]:
    """Return where light of 0 to 1 is in a table of square roots; more or less is cut off."""
    roots: Float32[np.ndarray, "*S"] = np.sqrt(light.clip(0.0, 1.0)) * np.float32(65535)
    places: UInt16[np.ndarray, "*S"] = np.rint(roots).astype(np.uint16)
    return places


def choose_map(frame: Any) -> tuple[ColourMap | None, str | None]:
    """Return how the colours of a stream are converted by its first frame, and what was guessed.

    None is for ordinary pictures.
    """
    transfer, primaries = frame.color_trc, frame.color_primaries
    if transfer not in HDR and primaries not in PRIMARIES:
        return None, None
    guess, peak_nits = None, DEFAULT_PEAK_NITS
    if transfer == ColorTrc.SMPTE2084:
        known = _read_peak(frame)
        peak_nits = known or DEFAULT_PEAK_NITS
        if known is None:
            guess = f"colours: HDR without its peak: {DEFAULT_PEAK_NITS:.0f} cd/m2 is assumed"
    elif transfer == ColorTrc.UNSPECIFIED:
        guess = "colours: a wide gamut without its transfer function: SDR is assumed"
    return ColourMap(transfer, primaries, peak_nits), guess


def _read_peak(frame: Any) -> float | None:
    """Return the luminance in cd/m2 of the brightest pixel, or of the screen it was graded on."""
    level = frame.side_data.get("CONTENT_LIGHT_LEVEL")
    if level is not None and (brightest := int(np.frombuffer(bytes(level), np.uint32)[0])):
        return float(brightest)
    mastering = frame.side_data.get("MASTERING_DISPLAY_METADATA")
    if mastering is None:
        return None
    # AVMasteringDisplayMetadata: ten fractions (eight places, least and most light), two flags.
    numbers = np.frombuffer(bytes(mastering), np.int32)
    most, unit, has_light = numbers[18], numbers[19], numbers[21]
    return float(most / unit) if has_light and most > 0 and unit > 0 else None


def _tabulate_light(transfer: int) -> Table:
    """Return the light of every code of 16 bits; for HLG that of the scene (ITU-R BT.2100)."""
    light = CODES**GAMMA
    if transfer == ColorTrc.SMPTE2084:
        light = _pq_to_nits(CODES) / WHITE_NITS
    elif transfer == ColorTrc.ARIB_STD_B67:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(CODES <= 0.5, CODES**2 / 3, (np.exp((CODES - c) / a) + b) / 12)
        light *= DEFAULT_PEAK_NITS / WHITE_NITS
    table: Table = light.astype(np.float32)
    return table


def _pq_to_nits(code: Any) -> Any:
    """SMPTE ST 2084."""
    root = np.asarray(code) ** (32 / 2523)
    return 1e4 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (16384 / 2610)


def _nits_to_pq(nits: Any) -> Any:
    power = (np.asarray(nits) / 1e4) ** (2610 / 16384)
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** (2523 / 32)


def _compress(light: Float64[np.ndarray, "N"], peak: float) -> Float64[np.ndarray, "N"]:
    """Return light up to `peak` brought to at most 1: ITU-R BT.2390, section 5.4.1.

    What is darker than a knee stays as it is.
    """
    source = float(_nits_to_pq(peak * WHITE_NITS))
    target = float(_nits_to_pq(WHITE_NITS)) / source
    knee = max(0.0, 1.5 * target - 0.5)
    code = _nits_to_pq(light * WHITE_NITS) / source
    t = (code - knee) / (1 - knee) if knee < 1 else np.zeros_like(code)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee
    bent += (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * target
    compressed: Float64[np.ndarray, "N"] = _pq_to_nits(bent.clip(0.0) * source) / WHITE_NITS
    return np.where(code < knee, light, compressed)


def _to_xyz(primaries: Any, inverse: bool = False) -> Float64[np.ndarray, "3 3"]:
    """Return the matrix from linear RGB of these primaries, with the white D65, to CIE XYZ."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([D65[0] / D65[1], 1.0, (1 - D65[0] - D65[1]) / D65[1]])
    matrix: Float64[np.ndarray, "3 3"] = columns * np.linalg.solve(columns, white)
    return np.linalg.inv(matrix) if inverse else matrix
