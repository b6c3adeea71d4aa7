"""The stem of a video or audio tower: raw signals to tokens (VATT section 3.1).

`Patches` cuts a signal, `DropToken` leaves out patches in training, a linear layer makes tokens of
the others, `Positions` says where each was, and `AggToken` stands before all of them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
import torchaudio
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vatt.core.distributed import rand_shared, rank, world_size
from vatt.model.transformer import NORM_EPSILON, Dense, Dropout, Group
from vatt.params import AUDIO_RATE_HZ, SPECTROGRAM_BANDS, SPECTROGRAM_HOP

Draw = Literal["clip", "batch"]
WINDOW, HOP, NUM_BANDS = 2048, SPECTROGRAM_HOP, SPECTROGRAM_BANDS
LOWEST_HZ, HIGHEST_HZ = 80.0, 7600.0
GAIN = 10_000.0


class DropToken(nn.Module):
    """Leaves out a share `rate` of the patches in training, and nothing in evaluation (3.1.1).

    Differs from the original with `draw` "clip": each clip draws its own, so that no place is
    missing from a whole batch. With "batch" all clips, of all ranks, keep the same places.
    """

    def __init__(self, rate: float, draw: Draw) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_token_rate = {rate}: expected 0 <= rate < 1")
        self.rate, self.draw = rate, draw

    def forward(
        self, patches: Float[Tensor, "B L K"], positions: Float[Tensor, "L D"]
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "*#B M D"]]:
        """Return the patches that are kept and their positions."""
        if not self.training or self.rate == 0:
            return patches, positions
        num_clips, num_patches, _ = patches.shape
        # Every rank draws for the clips of all: so a clip keeps the same on any number of ranks.
        num_draws = num_clips * world_size() if self.draw == "clip" else 1
        kept = draw_kept(num_draws, num_patches, self.rate, patches.device)
        kept = kept if self.draw == "batch" else kept.chunk(world_size())[rank()]
        clips = torch.arange(num_clips, device=patches.device)[:, None]
        return patches[clips, kept.expand(num_clips, -1)], positions[kept]


def draw_kept(
    num_draws: int, num_tokens: int, drop_token_rate: float, device: torch.device
) -> Int[Tensor, "B K"]:
    """Draw which tokens each clip keeps, `count_kept` of them, unordered."""
    scores = rand_shared(num_draws, num_tokens, device)
    return scores.topk(count_kept(num_tokens, drop_token_rate)).indices


def count_kept(num_tokens: int, drop_token_rate: float) -> int:
    """Return how many of `num_tokens` are left in training: at least one, all of them at rate 0."""
    return max(1, round(num_tokens * (1 - drop_token_rate)))


class LogMel(nn.Module):
    """48 kHz waveforms to log-mel spectrograms in [0, 1], with 80 bands every 1024 samples.

    They are the other input of the audio tower (VATT section 4.4, SpT).
    """

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


class Patches(nn.Module, ABC):
    """Patches of a signal, of `patch` points along each of its axes, projected to `width`.

    Cutting and projecting are apart, so that DropToken can choose between the two.
    """

    name: str
    num_channels = 1
    """Numbers of a point; where there are several, they are the last axis of a signal."""

    def __init__(self, patch: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.patch = patch
        # Differs from the original in its first values: a convolution of Keras counts the points
        # of its kernel in the fan-out, too. Its tokens start 5 to 15 times smaller beside the
        # positions, and learning starts later.
        self.projection = Dense(math.prod(patch) * self.num_channels, width)

    @abstractmethod
    def _read(self, signal: Tensor) -> Tensor:
        """Check the signal and return what is cut: the signal, or what is computed from it."""

    def cut(self, signal: Tensor) -> Float[Tensor, "B *grid K"]:
        """Cut a signal into a grid of patches with K numbers each; what is left over is cut off.

        Raises:
            ValueError: the signal is of another shape or type, or smaller than one patch.
        """
        points = self._read(signal)
        shape, num_axes = tuple(points.shape), len(self.patch)
        grid = [size // length for size, length in zip(shape[1:], self.patch, strict=False)]
        if 0 in grid:
            raise ValueError(f"{self.name} of shape {shape}: less than a patch {self.patch}")
        # Each axis becomes two, place in the grid and place within the patch; then the former
        # come first, the latter after them, and channels last.
        for axis, length in enumerate(self.patch):
            whole = points.narrow(1 + 2 * axis, 0, grid[axis] * length)
            points = whole.unflatten(1 + 2 * axis, (-1, length))
        places, within = range(1, 2 * num_axes, 2), range(2, 2 * num_axes + 1, 2)
        channels = range(2 * num_axes + 1, points.ndim)
        return points.permute(0, *places, *within, *channels).flatten(num_axes + 1)

    def forward(self, patches: Float[Tensor, "B L K"]) -> Float[Tensor, "B L D"]:
        """Project patches to tokens."""
        tokens: Tensor = self.projection(patches.to(self.projection.weight.dtype))
        return tokens


class VideoPatches(Patches):
    """Boxes of a video (B, T, H, W, 3); their numbers go frame, row, column, colour."""

    name = "video"
    num_channels = 3

    def _read(self, signal: Tensor) -> Tensor:
        if signal.ndim != 5 or signal.shape[4] != 3 or not signal.is_floating_point():
            raise ValueError(
                f"video: expected floats of (clips, frames, height, width, 3), got {signal.dtype} "
                f"{tuple(signal.shape)}"
            )
        return signal


class AudioPatches(Patches):
    """Pieces of a waveform (B, S)."""

    name = "audio"

    def _read(self, signal: Tensor) -> Tensor:
        check_waveform(signal)
        return signal


class SpectrogramPatches(Patches):
    """Tiles of frames x mel bands of the log-mel spectrogram of a waveform (B, S)."""

    name = "spectrogram"
    takes_spectrograms = False
    """Whether signals may be spectrograms (B, F, M) already, as for the tower of a classifier."""

    def __init__(self, patch: tuple[int, ...], width: int) -> None:
        super().__init__(patch, width)
        self.spectrogram = LogMel()

    def _read(self, signal: Tensor) -> Tensor:
        if self.takes_spectrograms and signal.ndim != 2:
            return signal
        spectrogram: Tensor = self.spectrogram(signal)
        return spectrogram


class PositionTable(nn.Module):
    """One learned vector per place on one axis."""

    def __init__(self, num_places: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_places, width))
        deviation = width**-0.5
        nn.init.trunc_normal_(self.table, std=deviation, a=-2 * deviation, b=2 * deviation)

    def forward(self, num_places: int) -> Float[Tensor, "L D"]:
        """Return the table, stretched to `num_places` where that is not its own size."""
        if num_places == len(self.table):
            return self.table
        return spline_matrix(len(self.table), num_places).to(self.table) @ self.table


class Positions(nn.Module):
    """A position vector for every patch of a grid, the last axis running fastest (VATT eq. 1).

    Differs from the paper, as the original does: a LayerNorm follows the sum of the tables.
    With `first_axis_fastest` the positions, not the patches, run the other way, so that a patch
    gets the vector of another place: the original does so for spectrograms.
    """

    def __init__(
        self, grid: Sequence[int], width: int, *, first_axis_fastest: bool = False
    ) -> None:
        super().__init__()
        self.first_axis_fastest = first_axis_fastest
        self.tables = nn.ModuleList(PositionTable(size, width) for size in grid)
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.num_places = math.prod(grid)

    def forward(self, grid: Sequence[int]) -> Float[Tensor, "L D"]:
        """Return positions of a grid of any size."""
        axes = [table(size) for table, size in zip(self.tables, grid, strict=True)]
        total, *others = reversed(axes) if self.first_axis_fastest else axes
        for places in others:
            total = total[..., None, :] + places
        positions: Tensor = self.norm(total.flatten(0, -2))
        return positions


@lru_cache(maxsize=32)
def spline_matrix(num_knots: int, num_queries: int) -> Float[Tensor, "Q K"]:
    """Return the float64 matrix that takes values at knots to a natural cubic spline at queries.

    It stretches tables to inputs of another size (VATT section 4.1.3). Knots stand at
    i / num_knots, queries at j / num_queries. Beyond the last knot, where no more than a few
    queries lie, the spline goes on as a straight line.
    """
    identity = torch.eye(num_knots, dtype=torch.float64)
    # The second derivatives at the knots, in units of their distance; natural: 0 at both ends.
    curvatures = torch.zeros_like(identity)
    if num_knots > 2:
        beside = torch.ones(num_knots - 3, dtype=torch.float64)
        system = (torch.diag(beside, 1) + torch.diag(beside, -1)).fill_diagonal_(4)
        bends = 6 * (identity[2:] - 2 * identity[1:-1] + identity[:-2])
        curvatures[1:-1] = torch.linalg.solve(system, bends)
    places = torch.arange(num_queries, dtype=torch.float64) * num_knots / num_queries
    left = places.long().clamp(max=max(num_knots - 2, 0))
    right = (left + 1).clamp(max=num_knots - 1)
    after = (places - left).clamp(max=1)[:, None]
    before = 1 - after
    beyond = (places - (num_knots - 1)).clamp(min=0)[:, None]
    slope = identity[right] - identity[left] + (curvatures[left] + 2 * curvatures[right]) / 6
    return (
        before * identity[left]
        + after * identity[right]
        + (before**3 - before) * curvatures[left] / 6
        + (after**3 - after) * curvatures[right] / 6
        + beyond * slope
    )


class AggToken(nn.Module):
    """The learned token before all others, whose encoding is that of the whole (VATT eq. 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(width))
        # Glorot-normal, as Keras draws it for a vector: it corrects the deviation for what is
        # cut off beyond two deviations.
        deviation = width**-0.5 / 0.87962566
        nn.init.trunc_normal_(self.vector, std=deviation, a=-2 * deviation, b=2 * deviation)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L+1 D"]:
        """Put the AGG token before the tokens of every clip; it has no position."""
        return torch.cat([self.vector.expand(len(tokens), 1, -1), tokens], dim=1)


class Stem(nn.Module):
    """Raw signals to tokens of `width` numbers.

    With `pre_projects` a linear layer with GELU follows the patches, as in VATT-MA.
    """

    def __init__(
        self,
        patches: Patches,
        positions: Positions,
        drop_token: DropToken,
        dropout_rate: float,
        *,
        pre_projects: bool = False,
    ) -> None:
        super().__init__()
        width = patches.projection.out_features
        self.patches = patches
        layers = [Dense(width, width), nn.GELU()] if pre_projects else []
        self.pre_projection = nn.Sequential(*layers)
        self.positions = positions
        self.drop_token = drop_token
        self.dropout = Dropout(dropout_rate)
        self.agg_token = AggToken(width)

    def forward(self, signal: Tensor) -> Group:
        """Return the tokens, AGG first.

        Patches are dropped before they are projected, so that a dropped one costs nothing.
        """
        patches = self.patches.cut(signal)
        positions = self.positions(patches.shape[1:-1])
        patches, positions = self.drop_token(patches.flatten(1, -2), positions)
        tokens = self.dropout(self.pre_projection(self.patches(patches)) + positions)
        # The AGG token comes after, so that it has no position and is never dropped.
        return Group(self.agg_token(tokens))
