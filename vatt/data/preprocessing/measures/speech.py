"""Where somebody speaks: the probability that silero-vad gives to every 32 ms of a sound."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import Float32

SPEECH_RATE_HZ = 16_000
"""Sample rate that the model wants."""
FRAME_SAMPLES = 512
FRAME_S = FRAME_SAMPLES / SPEECH_RATE_HZ
CONTEXT_SAMPLES = 64
"""Samples before a frame that the model sees, too."""
MAX_FRAMES = 512
"""Frames computed at once, to bound memory."""
STATE_SHAPE = (1, 1, 128)


@cache
def _open_model() -> Any:
    """Open the model that is in the wheel of silero-vad, for many frames at once, on one thread.

    The package itself is not imported: it would take torch along, into every process.
    """
    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ImportError("silero_vad is not installed")
    path = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class SpeechDetector:
    """Hears a sound piece by piece; what it finds does not depend on how the sound is cut."""

    def __init__(self) -> None:
        self._ahead = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._hidden = self._cell = np.zeros(STATE_SHAPE, np.float32)

    def hear(self, samples: Float32[np.ndarray, "S"]) -> Float32[np.ndarray, "T"]:
        """Return the probability of speech, in [0, 1], for every frame that has become full."""
        ahead = np.concatenate([self._ahead, samples])
        num_frames = (len(ahead) - CONTEXT_SAMPLES) // FRAME_SAMPLES
        self._ahead = ahead[num_frames * FRAME_SAMPLES :]
        if not num_frames:
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(ahead, CONTEXT_SAMPLES + FRAME_SAMPLES)
        frames = windows[::FRAME_SAMPLES]
        parts = []
        for start in range(0, num_frames, MAX_FRAMES):
            inputs = {"input": np.ascontiguousarray(frames[start : start + MAX_FRAMES])}
            inputs |= {"h": self._hidden, "c": self._cell}
            part, self._hidden, self._cell = _open_model().run(["speech_probs", "hn", "cn"], inputs)
            parts.append(part)
        return np.concatenate(parts)

    def finish(self) -> Float32[np.ndarray, "T"]:
        """Return the probability of the last frame, filled up with silence, if one has begun."""
        num_left = len(self._ahead) - CONTEXT_SAMPLES
        return self.hear(np.zeros(-num_left % FRAME_SAMPLES, np.float32))
