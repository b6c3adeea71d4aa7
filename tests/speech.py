"""Speech that nobody spoke: pulses through moving formants, in phrases, and captions for them.

A detector of speech hears it as such, and it is free.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

FORMANTS_HZ = (
    *((730, 1090, 2440), (270, 2290, 3010), (530, 1840, 2480), (570, 840, 2410)),
    *((300, 870, 2240), (660, 1720, 2410), (490, 1350, 1690)),
)
CHARACTERS_PER_SECOND = 14
PARTS = 8
"""Parts of a syllable, in each of which the formants stand still."""


class Speech(NamedTuple):
    """A sound, and when its phrases start and end."""

    samples: npt.NDArray[np.float32]
    phrases_s: list[tuple[float, float]]


def say(duration_s: float, seed: int, rate_hz: int = 16_000) -> Speech:
    """Speak phrases of 1 to 5 s, with pauses of 0.3 to 4 s, over a little noise."""
    rng = np.random.default_rng([seed, 16])
    samples = rng.normal(0, 0.001, round(duration_s * rate_hz))
    phrases_s = []
    start_s = rng.uniform(0.2, 2.0)
    while start_s < duration_s - 1.5:
        end_s = min(start_s + rng.uniform(1.0, 5.0), duration_s - 0.2)
        begin, end = round(start_s * rate_hz), round(end_s * rate_hz)
        syllables = [_syllable(rng, rate_hz)]
        while sum(map(len, syllables)) < end - begin:
            syllables.append(_syllable(rng, rate_hz))
        samples[begin:end] += np.concatenate(syllables)[: end - begin]
        phrases_s.append((float(start_s), float(end_s)))
        start_s = end_s + 0.3 + min(3.7, rng.exponential(1.0))
    return Speech(np.clip(samples, -1, 1).astype(np.float32), phrases_s)


def _syllable(rng: np.random.Generator, rate_hz: int) -> npt.NDArray[np.float64]:
    """A short hiss, then a vowel that glides into another."""
    length = round(rng.uniform(0.12, 0.25) * rate_hz)
    shape = np.arange(length) / length
    pitch_hz = rng.uniform(100, 140) * (1 - 0.1 * shape)
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / rate_hz), prepend=0)
    source = lfilter([1], [1, -0.96], pulses)
    first, last = (FORMANTS_HZ[place] for place in rng.integers(len(FORMANTS_HZ), size=2))
    states = np.zeros((3, 2))
    vowel = []
    for number, part in enumerate(np.array_split(source, PARTS)):
        sound = part
        for formant, (begin_hz, end_hz) in enumerate(zip(first, last, strict=True)):
            centre_hz = begin_hz + (end_hz - begin_hz) * number / (PARTS - 1)
            radius = np.exp(-np.pi * (60 + 40 * formant) / rate_hz)
            poles = [1, -2 * radius * np.cos(2 * np.pi * centre_hz / rate_hz), radius**2]
            sound, states[formant] = lfilter([sum(poles)], poles, sound, zi=states[formant])
        vowel.append(sound)
    envelope = np.minimum(1, np.minimum(shape / 0.15, (1 - shape) / 0.2))
    voiced = np.concatenate(vowel) * envelope
    hiss_length = round(rng.uniform(0.03, 0.08) * rate_hz)
    hiss = np.diff(rng.normal(size=hiss_length + 1)) * 0.15 * np.hanning(hiss_length)
    return np.concatenate([hiss, 0.1 * voiced / np.sqrt(np.mean(voiced**2))])


def write_captions(path: Path, speech: Speech, shift_s: float = 0.0) -> Path:
    """Write a WebVTT file that captions the phrases, with times moved by `shift_s`."""
    blocks = ["WEBVTT"]
    for number, (start_s, end_s) in enumerate(speech.phrases_s):
        if start_s + shift_s >= 0:
            text = f"{number:03} ".ljust(round((end_s - start_s) * CHARACTERS_PER_SECOND), "x")
            blocks.append(f"{stamp(start_s + shift_s)} --> {stamp(end_s + shift_s)}\n{text}")
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path


def stamp(time_s: float) -> str:
    """Return a time as WebVTT writes it."""
    minutes, milliseconds = divmod(round(1000 * time_s), 60_000)
    return f"{minutes:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"
