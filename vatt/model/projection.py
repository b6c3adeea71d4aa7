"""Projections to the shared spaces, and their BatchNorm (VATT section 3.3, eq. 3; MMV section 3.1)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vatt.core.distributed import all_reduce_sum_with_gradient, world_size
from vatt.model.transformer import Dense
from vatt.params import SpaceKind

MOMENTUM = 0.1
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Normalises each feature over the clips of all ranks, on CPU and GPU.

    torch's SyncBatchNorm needs a GPU. Like the original, and unlike torch, the running variance
    takes the biased variance of the batch. Statistics are float32 whatever the weights are.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_variance", torch.ones(width))

    def forward(self, features: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
        """Normalise; in training by the batch, whose size must be the same on every rank."""
        exact = features.float()
        if self.training:
            mean, variance = self._measure(exact)
        else:
            mean, variance = self.running_mean, self.running_variance
        scale = self.weight.float() * torch.rsqrt(variance + EPSILON)
        return ((exact - mean) * scale + self.bias.float()).to(features.dtype)

    def _measure(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance over all ranks, and move the running ones towards them."""
        num_clips = len(features) * world_size()
        mean = all_reduce_sum_with_gradient(features.sum(0)) / num_clips
        variance = all_reduce_sum_with_gradient((features - mean).square().sum(0)) / num_clips
        with torch.no_grad():
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_variance.lerp_(variance, MOMENTUM)
        return mean, variance

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BatchNorm":
        """Keep the statistics in float32 when the module is cast, as to bf16."""
        statistics = self.running_mean, self.running_variance
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.running_mean.dtype != torch.float32:
            device = self.running_mean.device
            self.running_mean, self.running_variance = (kept.to(device) for kept in statistics)
        return self


class VideoProjection(nn.Module):
    """Video features to the video-audio space, and from there on to the video-text space (FAC).

    Differs from the paper, as the original does: with `has_relu` a ReLU stands before the step
    to video-text.
    """

    def __init__(self, width: int, va_width: int, vt_width: int, has_relu: bool) -> None:
        super().__init__()
        self.has_relu = has_relu
        self.to_hidden = Dense(width, va_width, bias=False)
        self.hidden_norm = BatchNorm(va_width)
        self.to_va = Dense(va_width, va_width, bias=False)
        self.va_norm = BatchNorm(va_width)
        self.to_vt = Dense(va_width, vt_width, bias=False)
        self.vt_norm = BatchNorm(vt_width)

    def forward(
        self, features: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B F"]]:
        """Return the clips in the video-audio and in the video-text space."""
        hidden = functional.relu(self.hidden_norm(self.to_hidden(features)))
        video_va = self.va_norm(self.to_va(hidden))
        fine = functional.relu(video_va) if self.has_relu else video_va
        return video_va, self.vt_norm(self.to_vt(fine))


class OneSpace(nn.Module):
    """Video features to the one space in which video, audio and text are all compared."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, features: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Return the clips in that space, once for audio and once for text."""
        projected = self.head(features)
        return projected, projected


class TwoSpaces(nn.Module):
    """Video features to the video-audio and the video-text space, each by a head of its own."""

    def __init__(self, to_va: nn.Module, to_vt: nn.Module) -> None:
        super().__init__()
        self.to_va = to_va
        self.to_vt = to_vt

    def forward(
        self, features: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B F"]]:
        """Return the clips in the video-audio and in the video-text space."""
        return self.to_va(features), self.to_vt(features)


class Projections(NamedTuple):
    """The ways from the features of the three towers to the shared spaces.

    `video` maps (B, D) to a pair, (B, E) beside audio and (B, F) beside text; `audio` maps (B, D)
    to (B, E), `text` maps (B, D) to (B, F). With one space for all, both members of the pair are
    the same tensor. In training a BatchNorm counts every row, also missing sound and text.
    """

    video: nn.Module
    audio: nn.Module
    text: nn.Module


def build_projections(
    kind: SpaceKind,
    widths: tuple[int, int, int],
    spaces: tuple[int, int],
    *,
    batch_norm_everywhere: bool,
) -> Projections:
    """Build the projections of features `widths` (video, audio, text) wide to `spaces` (va, vt).

    - "fac" (VATT section 3.3): video by two layers to the fine space, from there to the coarse
      one; audio linear to the fine, text linear to the coarse space. Released: a ReLU before the
      step from fine to coarse, no BatchNorm for audio and text. With `batch_norm_everywhere` it
      is the paper's: no such ReLU, and a BatchNorm after every linear layer.
    - "joint" (the original's option): ReLU, linear layer, BatchNorm of every modality to one
      space; there `batch_norm_everywhere` changes nothing.
    - "mmv_shared", "mmv_disjoint" (MMV section 3.1): video by two layers, audio and text linear,
      to one space, or to two spaces with nothing in common. `batch_norm_everywhere` as for "fac".

    Raises:
        ValueError: the spaces differ in width where "joint" or "mmv_shared" have only one.
    """
    (video, audio, text), (va_width, vt_width) = widths, spaces
    if kind in ("joint", "mmv_shared") and va_width != vt_width:
        raise ValueError(
            f"{kind} has one space, but the video-audio space is {va_width} and the video-text "
            f"space {vt_width} wide: they must be equal"
        )
    if kind == "joint":
        return Projections(
            OneSpace(_build_rectified(video, va_width)),
            _build_rectified(audio, va_width),
            _build_rectified(text, vt_width),
        )
    return Projections(
        _build_video(kind, video, spaces, paper=batch_norm_everywhere),
        _build_linear(audio, va_width, has_norm=batch_norm_everywhere),
        _build_linear(text, vt_width, has_norm=batch_norm_everywhere),
    )


def _build_video(kind: SpaceKind, width: int, spaces: tuple[int, int], *, paper: bool) -> nn.Module:
    va_width, vt_width = spaces
    if kind == "fac":
        return VideoProjection(width, va_width, vt_width, has_relu=not paper)
    if kind == "mmv_shared":
        return OneSpace(_build_two_layers(width, va_width))
    return TwoSpaces(_build_two_layers(width, va_width), _build_two_layers(width, vt_width))


def _build_linear(width: int, space_width: int, *, has_norm: bool) -> nn.Module:
    if not has_norm:
        return Dense(width, space_width)
    return nn.Sequential(Dense(width, space_width, bias=False), BatchNorm(space_width))


def _build_rectified(width: int, space_width: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), Dense(width, space_width, bias=False), BatchNorm(space_width))


def _build_two_layers(width: int, space_width: int) -> nn.Module:
    """Build MMV's head, whose hidden layer is as wide as the space."""
    # A bias before a BatchNorm, as MMV has one in the hidden layer, has no effect.
    return nn.Sequential(
        Dense(width, space_width, bias=False),
        BatchNorm(space_width),
        nn.ReLU(),
        Dense(space_width, space_width, bias=False),
        BatchNorm(space_width),
    )
