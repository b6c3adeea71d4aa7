"""Audio-visual classifiers: what goes into the fusion, one encoder for both, views."""

import pytest
import torch
from torch import Tensor

from tests.model.networks import AUDIO_VISUAL
from tests.model.test_parity_classifier import VIDEO
from tests.train.tasks import TASK
from vatt.model.classifier import (
    AudioVisualClassifier,
    AudioVisualParams,
    apply_rates,
    build_network,
    list_towers,
)
from vatt.model.stem import DropToken
from vatt.model.transformer import Dropout, Encoder


def draw_clips(num_clips: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(num_clips, 4, 16, 16, 3, generator=generator) * 2 - 1
    return video, torch.rand(num_clips, 96, generator=generator) * 2 - 1


def build(params: AudioVisualParams) -> AudioVisualClassifier:
    torch.manual_seed(1)
    network = build_network(params).eval()
    assert isinstance(network, AudioVisualClassifier)
    return network


@pytest.mark.parametrize("kind", AUDIO_VISUAL)
def test_logits_are_the_head_of_the_fused_towers(kind: str) -> None:
    network = build(AUDIO_VISUAL[kind])
    video, audio = draw_clips()
    features = network.fusion(
        network.video(video, all_tokens=True), network.audio(audio, all_tokens=True)
    )
    expected = features @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(video, audio), expected, rtol=1e-4, atol=1e-5)
    other = network(video, audio.flip(0))
    assert (other - expected).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["concatenation", "attention"])
def test_one_pass_through_a_shared_encoder_is_two(kind: str) -> None:
    params = AUDIO_VISUAL[kind]
    agnostic = {"post_projection_width": 24}
    network = build(
        params.model_copy(
            update={
                "shared_encoder": True,
                "video": params.video.model_copy(update=agnostic),
                "audio": params.audio.model_copy(update=agnostic),
            }
        )
    )
    assert network.video.encoder is network.audio.encoder
    video, audio = draw_clips()
    packed = network(video, audio)
    network.shares_encoder = False
    torch.testing.assert_close(packed, network(video, audio), rtol=1e-4, atol=1e-5)


def test_logits_are_averaged_over_the_windows_of_a_clip() -> None:
    network = build(AUDIO_VISUAL["tensor"])
    video, audio = draw_clips(6)
    each = network(video, audio)
    averaged = network.average_views(video.unflatten(0, (2, 3)), audio.unflatten(0, (2, 3)))
    expected = torch.stack([each[:3].mean(0), each[3:].mean(0)])
    torch.testing.assert_close(averaged, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": AUDIO_VISUAL["tensor"].video}, "towers of video and video: expected"),
        (
            {
                "shared_encoder": True,
                "audio": AUDIO_VISUAL["tensor"].audio.model_copy(
                    update={"size": VIDEO.size.model_copy(update={"num_layers": 1})}
                ),
            },
            "both towers must have the same size",
        ),
    ],
)
def test_towers_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioVisualParams.model_validate(
            AUDIO_VISUAL["tensor"].model_copy(update=change).model_dump()
        )


@pytest.mark.parametrize("params", [VIDEO, AUDIO_VISUAL["attention"]])
def test_rates_of_a_schedule_reach_the_network(params: AudioVisualParams) -> None:
    schedule = TASK.schedule.model_copy(
        update={"drop_token_rate": 0.25, "head_dropout_rate": 0.375}
    )
    network = build_network(apply_rates(params, schedule))
    drops = [module.rate for module in network.modules() if isinstance(module, DropToken)]
    assert drops == [0.25] * len(list_towers(params))
    assert network.dropout.p == 0.375
    encoders = [module for module in network.modules() if isinstance(module, Encoder)]
    inner = [m.p for each in encoders for m in each.modules() if isinstance(m, Dropout)]
    assert set(inner) == {0.0}
