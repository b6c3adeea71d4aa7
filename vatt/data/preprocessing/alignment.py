"""How captions, labels, sound and picture of a segment agree: what the index says of it."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int16, UInt8

from vatt.data.captions import Caption
from vatt.data.manifest import Annotation
from vatt.params import AUDIO_RATE_HZ

SILENT_WINDOW_SAMPLES = AUDIO_RATE_HZ // 50
SILENT_AMPLITUDE = 32768 * 10 ** (-60 / 20)
BLACK_LUMA = 16.0
LUMA = np.array([0.299, 0.587, 0.114])
MIN_LABEL_SHARE = 0.5
"""A label holds for a segment if its time range covers this share of it."""


def overlap_s(item: Caption | Annotation, start_s: float, end_s: float) -> float:
    """Return for how long an item and a time range overlap; no time means the whole file."""
    begin = start_s if item.start_s is None else max(start_s, item.start_s)
    end = end_s if item.end_s is None else min(end_s, item.end_s)
    return max(0.0, end - begin)


def select_context(
    captions: Iterable[Caption], start_s: float, end_s: float, context_s: float
) -> list[Caption]:
    """Return the captions up to `context_s` away from a segment, with times relative to its start."""
    return [
        dataclasses.replace(
            caption,
            start_s=round(caption.start_s - start_s, 6),
            end_s=round(caption.end_s - start_s, 6),
        )
        for caption in captions
        if overlap_s(caption, start_s - context_s, end_s + context_s) > 0
    ]


def measure_words(captions: Sequence[Caption], start_s: float, end_s: float) -> tuple[int, float]:
    """Return how many captions overlap a segment, and the words per second that they make in it.

    A caption that overlaps in part counts with that share of its words. NaN without captions.
    """
    shares = [
        (overlap_s(caption, start_s, end_s) / (caption.end_s - caption.start_s), caption.text)
        for caption in captions
    ]
    spoken = [(share, text) for share, text in shares if share > 0]
    if not spoken:
        return 0, math.nan
    num_words = sum(share * len(text.split()) for share, text in spoken)
    return len(spoken), num_words / (end_s - start_s)


def annotate(
    annotations: Iterable[Annotation], start_s: float, end_s: float
) -> tuple[dict[str, str], str | None]:
    """Return the label of every task, and the description, that hold for a segment.

    Of several, the one that overlaps the segment most; of equals, the first.
    """
    best: dict[str, tuple[float, str]] = {}
    for annotation in annotations:
        value = annotation.text if annotation.task == "caption" else annotation.label
        length_s = overlap_s(annotation, start_s, end_s)
        if value is None or length_s < MIN_LABEL_SHARE * (end_s - start_s):
            continue
        if annotation.task not in best or length_s > best[annotation.task][0]:
            best[annotation.task] = (length_s, value)
    values = {task: value for task, (_, value) in sorted(best.items())}
    description = values.pop("caption", None)
    return values, description


def measure_silence(samples: Int16[np.ndarray, "S"]) -> float:
    """Return the share of windows of 20 ms (the last may be shorter) below -60 dBFS; NaN if empty."""
    if not len(samples):
        return math.nan
    starts = np.arange(0, len(samples), SILENT_WINDOW_SAMPLES)
    energies = np.add.reduceat(samples.astype(np.float64) ** 2, starts)
    lengths = np.diff(np.append(starts, len(samples)))
    return float(np.mean(energies / lengths < SILENT_AMPLITUDE**2))


def measure_black(pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> float:
    """Return the share of frames whose mean luma is below 16 of 255; NaN without frames."""
    if not pictures:
        return math.nan
    return float(np.mean([picture.mean((0, 1)) @ LUMA < BLACK_LUMA for picture in pictures]))
