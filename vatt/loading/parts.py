"""Parts of files, from any time to any other, read from the segments that they lie in.

Segments of one file follow each other without a gap on one grid of frames, so that the frames of a
part are those that are shown from its start to its end, whatever segments hold them.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vatt.corpus.samples import FIELDS, Sample
from vatt.loading.clips import ClipReader, View

ROUNDING_S = 1e-6
EDGE_S = 1.0
"""A part may lack this much at its start or its end: people write times in whole seconds, and the
last step of a recipe ends after its video."""


class Piece(NamedTuple):
    """Some frames of a segment."""

    sample: Sample
    first_frame: int
    num_frames: int


class UncoveredError(Exception):
    """The corpus lacks the pictures of a part; the message says of which time."""


def cover_part(segments: Sequence[Any], start_s: float, end_s: float | None) -> tuple[Piece, ...]:
    """Return the frames of a part of a file from its segments, rows of the index in order of time.

    Without an end, it is that of the file. A part that is shorter than the time between two frames
    has one.

    Raises:
        UncoveredError: what it lacks is no edge of it.
    """
    if not segments:
        raise UncoveredError("its file is in quarantine.jsonl")
    end_s = segments[-1].end_s if end_s is None else end_s
    pieces: list[Piece] = []
    covered_s = start_s
    for segment in segments:
        rate_hz = segment.frame_rate_hz
        times_s = (start_s, max(end_s, start_s + 1 / rate_hz))
        first, last = (
            math.ceil((time_s - segment.start_s - ROUNDING_S) * rate_hz) for time_s in times_s
        )
        first, last = max(0, first), min(int(segment.num_frames), last)
        if segment.has_video and first < last:
            # Where a segment is lacking, it is a whole one: less than a frame is rounding.
            if segment.start_s - covered_s > (1 / rate_hz if pieces else EDGE_S):
                raise UncoveredError(_name_gap(covered_s, segment.start_s))
            sample = Sample(**{name: getattr(segment, name) for name in FIELDS})
            pieces.append(Piece(sample, first, last - first))
            covered_s = segment.end_s
    if not pieces or end_s - covered_s > EDGE_S:
        raise UncoveredError(_name_gap(covered_s, end_s))
    return tuple(pieces)


def _name_gap(start_s: float, end_s: float) -> str:
    return f"no picture is stored from {start_s:.2f} to {end_s:.2f} s"


class PartReader(ClipReader):
    """Reads windows of the pictures of parts, and of segments.

    A part is what a segment is, with `pieces` in place of a shard: windows are joined across them.
    """

    def read_frames(
        self, segment: Any, first_frame: int, num_frames: int, view: View
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """Return a view of frames of a segment or part that has pictures."""
        pieces = getattr(segment, "pieces", None)
        if not isinstance(pieces, tuple):
            return super().read_frames(segment, first_frame, num_frames, view)
        frames = []
        for piece in pieces:
            num_read = min(piece.num_frames - first_frame, num_frames)
            if num_read > 0:
                begin = piece.first_frame + first_frame
                frames.append(super().read_frames(piece.sample, begin, num_read, view))
                num_frames -= num_read
            first_frame = max(0, first_frame - piece.num_frames)
        return np.concatenate(frames)
