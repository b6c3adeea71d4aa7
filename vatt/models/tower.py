"""A tower: stem -> encoder -> features, the same for every modality (VATT figure 1)."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vatt.models.layers import Dense
from vatt.models.transformer import Encoder


class Tower(nn.Module):
    """Encodes a raw signal. Several towers may share one encoder object (VATT-MA).

    With `post_projection_width` a linear layer with GELU follows the encoder, as in VATT-MA.
    """

    stem: Any
    """Signals to tokens: a Stem, T5Stem or BertStem."""

    def __init__(
        self, stem: nn.Module, encoder: Encoder, post_projection_width: int | None = None
    ) -> None:
        super().__init__()
        self.stem = stem
        self.encoder = encoder
        self.post_projection = (
            nn.Identity()
            if post_projection_width is None
            else nn.Sequential(Dense(encoder.width, post_projection_width), nn.GELU())
        )
        self.width = post_projection_width or encoder.width

    def forward(self, signal: Tensor, *, all_tokens: bool = False) -> Float[Tensor, "B Q D"]:
        """Return the encoded AGG token (Q = 1), or `all_tokens` with AGG first."""
        (encoded,) = self.encoder([self.stem(signal)], all_tokens=all_tokens)
        features: Tensor = self.post_projection(encoded)
        return features


def collect_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights and statistics of a module, each once, under its first name.

    Unlike a state dict, which repeats a shared encoder for every tower.
    """
    kept = module.state_dict().keys()
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor for name, tensor in named.items() if name in kept}


def restore_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fill a module with what `collect_weights` returned for one like it.

    Raises:
        KeyError: names are missing or unknown.
    """
    expected = collect_weights(module).keys()
    if expected != weights.keys():
        raise KeyError(f"names differ: {sorted(expected ^ weights.keys())}")
    module.load_state_dict(dict(weights), strict=False)
