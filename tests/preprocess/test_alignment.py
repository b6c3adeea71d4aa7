import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vatt.corpus.manifest import Annotation
from vatt.media.captions import Caption
from vatt.preprocess.cuts import annotate, measure_words, overlap_s, select_context

CAPTIONS = [
    Caption(0.0, 2.0, "one two"),
    Caption(3.0, 5.0, "three four five six"),
    Caption(9.0, 10.0, "seven"),
    Caption(30.0, 31.0, "far"),
]


def test_context_reaches_beyond_the_segment_and_is_relative_to_it() -> None:
    assert select_context(CAPTIONS, 4.0, 8.0, 2.5) == [
        Caption(-4.0, -2.0, "one two"),
        Caption(-1.0, 1.0, "three four five six"),
        Caption(5.0, 6.0, "seven"),
    ]
    assert select_context(CAPTIONS, 4.0, 8.0, 0.0) == [Caption(-1.0, 1.0, "three four five six")]


def test_words_of_a_caption_count_by_its_share() -> None:
    # Half of the caption from 3 to 5 s, four words long, lies in the segment of 4 s.
    for start_s, expected in [(4.0, (1, 2 / 4)), (0.0, (2, (2 + 2) / 4))]:
        np.testing.assert_allclose(measure_words(CAPTIONS, start_s, start_s + 4), expected)
    count, words_per_second = measure_words(CAPTIONS, 12.0, 16.0)
    assert count == 0
    assert math.isnan(words_per_second)


def test_labels_hold_where_they_cover_half_of_the_segment() -> None:
    annotations = [
        Annotation("place", "kitchen"),
        Annotation("action", "cut", 0.0, 5.0),
        Annotation("action", "stir", 5.0, 9.0),
        Annotation("caption", None, 0.0, 6.1, "A person cuts."),
        Annotation("caption", None, 6.1, 20.0, "A person stirs."),
        Annotation("event", "bang", 4.0, 4.5),
    ]
    labels, descriptions = annotate(annotations, 4.0, 8.0)
    assert labels == {"place": ["kitchen"], "action": ["stir"]}
    assert descriptions == ["A person cuts."]
    assert annotate(annotations, 12.0, 16.0) == ({"place": ["kitchen"]}, ["A person stirs."])
    assert annotate([], 0.0, 4.0) == ({}, [])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.1, 30.0), st.floats(0.0, 60.0), st.sampled_from([4.0, 10.0]), st.floats(61.0, 90.0)
)
def test_no_description_is_lost_however_short(
    length_s: float, start_s: float, segment_s: float, file_s: float
) -> None:
    """Files are cut into segments of equal length and a rest of 2 s or more."""
    step = Annotation("caption", None, start_s, min(start_s + length_s, file_s), "Stir.")
    starts = [segment_s * number for number in range(int((file_s - 2) / segment_s) + 1)]
    ends = [*starts[1:], file_s]
    overlaps = [overlap_s(step, *times) for times in zip(starts, ends, strict=True)]
    holds = [bool(annotate([step], *times)[1]) for times in zip(starts, ends, strict=True)]
    assert holds[overlaps.index(max(overlaps))]
    assert all(overlap > 0 for overlap, held in zip(overlaps, holds, strict=True) if held)
    # Labels are of what is trained on: one that holds for a moment is none of the segment.
    moment = Annotation("event", "bang", start_s, start_s + 0.1)
    assert annotate([moment], 0.0, segment_s)[0] == {}


def test_all_labels_and_descriptions_are_kept_the_longest_first() -> None:
    annotations = [
        Annotation("event", "bark", 0.0, 3.0),
        Annotation("event", "speech"),
        Annotation("event", "bark", 0.0, 4.0),
        Annotation("caption", text="A dog.", start_s=0.0, end_s=2.0),
        Annotation("event", "music", 0.0, 3.0),
        Annotation("caption", text="A dog barks."),
        Annotation("caption", text="A dog."),
    ]
    labels, descriptions = annotate(annotations, 0.0, 4.0)
    assert labels == {"event": ["speech", "bark", "music"]}
    assert descriptions == ["A dog barks.", "A dog."]


def test_of_equal_labels_the_first_of_the_manifest_is_first() -> None:
    annotations = [Annotation("action", "b"), Annotation("action", "a")]
    assert annotate(annotations, 0.0, 1.0)[0] == {"action": ["b", "a"]}
