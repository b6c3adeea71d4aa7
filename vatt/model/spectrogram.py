"""Log-mel spectrograms, the other input of the audio tower (VATT section 4.4, SpT)."""

import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vatt.params import AUDIO_RATE_HZ, SPECTROGRAM_BANDS, SPECTROGRAM_HOP

WINDOW = 2048
HOP = SPECTROGRAM_HOP
NUM_BANDS = SPECTROGRAM_BANDS
LOWEST_HZ = 80.0
HIGHEST_HZ = 7600.0
GAIN = 10_000.0


class LogMel(nn.Module):
    """48 kHz waveforms to log-mel spectrograms in [0, 1], with 80 bands every 1024 samples."""

    window: Tensor
    bands: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        with torch.device("cpu"):  # torchaudio reads values, which the meta device has not
            bands = torchaudio.functional.melscale_fbanks(
                WINDOW // 2 + 1, LOWEST_HZ, HIGHEST_HZ, NUM_BANDS, AUDIO_RATE_HZ
            )
        self.register_buffer("bands", bands.to(self.window.device), persistent=False)

    def forward(self, audio: Tensor) -> Float[Tensor, "B F M"]:
        """Return the spectrograms of waveforms (B, S), each clip stretched to [0, 1].

        A constant one (silence) is 0. The last windows reach beyond the end, into zeros, so that F
        is S / 1024, rounded up.
        """
        check_waveform(audio)
        num_frames = count_frames(audio.shape[1])
        end = (num_frames - 1) * HOP + WINDOW
        # Small differences of loudness would drown in bfloat16.
        with torch.autocast(audio.device.type, enabled=False):
            magnitudes = torchaudio.functional.spectrogram(
                functional.pad(audio.float(), (0, end - audio.shape[1])),
                pad=0,
                window=self.window.float(),
                n_fft=WINDOW,
                hop_length=HOP,
                win_length=WINDOW,
                power=1.0,
                normalized=False,
                center=False,
            )
            logs = torch.log1p(GAIN * magnitudes.transpose(1, 2) @ self.bands.float())
            low, high = logs.amin((1, 2), keepdim=True), logs.amax((1, 2), keepdim=True)
            return (logs - low) / (high - low).clamp(min=1e-6)  # silence divides by that, not by 0


def check_waveform(audio: Tensor) -> None:
    """Raise a ValueError for what is not a float tensor of (clips, samples)."""
    if audio.ndim != 2 or not audio.is_floating_point():
        raise ValueError(
            f"audio: expected floats of (clips, samples), got {audio.dtype} {tuple(audio.shape)}"
        )


def count_frames(num_samples: int) -> int:
    """Return how many frames the spectrogram of a waveform has."""
    return -(-num_samples // HOP)
