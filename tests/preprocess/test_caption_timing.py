import math

import numpy as np
import pytest

from tests.speech import CHARACTERS_PER_SECOND, Speech, say
from vatt.media.captions import Caption
from vatt.preprocess.analysis import FRAME_S, UNKNOWN, SpeechDetector, estimate_timing


def hear(speech: Speech) -> np.ndarray:
    detector = SpeechDetector()
    return np.concatenate([detector.hear(speech.samples), detector.finish()])


SPEECHES = {seed: say(60.0, seed) for seed in range(6)}
TRACKS = {seed: hear(speech) for seed, speech in SPEECHES.items()}


def subtitle(seed: int, shift_s: float) -> list[Caption]:
    """Captions as people write them: a little off, and they stay for a while."""
    rng = np.random.default_rng(seed)
    return [
        Caption(
            start_s + shift_s + rng.normal(0, 0.1),
            end_s + shift_s + rng.uniform(0, 0.8),
            "x" * round((end_s - start_s) * CHARACTERS_PER_SECOND * rng.uniform(0.8, 1.2)),
        )
        for start_s, end_s in SPEECHES[seed].phrases_s
    ]


def recognise(seed: int, shift_s: float) -> list[Caption]:
    """Captions as recognisers write them: each stays until the next one begins."""
    captions = subtitle(seed, shift_s)
    ends_s = [caption.start_s for caption in captions[1:]] + [captions[-1].end_s + 3]
    return [
        Caption(caption.start_s, end_s, caption.text)
        for caption, end_s in zip(captions, ends_s, strict=True)
    ]


@pytest.mark.parametrize("style", [subtitle, recognise])
@pytest.mark.parametrize("shift_s", [-3.0, -1.7, -0.4, 0.0, 0.9, 2.0, 3.0])
def test_shifted_captions_are_found(style: type, shift_s: float) -> None:
    for seed, track in TRACKS.items():
        timing = estimate_timing(track, style(seed, shift_s))
        assert abs(timing.offset_s - shift_s) < 0.5
        assert timing.score > 0.3


@pytest.mark.parametrize("style", [subtitle, recognise])
def test_captions_of_another_video_score_low(style: type) -> None:
    scores = [
        estimate_timing(track, style(other, 0.0)).score
        for seed, track in TRACKS.items()
        for other in TRACKS
        if other != seed
    ]
    assert max(scores) < 0.3
    assert np.mean(np.array(scores) < 0.2) > 0.9


def test_correlation_and_lag_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    speech = np.repeat(rng.uniform(0, 1, 400), 5)
    captions = [Caption(float(t), t + 0.7, "x" * 7) for t in np.cumsum(rng.uniform(1, 5, 18))]
    timing = estimate_timing(speech, captions)
    centres_s = np.arange(len(speech)) * FRAME_S
    best = {}
    for frames in range(-312, 313):
        at_s = centres_s + frames * FRAME_S
        shown = np.zeros(len(speech))
        for caption in captions:
            begin, end = round(caption.start_s / FRAME_S), round(caption.end_s / FRAME_S)
            places = np.round(at_s / FRAME_S)
            shown[(places >= begin) & (places < end)] = 1
        if shown.std() > 0:
            best[frames] = np.corrcoef(speech, shown)[0, 1]
    assert timing.offset_s == pytest.approx(max(best, key=best.__getitem__) * FRAME_S, abs=1e-3)


def test_without_captions_or_speech_nothing_is_known() -> None:
    captions = subtitle(0, 0.0)
    assert estimate_timing(np.zeros(2000), captions) == UNKNOWN
    assert estimate_timing(TRACKS[0], []) == UNKNOWN
    assert estimate_timing(np.zeros(0), captions) == UNKNOWN
    assert estimate_timing(TRACKS[0], [Caption(900.0, 910.0, "far beyond")]) == UNKNOWN


def test_a_short_or_even_video_has_no_score() -> None:
    assert math.isnan(estimate_timing(TRACKS[0][:150], subtitle(0, 0.0)[:2]).score)
    endless = [Caption(0.0, 60.0, "x" * 600)]
    assert math.isnan(estimate_timing(TRACKS[0], endless).score)
    assert math.isnan(estimate_timing(np.ones(2000), subtitle(0, 0.0)).score)
