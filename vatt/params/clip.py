"""Parameters of the clip that the model sees, and of its random changes in training."""

from typing import Literal

from pydantic import Field

from vatt.params.section import Rate, Section

AUDIO_RATE_HZ = 48_000
"""Sample rate of all stored and model audio (VATT section 4.1)."""
SPECTROGRAM_HOP = 1024
"""The number of samples between two frames of a spectrogram."""
SPECTROGRAM_BANDS = 80
"""The number of mel bands of a spectrogram."""


class AugmentParams(Section):
    """Random changes of training clips (VATT section 4.2)."""

    crop: Literal["vgg", "inception"]
    """`vgg` (released code) scales to the short side and cuts a square out; `inception` (paper)
    takes a box of 0.08 to 1 of the area with proportions of 0.5 to 2 and squeezes it to a
    square."""
    scale_jitter_rate: Rate
    """How often height and width are scaled by independent factors of 0.8 to 1.2, before the vgg
    crop only; 0.8 as released."""
    flip_rate: Rate
    """How often left and right are swapped; 0.5 in the paper."""
    colour_jitter_rate: Rate
    """How often brightness, saturation, contrast and hue are changed; 0.8 in the paper."""
    audio_noise: float = Field(ge=0)
    """Standard deviation of the noise added, relative to the loudest sample; 0.01 in the paper."""


class ClipParams(Section):
    """The clip that the model sees."""

    num_frames: int = Field(ge=1)
    frame_size_px: int = Field(ge=8)
    num_samples: int = Field(ge=1)
    """The number of audio samples at 48 kHz."""
    num_tokens: int = Field(ge=1)
    """Word pieces of one caption; longer captions are cut, shorter ones padded with id 0."""
    num_candidates: int = Field(ge=1)
    """Captions of a clip that MIL-NCE may choose from (VATT section 3.4: five nearest in time)."""
    augment: AugmentParams = AugmentParams(
        crop="vgg", scale_jitter_rate=0.8, flip_rate=0.5, colour_jitter_rate=0.8, audio_noise=0.01
    )
    """The random changes of clips, made in training only."""
