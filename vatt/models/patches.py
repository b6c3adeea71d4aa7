"""Raw signals cut into patches, and the linear layer that turns patches into tokens (VATT section 3.1)."""

import math
from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from vatt.models.layers import Dense
from vatt.models.spectrogram import LogMel, check_waveform


class Patches(nn.Module, ABC):
    """Patches of `patch_size` points with `num_channels` numbers each, projected to `width`.

    Cutting and projecting are apart, so that DropToken can choose between the two.
    """

    def __init__(self, patch_size: int, num_channels: int, width: int) -> None:
        super().__init__()
        # Differs from the original in its first values: a convolution of Keras counts the points
        # of its kernel in the fan-out, too. Its tokens start 5 to 15 times smaller beside the
        # positions, and learning starts later.
        self.projection = Dense(patch_size * num_channels, width)

    @abstractmethod
    def cut(self, signal: Tensor) -> Float[Tensor, "B *grid K"]:
        """Cut a signal into a grid of patches with K numbers each; what is left over is cut off.

        Raises:
            ValueError: the signal is of another shape or type, or smaller than one patch.
        """

    def forward(self, patches: Float[Tensor, "B L K"]) -> Float[Tensor, "B L D"]:
        """Project patches to tokens."""
        tokens: Tensor = self.projection(patches.to(self.projection.weight.dtype))
        return tokens


class VideoPatches(Patches):
    """Boxes of frames x height x width; the numbers of a box go frame, row, column, colour."""

    def __init__(self, patch: tuple[int, int, int], width: int) -> None:
        super().__init__(math.prod(patch), 3, width)
        self.patch = patch

    def cut(self, signal: Tensor) -> Float[Tensor, "B t h w K"]:
        """Cut a video (B, T, H, W, 3) into boxes."""
        if signal.ndim != 5 or signal.shape[4] != 3 or not signal.is_floating_point():
            raise ValueError(
                f"video: expected floats of (clips, frames, height, width, 3), got {signal.dtype} "
                f"{tuple(signal.shape)}"
            )
        grid = [size // patch for size, patch in zip(signal.shape[1:4], self.patch, strict=True)]
        if 0 in grid:
            raise ValueError(
                f"video of shape {tuple(signal.shape)}: less than a patch {self.patch}"
            )
        frames, rows, columns = (
            count * patch for count, patch in zip(grid, self.patch, strict=True)
        )
        signal = signal[:, :frames, :rows, :columns]
        for axis, patch in zip((1, 3, 5), self.patch, strict=True):
            signal = signal.unflatten(axis, (-1, patch))
        return signal.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)


class AudioPatches(Patches):
    """Pieces of a waveform."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__(patch, 1, width)
        self.patch = patch

    def cut(self, signal: Tensor) -> Float[Tensor, "B t K"]:
        """Cut a waveform (B, S) into pieces."""
        check_waveform(signal)
        count = signal.shape[1] // self.patch
        if count == 0:
            raise ValueError(f"audio of {signal.shape[1]} samples: less than a patch {self.patch}")
        return signal[:, : count * self.patch].view(-1, count, self.patch)


class SpectrogramPatches(Patches):
    """Tiles of frames x mel bands of the log-mel spectrogram of a waveform."""

    def __init__(self, patch: tuple[int, int], width: int) -> None:
        super().__init__(math.prod(patch), 1, width)
        self.patch = patch
        self.spectrogram: nn.Module = LogMel()

    def cut(self, signal: Tensor) -> Float[Tensor, "B t m K"]:
        """Cut the spectrogram of a waveform (B, S) into tiles; what does not fill one is cut off."""
        spectrogram = self.spectrogram(signal)
        grid = [
            size // patch for size, patch in zip(spectrogram.shape[1:], self.patch, strict=True)
        ]
        if 0 in grid:
            raise ValueError(
                f"spectrogram of shape {tuple(spectrogram.shape)}: less than a patch {self.patch}"
            )
        frames, bands = (count * patch for count, patch in zip(grid, self.patch, strict=True))
        tiles: Tensor = spectrogram[:, :frames, :bands].unflatten(1, (-1, self.patch[0]))
        tiles = tiles.unflatten(3, (-1, self.patch[1])).transpose(2, 3)
        return tiles.flatten(3)
