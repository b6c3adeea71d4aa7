"""Log-mel spectrograms against a slow transform, and their patches and positions."""

import math
from collections.abc import Iterable
from typing import cast

import pytest
import torch

from tests import reference
from vatt.model.stem import LogMel, Positions, PositionTable, SpectrogramPatches, count_frames


def slow_log_mel(audio: torch.Tensor) -> torch.Tensor:
    """The spectrogram of one waveform, window by window and band by band."""
    samples = torch.cat([audio.double(), torch.zeros(2048)])
    window = torch.tensor([0.5 - 0.5 * math.cos(2 * math.pi * n / 2048) for n in range(2048)])
    edges_mel = torch.linspace(reference.mel(80.0), reference.mel(7600.0), 82, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    frequencies = torch.arange(1025, dtype=torch.float64) * 48_000 / 2048
    frames = []
    for start in range(0, len(audio), 1024):
        magnitudes = torch.fft.rfft(samples[start : start + 2048] * window).abs()
        row = []
        for low, centre, high in zip(edges_hz, edges_hz[1:], edges_hz[2:], strict=False):
            rising = (frequencies - low) / (centre - low)
            falling = (high - frequencies) / (high - centre)
            row.append((magnitudes * torch.minimum(rising, falling).clamp(min=0)).sum())
        frames.append(torch.log1p(10_000 * torch.stack(row)))
    spectrogram = torch.stack(frames)
    return (spectrogram - spectrogram.min()) / (spectrogram.max() - spectrogram.min())


def test_equals_a_slow_transform() -> None:
    torch.manual_seed(0)
    audio = torch.randn(2, 5000) * 0.1
    spectrograms = LogMel()(audio)
    assert spectrograms.shape == (2, count_frames(5000), 80) == (2, 5, 80)
    for found, waveform in zip(spectrograms, audio, strict=True):
        torch.testing.assert_close(found.double(), slow_log_mel(waveform), rtol=0, atol=1e-4)


def test_the_papers_clip() -> None:
    assert LogMel()(torch.rand(1, 153_600)).shape == (1, 150, 80)


@pytest.mark.parametrize("frequency_hz", [200.0, 1000.0, 5000.0])
def test_a_tone_is_loudest_in_its_band(frequency_hz: float) -> None:
    tone = torch.sin(2 * math.pi * frequency_hz * torch.arange(48_000) / 48_000)[None]
    loudest = LogMel()(tone)[0, 10].argmax().item()
    place = (reference.mel(frequency_hz) - reference.mel(80)) / (
        reference.mel(7600) - reference.mel(80)
    )
    assert loudest == pytest.approx(place * 81 - 1, abs=1)


def test_silence_is_zero_and_quiet_sound_is_not() -> None:
    audio = torch.stack([torch.zeros(4096), torch.randn(4096) * 1e-3])
    silent, quiet = LogMel()(audio)
    assert silent.abs().max() == 0
    assert (quiet.min(), quiet.max()) == (0, 1)


def test_tiles_hold_frames_times_bands() -> None:
    patches = SpectrogramPatches((2, 20), 8)
    patches.takes_spectrograms = True
    spectrogram = torch.rand(3, 5, 80)
    tiles = patches.cut(spectrogram)
    assert tiles.shape == (3, 2, 4, 40)
    assert torch.equal(tiles[1, 1, 3].view(2, 20), spectrogram[1, 2:4, 60:])
    with pytest.raises(ValueError, match="less than a patch"):
        patches.cut(spectrogram[:, :1])


def test_positions_may_run_the_other_way() -> None:
    """As the original numbers the places of spectrograms: the first axis fastest."""
    positions = Positions((3, 4), 8, first_axis_fastest=True)
    first, second = (table.table for table in cast("Iterable[PositionTable]", positions.tables))
    expected = torch.stack([first[i] + second[j] for j in range(4) for i in range(3)])
    torch.testing.assert_close(positions((3, 4)), positions.norm(expected))
