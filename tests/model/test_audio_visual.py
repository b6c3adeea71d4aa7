"""Audio-visual classifiers: what goes into the fusion, one encoder for both, views."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.model.networks import AUDIO_VISUAL, VIDEO
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


def share_encoder(params: AudioVisualParams) -> AudioVisualParams:
    agnostic = {"post_projection_width": 24}
    towers = {
        name: tower.model_copy(update=agnostic) for name, tower in list_towers(params).items()
    }
    return params.model_copy(update={"shared_encoder": True, **towers})


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", AUDIO_VISUAL)
def test_logits_are_the_head_of_the_fused_towers(kind: str, shared: bool) -> None:
    """One pass through a shared encoder gives what two passes give."""
    params = AUDIO_VISUAL[kind]
    network = build(share_encoder(params) if shared else params)
    assert (network.video.encoder is network.audio.encoder) == shared
    video, audio = draw_clips()
    features = network.fusion(
        network.video(video, all_tokens=True), network.audio(audio, all_tokens=True)
    )
    expected = features @ network.head.weight.T + network.head.bias
    assert_close(network(video, audio), expected, rtol=1e-4, atol=1e-5)
    assert (network(video, audio.flip(0)) - expected).abs().max() > 1e-4


def test_logits_are_averaged_over_the_windows_of_a_clip() -> None:
    network = build(AUDIO_VISUAL["tensor"])
    video, audio = draw_clips(6)
    each = network(video, audio)
    averaged = network.average_views(video.unflatten(0, (2, 3)), audio.unflatten(0, (2, 3)))
    assert_close(averaged, torch.stack([each[:3].mean(0), each[3:].mean(0)]), rtol=1e-4, atol=1e-5)


OTHER_SIZE = VIDEO.size.model_copy(update={"num_layers": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": AUDIO_VISUAL["tensor"].video}, "towers of video and video: expected"),
        (
            {
                "shared_encoder": True,
                "audio": AUDIO_VISUAL["tensor"].audio.model_copy(update={"size": OTHER_SIZE}),
            },
            "both towers must have the same size",
        ),
    ],
)
def test_towers_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    changed = AUDIO_VISUAL["tensor"].model_copy(update=change)
    with pytest.raises(ValueError, match=message):
        AudioVisualParams.model_validate(changed.model_dump())


@pytest.mark.parametrize("params", [VIDEO, AUDIO_VISUAL["attention"]])
def test_rates_of_a_schedule_reach_the_network(params: AudioVisualParams) -> None:
    rates = {"drop_token_rate": 0.25, "head_dropout_rate": 0.375}
    network = build_network(apply_rates(params, TASK.schedule.model_copy(update=rates)))
    modules = list(network.modules())
    drops = [module.rate for module in modules if isinstance(module, DropToken)]
    assert drops == [0.25] * len(list_towers(params))
    assert network.dropout.p == 0.375
    encoders = [module for module in modules if isinstance(module, Encoder)]
    inner = [m.p for each in encoders for m in each.modules() if isinstance(m, Dropout)]
    assert set(inner) == {0.0}
