"""Patches against slow loops over the pixels, what is left over, and the first weights."""

import pytest
import torch

from vatt.model.stem import AudioPatches, SpectrogramPatches, VideoPatches


def test_boxes_hold_their_own_pixels_and_the_rest_is_cut_off() -> None:
    video = torch.randn(2, 5, 7, 13, 3)
    boxes = VideoPatches((2, 3, 4), width=8).cut(video)
    assert boxes.shape == (2, 2, 2, 3, 72)
    for t, h, w in [(0, 0, 0), (1, 0, 2), (0, 1, 1), (1, 1, 2)]:
        pixels = video[:, 2 * t : 2 * t + 2, 3 * h : 3 * h + 3, 4 * w : 4 * w + 4]
        assert torch.equal(boxes[:, t, h, w], pixels.reshape(2, 72))


def test_pieces_of_a_waveform() -> None:
    audio = torch.arange(20.0).view(2, 10)
    pieces = AudioPatches((4,), width=8).cut(audio)
    assert pieces.tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[10, 11, 12, 13], [14, 15, 16, 17]]]


def test_first_weights_are_those_of_a_dense_layer() -> None:
    projection = VideoPatches((4, 8, 8), width=128).projection
    bound = (6 / (4 * 8 * 8 * 3 + 128)) ** 0.5
    assert projection.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert projection.bias.abs().max() == 0


@pytest.mark.parametrize(
    "video",
    [
        torch.zeros(1, 4, 16, 16, 4),
        torch.zeros(4, 16, 16, 3),
        torch.zeros(1, 4, 16, 16, 3, dtype=torch.uint8),
    ],
)
def test_what_is_no_video_is_refused(video: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"video: expected floats of \(clips, frames"):
        VideoPatches((2, 8, 8), 8).cut(video)


@pytest.mark.parametrize(
    "audio", [torch.zeros(2, 512, 1), torch.zeros(512), torch.zeros(2, 512, dtype=torch.int16)]
)
def test_what_is_no_waveform_is_refused(audio: torch.Tensor) -> None:
    for patches in (AudioPatches((64,), 8), SpectrogramPatches((1, 5), 8)):
        with pytest.raises(ValueError, match=r"audio: expected floats of \(clips, samples\)"):
            patches.cut(audio)
