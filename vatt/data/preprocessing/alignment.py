"""Which captions and labels belong to a segment: what the index and the shards say of them."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from vatt.data.captions import Caption
from vatt.data.manifest import Annotation

MIN_SHARE = 0.5
"""A label holds for a segment if its time range covers this share of it; a description, also if this
share of its own time range is in the segment."""
ROUNDING_S = 1e-6


def overlap_s(item: Caption | Annotation, start_s: float, end_s: float) -> float:
    """Return for how long an item and a time range overlap; no time means the whole file."""
    begin = start_s if item.start_s is None else max(start_s, item.start_s)
    end = end_s if item.end_s is None else min(end_s, item.end_s)
    return max(0.0, end - begin)


def _measure_s(annotation: Annotation) -> float:
    """Return how long an annotation holds; infinite without a start or an end."""
    if annotation.start_s is None or annotation.end_s is None:
        return math.inf
    return annotation.end_s - annotation.start_s


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
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the labels of every task, and the descriptions, that hold for a segment.

    Those that overlap it most come first; of equals, those of the manifest's order. None is twice. A
    description of a part that is shorter than segments so holds for the one that it overlaps most:
    as a query, it must not be lost.
    """
    holding: list[tuple[float, str, str]] = []
    for annotation in annotations:
        value = annotation.text if annotation.task == "caption" else annotation.label
        length_s = overlap_s(annotation, start_s, end_s)
        whole_s = end_s - start_s
        if annotation.task == "caption":
            whole_s = min(whole_s, _measure_s(annotation) - ROUNDING_S)
        if value is not None and length_s > 0 and length_s >= MIN_SHARE * whole_s:
            holding.append((length_s, annotation.task, value))
    holding.sort(key=lambda item: -item[0])
    values: dict[str, list[str]] = {}
    for _, task, value in holding:
        of_task = values.setdefault(task, [])
        if value not in of_task:
            of_task.append(value)
    descriptions = values.pop("caption", [])
    return values, descriptions
