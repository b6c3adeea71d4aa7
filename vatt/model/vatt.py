"""VATT: a tower and a projection for each modality (VATT figure 1, section 3.3).

In VATT-MA the three towers share one encoder. The spaces other than VATT's are those of the
original's options and of MMV.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vatt.core.batch import Batch, Embeddings
from vatt.core.distributed import all_reduce_sum_with_gradient, world_size
from vatt.model.text import Words
from vatt.model.towers import Tower, build_text_tower, build_tower, describe_towers, encode
from vatt.model.transformer import Dense
from vatt.params import ClipParams, ModelParams, SpaceKind

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
        """Return mean and biased variance over all ranks, and move the running ones to them."""
        num_clips = len(features) * world_size()
        # In two sums, not as E[x^2] - E[x]^2: in float32 that loses the digits of a small variance.
        # Both sums pass gradients to the clips of all ranks, as one process with all clips would.
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

    def forward(self, features: Float[Tensor, "B D"]) -> tuple[Tensor, Tensor]:
        """Return the clips in the video-audio and in the video-text space."""
        hidden = functional.relu(self.hidden_norm(self.to_hidden(features)))
        video_va = self.va_norm(self.to_va(hidden))
        fine = functional.relu(video_va) if self.has_relu else video_va
        return video_va, self.vt_norm(self.to_vt(fine))


class VideoHeads(nn.ModuleDict):
    """Video features to each space by a head of its own (`to_va`, `to_vt`), or by one `head`.

    With one head, all of video, audio and text are compared in its one space.
    """

    def forward(self, features: Float[Tensor, "B D"]) -> tuple[Tensor, Tensor]:
        """Return the clips in the video-audio and in the video-text space."""
        projected = [head(features) for head in self.values()]
        return projected[0], projected[-1]


class Projections(NamedTuple):
    """The ways from the features (B, D) of the three towers to the shared spaces.

    In training a BatchNorm counts every row, also missing sound and text.
    """

    video: nn.Module
    """To (B, E), beside audio, and (B, F), beside text: the same in one space."""
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

    Where there is one space, both of `spaces` are its width, as `ModelParams` demands.
    """
    video_width, *others = widths
    if kind == "joint":
        ways = [nn.Sequential(nn.ReLU(), *_build_layer(width, spaces[0])) for width in widths]
        return Projections(VideoHeads({"head": ways[0]}), *ways[1:])
    video: nn.Module
    if kind == "fac":
        video = VideoProjection(video_width, *spaces, has_relu=not batch_norm_everywhere)
    else:
        heads = {}
        for name, space in zip(
            ("head",) if kind == "mmv_shared" else ("to_va", "to_vt"), spaces, strict=False
        ):
            hidden = _build_layer(video_width, space)  # as wide as the space, in MMV 512
            heads[name] = nn.Sequential(*hidden, nn.ReLU(), *_build_layer(space, space))
        video = VideoHeads(heads)
    audio, text = (
        nn.Sequential(*_build_layer(width, space)) if batch_norm_everywhere else Dense(width, space)
        for width, space in zip(others, spaces, strict=True)
    )
    return Projections(video, audio, text)


def _build_layer(width: int, space_width: int) -> tuple[nn.Module, nn.Module]:
    """Build a linear layer and its BatchNorm, before which a bias would have no effect."""
    return Dense(width, space_width, bias=False), BatchNorm(space_width)


class Vatt(nn.Module):
    """Video, audio and text to two shared spaces: patchify -> drop -> encode -> project."""

    def __init__(self, params: ModelParams, clip: ClipParams, vocab_size: int) -> None:
        super().__init__()
        towers, draw = describe_towers(params), params.drop_token_draw
        self.video = build_tower(towers["video"].fit(clip), pretrains=draw)
        shared = self.video.encoder if params.shared_encoder else None
        self.audio = build_tower(towers["audio"].fit(clip), shared, pretrains=draw)
        self.text = build_text_tower(params, clip, vocab_size, shared)
        projections = build_projections(
            params.space_kind,
            (self.video.width, self.audio.width, self.text.width),
            (params.space_va_width, params.space_vt_width),
            batch_norm_everywhere=params.batch_norm_everywhere,
        )
        self.video_projection, self.audio_projection, self.text_projection = projections

    @property
    def words(self) -> Words:
        """The word table."""
        words: Words = (self.text.stem if isinstance(self.text, Tower) else self.text).words
        return words

    def forward(self, batch: Batch) -> Embeddings:
        """Return all clips of a batch in the shared spaces; what is masked is embedded, too."""
        towers = self.video, self.audio, self.text
        signals = batch.video, batch.audio, batch.text.flatten(0, 1)
        video, audio, text = (encoded[:, 0] for encoded in encode(towers, signals))
        video_va, video_vt = self.video_projection(video)
        return Embeddings(
            video_va=video_va,
            audio_va=self.audio_projection(audio),
            video_vt=video_vt,
            text_vt=self.text_projection(text).unflatten(0, batch.text.shape[:2]),
        )

    def encode_video(self, video: Tensor) -> Float[Tensor, "B D"]:
        """Return the features (AGG tokens) of videos (B, T, H, W, 3) in [-1, 1], of any size."""
        encoded: Tensor = self.video(video)
        return encoded[:, 0]

    def encode_audio(self, audio: Tensor) -> Float[Tensor, "B D"]:
        """Return the features (AGG tokens) of 48 kHz waveforms (B, S) in [-1, 1], of any length."""
        encoded: Tensor = self.audio(audio)
        return encoded[:, 0]

    def encode_text(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Return the features (AGG tokens) of texts; id 0 is padding."""
        encoded: Tensor = self.text(ids)
        return encoded[:, 0]
