"""The sound of a demo scene: beats whose timbre is the material and whose rate is the rhythm."""

import numpy as np
from jaxtyping import Float

from vatt.data.sources.demo_scenes import Scene, beat_strength
from vatt.params import AUDIO_RATE_HZ

PARTIALS_HZ = {
    "metal": (2100.0, 3350.0, 5250.0),
    "wood": (420.0, 610.0),
    "glass": (7400.0, 9300.0),
    "rubber": (140.0, 210.0),
}
NOISE_BANDS_HZ = {
    "stone": (200.0, 12000.0),
    "water": (900.0, 1700.0),
    "brick": (150.0, 500.0),
    "cloth": (4500.0, 8500.0),
}


def play_scene(scene: Scene) -> Float[np.ndarray, " S"]:
    """Play the scene: mono at 48 kHz in [-1, 1], of random loudness, over random noise."""
    rng = np.random.default_rng([scene.seed, 1])
    times_s = np.arange(round(scene.duration_s * AUDIO_RATE_HZ)) / AUDIO_RATE_HZ
    beats = _sound_of(scene.material, times_s, rng) * (0.15 + 0.85 * beat_strength(scene, times_s))
    noise = _band_noise(len(times_s), (50.0, 6000.0), rng)
    sound = _unit_power(beats) + rng.uniform(0.2, 0.5) * noise
    fade = np.clip(np.minimum(times_s, times_s[::-1]) / 0.02, 0, 1)
    loudness = 10 ** rng.uniform(-0.9, -0.6)
    return np.tanh(loudness * _unit_power(sound * fade)).astype(np.float32)


def _sound_of(material: str, times_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if material in NOISE_BANDS_HZ:
        noise = _band_noise(len(times_s), NOISE_BANDS_HZ[material], rng)
        return _unit_power(np.tanh(1.5 * noise))  # no high peaks, which would be clipped
    pitch = rng.uniform(0.9, 1.1)
    phases = rng.uniform(0, 2 * np.pi, len(PARTIALS_HZ[material]))
    tones = [
        np.sin(2 * np.pi * pitch * partial_hz * times_s + phase)
        for partial_hz, phase in zip(PARTIALS_HZ[material], phases, strict=True)
    ]
    return _unit_power(np.sum(tones, axis=0))


def _band_noise(
    num_samples: int, band_hz: tuple[float, float], rng: np.random.Generator
) -> Float[np.ndarray, " S"]:
    """Return Gaussian noise of unit power between two frequencies."""
    spectrum = np.fft.rfft(rng.normal(size=num_samples))
    frequency_hz = np.fft.rfftfreq(num_samples, 1 / AUDIO_RATE_HZ)
    spectrum[(frequency_hz < band_hz[0]) | (frequency_hz > band_hz[1])] = 0
    return _unit_power(np.fft.irfft(spectrum, num_samples))


def _unit_power(sound: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = sound / np.sqrt(np.mean(sound**2))
    return scaled
