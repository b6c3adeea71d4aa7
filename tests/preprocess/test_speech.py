import numpy as np
import pytest
import silero_vad
import torch

from tests.speech import say
from vatt.preprocess.analysis import FRAME_S, SpeechDetector


def hear(samples: np.ndarray, *, cuts: tuple[int, ...] = ()) -> np.ndarray:
    detector = SpeechDetector()
    parts = [detector.hear(part) for part in np.split(samples, cuts)]
    return np.concatenate([*parts, detector.finish()])


def test_speech_is_heard_where_it_is() -> None:
    speech = say(30.0, seed=1)
    found = hear(speech.samples)
    assert len(found) == np.ceil(30.0 / FRAME_S)
    times_s = (np.arange(len(found)) + 0.5) * FRAME_S
    starts_s, ends_s = np.array(speech.phrases_s).T[..., None]
    far_inside = ((times_s > starts_s + 0.3) & (times_s < ends_s - 0.3)).any(axis=0)
    near = ((times_s > starts_s - 0.3) & (times_s < ends_s + 0.3)).any(axis=0)
    assert np.mean(found[far_inside] > 0.5) > 0.95
    assert np.mean(found[~near] > 0.5) < 0.05


def test_other_sounds_are_no_speech() -> None:
    rng = np.random.default_rng(0)
    times_s = np.arange(16_000 * 5) / 16_000
    beats = np.sin(2 * np.pi * 420 * times_s) * (np.sin(2 * np.pi * 3 * times_s) > 0)
    for sound in (rng.normal(0, 0.1, len(times_s)), 0.3 * beats, np.zeros(len(times_s))):
        assert np.mean(hear(sound.astype(np.float32)) > 0.5) < 0.05


def test_probabilities_are_those_of_the_package() -> None:
    samples = say(12.0, seed=2).samples
    with torch.inference_mode():
        expected = silero_vad.load_silero_vad().audio_forward(torch.from_numpy(samples), 16_000)
    np.testing.assert_allclose(hear(samples), expected[0].numpy(), atol=1e-3)


@pytest.mark.parametrize("cuts", [(1,), (511, 512, 513), (100, 100, 5000), (64_000,)])
def test_it_does_not_matter_how_the_sound_is_cut(cuts: tuple[int, ...]) -> None:
    samples = say(6.0, seed=3).samples
    np.testing.assert_allclose(hear(samples, cuts=cuts), hear(samples), atol=1e-5)


def test_a_short_sound_has_one_frame() -> None:
    assert len(hear(np.zeros(5, np.float32))) == 1
    assert len(hear(np.zeros(0, np.float32))) == 0
