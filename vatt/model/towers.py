"""The towers of each modality from the parameters: VATT with one encoder each, or VATT-MA with one for all.

A tower: stem -> encoder -> features, the same for every modality (VATT figure 1).
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vatt.model.spectrogram import NUM_BANDS, count_frames
from vatt.model.stem import (
    AudioPatches,
    DropToken,
    Patches,
    Positions,
    SpectrogramPatches,
    Stem,
    VideoPatches,
)
from vatt.model.text import BertStem, LinearText, RelativeBias, T5Stem, Words
from vatt.model.transformer import STANDARD, T5, UNBIASED, Dense, Encoder
from vatt.params import ClipParams, ModelParams


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


def build_video_tower(params: ModelParams, clip: ClipParams) -> Tower:
    """Return the video tower; under `params.shared_encoder` its encoder is to be shared."""
    frames, height, width = params.video_patch
    grid = (
        clip.num_frames // frames,
        clip.frame_size_px // height,
        clip.frame_size_px // width,
    )
    patches = VideoPatches(params.video_patch, params.video_size.width)
    positions = Positions(grid, params.video_size.width)
    encoder = Encoder(params.video_size, params.dropout_rate)
    return _build_signal_tower(params, patches, positions, encoder)


def build_audio_tower(
    params: ModelParams, clip: ClipParams, shared_encoder: Encoder | None = None
) -> Tower:
    """Return the audio tower, of waveforms or spectrograms, with its own or the shared encoder."""
    width = params.audio_size.width
    patches: Patches
    if params.audio_input == "waveform":
        patches = AudioPatches(params.audio_patch, width)
        positions = Positions((clip.num_samples // params.audio_patch,), width)
        style = STANDARD
    else:
        frames, bands = params.spectrogram_patch
        patches = SpectrogramPatches(params.spectrogram_patch, width)
        grid = (count_frames(clip.num_samples) // frames, NUM_BANDS // bands)
        positions = Positions(grid, width, first_axis_fastest=True)
        style = UNBIASED
    encoder = shared_encoder or Encoder(params.audio_size, params.dropout_rate, style)
    return _build_signal_tower(params, patches, positions, encoder)


def build_text_tower(
    params: ModelParams,
    clip: ClipParams,
    vocab_size: int,
    shared_encoder: Encoder | None = None,
) -> Tower | LinearText:
    """Return the text tower, with its own or the shared encoder."""
    words = Words(vocab_size, params.word_width)
    words.requires_grad_(params.train_word_table)
    size = params.text_size
    if params.text_style == "linear":
        return LinearText(words)
    if params.text_style == "t5":
        bias = RelativeBias(params.text_buckets, params.text_max_distance, size.num_heads)
        stem = T5Stem(words, size.width, bias, params.dropout_rate)
        return Tower(stem, Encoder(size, params.dropout_rate, T5))
    is_shared = shared_encoder is not None
    projection = Dense(params.word_width, size.width, bias=is_shared)
    positions = Positions((clip.num_tokens,), size.width)
    encoder = shared_encoder or Encoder(size, params.dropout_rate)
    return Tower(
        BertStem(words, positions, projection, params.dropout_rate),
        encoder,
        params.post_projection_width if is_shared else None,
    )


def _build_signal_tower(
    params: ModelParams, patches: Patches, positions: Positions, encoder: Encoder
) -> Tower:
    drop_token = DropToken(params.drop_token_rate, params.drop_token_draw)
    stem = Stem(
        patches, positions, drop_token, params.dropout_rate, pre_projects=params.shared_encoder
    )
    return Tower(stem, encoder, params.post_projection_width if params.shared_encoder else None)
