"""BatchNorm against torch's, and every graph of projections against its layers in numpy."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.testing import assert_close

from tests.ranks import Ranks
from tests.tiny import TINY_MODEL
from vatt.core import distributed
from vatt.model.vatt import BatchNorm, Projections, build_projections
from vatt.params import ModelParams, SpaceKind

Array = NDArray[np.float64]
WIDTHS = (6, 5, 4)


class Graph(NamedTuple):
    """The layers of each way, by the names of their weights."""

    video_va: str
    video_vt: str
    audio: str
    text: str


FINE = "video.to_hidden video.hidden_norm relu video.to_va video.va_norm"
ONE_HEAD = "video.head.0 video.head.1 relu video.head.3 video.head.4"
TWO_HEADS = (
    "video.to_va.0 video.to_va.1 relu video.to_va.3 video.to_va.4",
    "video.to_vt.0 video.to_vt.1 relu video.to_vt.3 video.to_vt.4",
)
LINEAR = "audio", "text"
WITH_NORM = "audio.0 audio.1", "text.0 text.1"
RECTIFIED = "relu video.head.1 video.head.2"
JOINT = Graph(RECTIFIED, RECTIFIED, "relu audio.1 audio.2", "relu text.1 text.2")
GRAPHS: dict[tuple[SpaceKind, bool], Graph] = {
    ("fac", False): Graph(FINE, FINE + " relu video.to_vt video.vt_norm", *LINEAR),
    ("fac", True): Graph(FINE, FINE + " video.to_vt video.vt_norm", *WITH_NORM),
    ("joint", False): JOINT,
    ("joint", True): JOINT,
    ("mmv_shared", False): Graph(ONE_HEAD, ONE_HEAD, *LINEAR),
    ("mmv_shared", True): Graph(ONE_HEAD, ONE_HEAD, *WITH_NORM),
    ("mmv_disjoint", False): Graph(*TWO_HEADS, *LINEAR),
    ("mmv_disjoint", True): Graph(*TWO_HEADS, *WITH_NORM),
}
every_graph = pytest.mark.parametrize(("kind", "everywhere"), GRAPHS)


def build_pair() -> tuple[BatchNorm, nn.BatchNorm1d]:
    ours, torchs = BatchNorm(5), nn.BatchNorm1d(5, eps=1e-5, momentum=0.1)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), torchs.parameters(), strict=True):
            other.copy_(mine.normal_())
    return ours, torchs


def test_equals_torch_in_training_but_for_the_biased_variance() -> None:
    ours, torchs = build_pair()
    inputs = (torch.randn(6, 5) * 3 + 100).requires_grad_()
    weights = torch.randn(6, 5)
    assert_close(ours(inputs), torchs(inputs), rtol=1e-4, atol=1e-4)
    gradients, others = (
        torch.autograd.grad((norm(inputs) * weights).sum(), [inputs, *norm.parameters()])
        for norm in (ours, torchs)
    )
    assert_close(gradients, others, rtol=1e-3, atol=1e-4)
    assert_close(ours.running_mean, torchs.running_mean)
    # Two calls: 0.81 of the first value 1, and 0.19 of the batch's variance.
    biased = 0.81 + 0.19 * inputs.detach().var(0, unbiased=False)
    assert_close(ours.running_variance, biased)
    assert (torchs.get_buffer("running_var") > ours.running_variance).all()


def test_equals_torch_in_evaluation() -> None:
    ours, torchs = build_pair()
    torchs.get_buffer("running_mean").copy_(ours.running_mean.normal_())
    torchs.get_buffer("running_var").copy_(ours.running_variance.uniform_(0.5, 2))
    inputs = torch.randn(3, 5)
    before = ours.running_mean.clone()
    assert_close(ours.eval()(inputs), torchs.eval()(inputs))
    assert torch.equal(ours.running_mean, before)


def test_statistics_stay_float32_under_bf16() -> None:
    norm = BatchNorm(5)
    norm.running_mean.fill_(1.001)
    cast = nn.Sequential(norm).bfloat16()
    inputs = torch.randn(64, 5).bfloat16()
    assert cast(inputs).dtype == torch.bfloat16
    assert norm.weight.dtype == torch.bfloat16
    assert norm.running_mean.dtype == norm.running_variance.dtype == torch.float32
    expected = 0.9 * 1.001 + 0.1 * inputs.float().mean(0)
    assert_close(norm.running_mean, expected)


def test_weights_can_be_made_on_the_meta_device_first() -> None:
    with torch.device("meta"):
        norm = BatchNorm(5)
    norm.to_empty(device="cpu")
    norm.load_state_dict(BatchNorm(5).state_dict())
    assert norm(torch.randn(4, 5)).mean().item() == pytest.approx(0, abs=1e-6)


def build(kind: SpaceKind, *, everywhere: bool) -> Projections:
    """Build projections with random weights, statistics of BatchNorm included."""
    spaces = (3, 3) if kind in ("joint", "mmv_shared") else (3, 2)
    generator = torch.Generator().manual_seed(0)
    projections = build_projections(kind, WIDTHS, spaces, batch_norm_everywhere=everywhere)
    for module in projections:
        for tensor in module.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 2 + 0.1)
            if tensor.dim() == 2:
                tensor.sub_(1.1)
    return projections


def collect(projections: Projections) -> dict[str, Tensor]:
    return {
        f"{way}.{name}": tensor
        for way, module in projections._asdict().items()
        for name, tensor in module.state_dict().items()
    }


def draw_features(num_clips: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = zip((num_clips, num_clips, 3 * num_clips), WIDTHS, strict=True)
    return [torch.randn(count, width, generator=generator) for count, width in rows]


def project(projections: Projections, features: list[Tensor]) -> list[Tensor]:
    """Return video_va, video_vt, audio and text."""
    video, audio, text = features
    return [*projections.video(video), projections.audio(audio), projections.text(text)]


def walk(layers: str, features: Array, weights: Mapping[str, Array], *, training: bool) -> Array:
    """Compute layer after layer."""
    for layer in layers.split():
        if layer == "relu":
            features = features * (features > 0)
        elif f"{layer}.running_mean" in weights:
            mean, variance = weights[f"{layer}.running_mean"], weights[f"{layer}.running_variance"]
            if training:
                mean = features.sum(0) / len(features)
                variance = ((features - mean) ** 2).sum(0) / len(features)
            unit = (features - mean) / np.sqrt(variance + 1e-5)
            features = unit * weights[f"{layer}.weight"] + weights[f"{layer}.bias"]
        else:
            features = features @ weights[f"{layer}.weight"].T + weights.get(f"{layer}.bias", 0)
    return features


@every_graph
@pytest.mark.parametrize("training", [False, True])
def test_every_graph_equals_its_layers_in_numpy(
    kind: SpaceKind, everywhere: bool, training: bool
) -> None:
    projections, graph = build(kind, everywhere=everywhere), GRAPHS[kind, everywhere]
    features = draw_features(8)
    weights = {key: tensor.double().numpy() for key, tensor in collect(projections).items()}
    layers = {name.rpartition(".")[0] for name in weights}
    assert {layer for way in graph for layer in way.split()} - {"relu"} == layers
    expected = [
        walk(way, rows.double().numpy(), weights, training=training)
        for way, rows in zip(graph, [features[0], *features], strict=True)
    ]
    for module in projections:
        module.train(training)
    slow = [torch.tensor(rows) for rows in expected]
    ours = project(projections, features)
    assert_close(ours, slow, rtol=1e-4, atol=1e-4, check_dtype=False)


@every_graph
def test_weights_are_used_only_by_their_own_layers(kind: SpaceKind, everywhere: bool) -> None:
    # ZeRO-3 gathers the weights of a layer when its forward is called.
    projections = build(kind, everywhere=everywhere)
    called: list[nn.Module] = []
    owners = [
        module
        for way in projections
        for module in way.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    for module in owners:
        module.register_forward_pre_hook(lambda module, _: called.append(module))
    project(projections, draw_features(4))
    assert {id(module) for module in called} == {id(module) for module in owners}
    assert len(called) == len(owners)


@pytest.mark.parametrize("kind", ["joint", "mmv_shared"])
def test_one_space_has_one_width(kind: SpaceKind) -> None:
    with pytest.raises(ValueError, match=f"{kind} has one space: space_va_width = 24 and"):
        ModelParams.model_validate(TINY_MODEL.model_dump() | {"space_kind": kind})


def compute_on_rank(
    kind: SpaceKind, everywhere: bool
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return projections of this rank's clips, gradients of weights, and statistics."""
    size, own = distributed.world_size(), distributed.rank()
    projections = build(kind, everywhere=everywhere)
    outputs = project(projections, [part.chunk(size)[own] for part in draw_features(8)])
    # Not the sum, nor that of the squares: BatchNorm fixes both, and their gradients are zero.
    loss = sum((output**4).sum() for output in outputs)
    assert isinstance(loss, Tensor)
    weights = [weight for module in projections for weight in module.parameters()]
    statistics = [buffer for module in projections for buffer in module.buffers()]
    gradients = torch.autograd.grad(loss, weights)
    return [output.detach() for output in outputs], list(gradients), statistics


@every_graph
def test_two_ranks_are_one_process_with_all_clips(
    two_ranks: Ranks, kind: SpaceKind, everywhere: bool
) -> None:
    ranks = two_ranks.run(compute_on_rank, kind, everywhere)
    outputs, gradients, statistics = zip(*ranks, compute_on_rank(kind, everywhere), strict=True)
    for first, second, whole in zip(*outputs, strict=True):
        assert_close(torch.cat([first, second]), whole, rtol=1e-4, atol=1e-4)
    for first, second, whole in zip(*gradients, strict=True):
        scale = whole.abs().max().item()
        assert_close(first + second, whole, rtol=1e-3, atol=1e-5 * scale)
    for first, second, whole in zip(*statistics, strict=True):
        assert torch.equal(first, second)
        assert_close(first, whole)
