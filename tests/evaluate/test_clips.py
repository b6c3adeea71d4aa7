"""Clips that were one file, or one part of it, are one sample again."""

import numpy as np
import pytest

from tests.evaluate.world import describe, make_clips


def test_parts_of_a_file_with_the_same_annotations_are_one_sample() -> None:
    names = ["a.mp4, 0 s", "a.mp4, 10 s", "a.mp4, 20 s", "b.mp4, 0 s", "b.mp4, 10 s", "c.mp4, 0 s"]
    labels = [{"t": ["x"]}, {"t": ["x"]}, {"t": ["y"]}, {"t": ["x"]}, {"t": ["x"]}, {}]
    texts = [("p",), ("p",), ("q",), ("p",), ("r",), ("p",)]
    clips = make_clips(names, labels, texts)
    described = describe(clips)
    assert described.find_pairs("text_to_video") == [[0, 1], [2], [3], [4], [5]]
    assert described.find_labelled("t", ["video"]) == [[0, 1], [2], [3], [4]]
    # Narration differs from clip to clip of one file: it makes no samples.
    assert clips.find_pairs("text_to_video") == [[0], [1], [2], [3], [4], [5]]
    assert clips.find_labelled("t", ["video"]) == [[0, 1], [2], [3, 4]]
    silent = describe(clips, has_audio=np.arange(6) != 1)
    assert silent.find_pairs("audio_to_video") == [[0], [2], [3], [4], [5]]
    assert silent.find_labelled("t", ["video", "audio"]) == [[0], [2], [3], [4]]


def test_events_apart_in_time_are_samples_of_their_own() -> None:
    """Of a match, kicks at 0 to 20, 30 to 40 and 50 to 60 s; then the next match begins."""
    times = [0, 10, 30, 50, 0]
    names = [f"{'b' if number == 4 else 'a'}.mp4, {time} s" for number, time in enumerate(times)]
    clips = make_clips(names, [{"t": ["kick"]}] * 5, [("A kick.",)] * 5)
    expected = [[0, 1], [2], [3], [4]]
    assert describe(clips).find_pairs("text_to_video") == expected
    assert clips.find_labelled("t", ["video"]) == expected
    # A part without sound does not part those around it.
    whole = describe(
        clips,
        start_s=[0, 10, 20.0000001, 30, 0],
        end_s=[10, 20, 30, 40, 10],
        has_audio=np.arange(5) != 1,
    )
    assert whole.find_labelled("t", ["audio"]) == [[0, 2, 3], [4]]


@pytest.mark.parametrize(
    ("places", "sample", "expected"),
    [
        ((0.0, 0.5, 1.0), [4], [(4, 0), (4, 0.5), (4, 1)]),
        # The middle, which is there for learning, is left out.
        ((0.5, 0.0, 0.5, 1.0), [4], [(4, 0), (4, 0.5), (4, 1)]),
        ((0.0, 0.5, 1.0), [1, 2, 3], [(1, 0), (2, 0.5), (3, 1)]),
        ((0.0, 1.0), [1, 2], [(1, 0), (2, 1)]),
        ((0.5,), [1, 2, 3], [(2, 0.5)]),
    ],
)
def test_windows_of_a_sample_are_spread_over_its_clips(
    places: tuple[float, ...], sample: list[int], expected: list[tuple[int, float]]
) -> None:
    clips = make_clips([str(number) for number in range(5)], [{}] * 5, [()] * 5, places=places)
    values = np.array([[(number, place) for place in places] for number in range(5)])
    assert [tuple(window) for window in clips.see_samples(values, [sample])[0]] == expected
    assert clips.see_samples(values, []).shape == (0, len(expected), 2)
