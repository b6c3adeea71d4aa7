"""Projections to the shared spaces, from fine to coarse (VATT section 3.3, eq. 3), and their BatchNorm."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vatt.distributed import all_reduce_sum_with_gradient, world_size
from vatt.models.transformer import Dense

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
    """Video features to the video-audio space, and from there to the video-text space.

    Differs from the paper, as the original does: a ReLU stands before the step to video-text.
    """

    def __init__(self, width: int, va_width: int, vt_width: int) -> None:
        super().__init__()
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
        video_vt = self.vt_norm(self.to_vt(functional.relu(video_va)))
        return video_va, video_vt
