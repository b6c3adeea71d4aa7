"""The captions that MIL-NCE may choose from: neighbours in time, worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatt.media.captions import Caption, choose_candidates

# Starts 0, 2, 3, 9, 10, 11, 20; each lasts a second.
CAPTIONS = [Caption(float(s), s + 1.0, f"at {s}") for s in (0, 2, 3, 9, 10, 11, 20)]


@pytest.mark.parametrize(
    ("time_s", "num_captions", "expected"),
    [
        (9.5, 1, [9]),
        (9.5, 3, [9, 10, 11]),  # 9-11 and 9-12 are shorter than 3-10 and 3-11
        (9.5, 4, [9, 10, 11, 3]),  # 3-12 is 9 s, 9-21 is 12 s
        (9.5, 5, [9, 10, 11, 3, 2]),  # 2-12 is 10 s, 3-21 is 18 s
        (0.2, 5, [0, 2, 3, 9, 10]),  # the first captions at the left edge
        (-50.0, 2, [0, 2]),
        (25.0, 5, [20, 11, 10, 9, 3]),  # the last ones at the right edge
        (2.9, 2, [2, 3]),
        (3.0, 2, [2, 3]),  # both touch 3 s; the earlier first
        (10.5, 99, [10, 9, 11, 3, 2, 0, 20]),  # all; 0 to 1 and 20 are equally far
    ],
)
def test_the_window_grows_to_the_shorter_side(
    time_s: float, num_captions: int, expected: list[int]
) -> None:
    found = choose_candidates(CAPTIONS, time_s, num_captions)
    assert [caption.text for caption in found] == [f"at {second}" for second in expected]


def test_a_greedy_step_is_not_taken_back() -> None:
    # From 10 s, 13 (span 4) is nearer than 6 (span 5); then 6 (span 8) than 19 (span 10), although
    # the captions of 4, 6 and 10 s would make the shortest span of three.
    captions = [Caption(float(s), s + 1.0, str(s)) for s in (4, 6, 10, 13, 19)]
    assert {c.text for c in choose_candidates(captions, 10.5, 3)} == {"6", "10", "13"}
    assert {c.text for c in choose_candidates(captions, 10.5, 4)} == {"4", "6", "10", "13"}


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=12),
    st.integers(-5, 60),
    st.integers(1, 8),
)
def test_candidates_are_neighbours_with_the_nearest_first(
    rows: list[tuple[int, int]], time_s: int, num_captions: int
) -> None:
    ordered = sorted({(start, start + length) for start, length in rows})
    captions = [Caption(start, end, str(n)) for n, (start, end) in enumerate(ordered)]
    found = choose_candidates(captions, time_s, num_captions)
    assert len(found) == min(num_captions, len(captions))
    places = sorted(int(caption.text) for caption in found)
    assert places == list(range(places[0], places[0] + len(places))) if places else not captions
    distances_s = [max(c.start_s - time_s, time_s - c.end_s, 0) for c in found]
    assert distances_s == sorted(distances_s)
    if found:
        assert distances_s[0] == min(max(c.start_s - time_s, time_s - c.end_s, 0) for c in captions)
