"""Towers: stem -> encoder -> features, the same for every modality (VATT figure 1).

`build_tower` builds those of video and audio, in pre-training and in classifiers; `describe_towers`
says what they are in pre-training. In VATT-MA towers share one encoder, which `encode` passes once.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vatt.model.stem import (
    NUM_BANDS,
    AudioPatches,
    Draw,
    DropToken,
    Positions,
    SpectrogramPatches,
    Stem,
    VideoPatches,
    count_frames,
)
from vatt.model.text import BertStem, LinearText, RelativeBias, T5Stem, Words
from vatt.model.transformer import STANDARD, T5, UNBIASED, Dense, Encoder
from vatt.params import ClipParams, ModelParams, Section, TowerSize

Count = Annotated[int, Field(ge=1)]
PATCHES: dict[str, tuple[type[VideoPatches | AudioPatches | SpectrogramPatches], int]] = {
    "video": (VideoPatches, 3),
    "waveform": (AudioPatches, 1),
    "spectrogram": (SpectrogramPatches, 2),
}
"""What cuts each input, and how many axes a patch has."""


class TowerParams(Section):
    """What a tower of video or audio is built from."""

    input: Literal["video", "waveform", "spectrogram"]
    size: TowerSize
    patch: tuple[Count, ...]
    """Frames x height x width of a video patch, samples of a waveform's, frames x mel bands."""
    grid: tuple[Count, ...]
    """Patches along each of these axes; inputs of other sizes have their positions interpolated."""
    post_projection_width: Count | None
    """Width of the features of a tower from VATT-MA; None for a tower with its own encoder."""
    dropout_rate: float = Field(ge=0, le=1)
    drop_token_rate: float = Field(ge=0, lt=1)
    """The share of tokens REMOVED in training; 0 in the paper, 0.5 as released."""

    @model_validator(mode="after")
    def _check_axes(self) -> "TowerParams":
        _, num_axes = PATCHES[self.input]
        if not len(self.patch) == len(self.grid) == num_axes:
            raise ValueError(
                f"input = {self.input} has {num_axes} axes, patch = {self.patch}, "
                f"grid = {self.grid}"
            )
        return self

    @property
    def modality(self) -> Literal["video", "audio"]:
        """What the tower is for."""
        return "video" if self.input == "video" else "audio"

    def measure(self) -> tuple[int, ...]:
        """Return the shape of a signal: frames, height, width and 3; samples; frames and bands."""
        shape = tuple(points * count for points, count in zip(self.patch, self.grid, strict=True))
        return (*shape, 3) if self.input == "video" else shape

    def fit(self, clip: ClipParams) -> "TowerParams":
        """Return the tower with the positions of clips of this size; the grid is not checked."""
        lengths = {
            "video": (clip.num_frames, clip.frame_size_px, clip.frame_size_px),
            "waveform": (clip.num_samples,),
            "spectrogram": (count_frames(clip.num_samples), NUM_BANDS),
        }[self.input]
        grid = tuple(length // points for length, points in zip(lengths, self.patch, strict=True))
        return self.model_copy(update={"grid": grid})


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
        self.width = post_projection_width or encoder.width
        layers = [Dense(encoder.width, self.width), nn.GELU()] if post_projection_width else []
        self.post_projection = nn.Sequential(*layers)

    def forward(self, signal: Tensor, *, all_tokens: bool = False) -> Float[Tensor, "B Q D"]:
        """Return the encoded AGG token (Q = 1), or `all_tokens` with AGG first."""
        (encoded,) = self.encoder([self.stem(signal)], all_tokens=all_tokens)
        features: Tensor = self.post_projection(encoded)
        return features


def encode(
    towers: Sequence[nn.Module], signals: Sequence[Tensor], *, all_tokens: bool = False
) -> list[Float[Tensor, "_ Q _"]]:
    """Return what each tower makes of its signal.

    An encoder that all of them share is passed once, with the sequences of all. The results are
    those of one pass for each; under ZeRO-3 the weights are then gathered once.
    """
    encoders = [getattr(tower, "encoder", None) for tower in towers]
    if any(encoder is not encoders[0] for encoder in encoders[1:]):
        pairs = zip(towers, signals, strict=True)
        return [tower(signal, all_tokens=all_tokens) for tower, signal in pairs]
    members: Any = towers
    groups = [tower.stem(signal) for tower, signal in zip(members, signals, strict=True)]
    encoded = members[0].encoder(groups, all_tokens=all_tokens)
    return [tower.post_projection(tokens) for tower, tokens in zip(members, encoded, strict=True)]


def describe_towers(params: ModelParams) -> dict[str, TowerParams]:
    """Return the video and the audio tower of pre-training, for clips of one patch: see `fit`."""
    is_waveform = params.audio_input == "waveform"
    audio_patch = (params.audio_patch,) if is_waveform else params.spectrogram_patch
    post_projection_width = params.post_projection_width if params.shared_encoder else None
    return {
        modality: TowerParams(
            input=kind,
            size=size,
            patch=patch,
            grid=(1,) * len(patch),
            post_projection_width=post_projection_width,
            dropout_rate=params.dropout_rate,
            drop_token_rate=params.drop_token_rate,
        )
        for modality, kind, size, patch in (
            ("video", "video", params.video_size, params.video_patch),
            ("audio", params.audio_input, params.audio_size, audio_patch),
        )
    }


def build_tower(
    params: TowerParams, shared_encoder: Encoder | None = None, *, pretrains: Draw | None = None
) -> Tower:
    """Return a tower of video or audio, with its own or the shared encoder.

    `pretrains` says how pre-training draws tokens. None builds the tower of a classifier: all clips
    of a batch keep the same tokens, as released, and spectrograms may come in place of waveforms.
    """
    is_spectrogram = params.input == "spectrogram"
    cut, _ = PATCHES[params.input]
    patches = cut(params.patch, params.size.width)
    if isinstance(patches, SpectrogramPatches):
        patches.takes_spectrograms = pretrains is None
    positions = Positions(params.grid, params.size.width, first_axis_fastest=is_spectrogram)

    # A shared encoder reads all inputs alike, so that spectrograms meet biases there.
    is_agnostic = params.post_projection_width is not None
    style = UNBIASED if is_spectrogram and not is_agnostic else STANDARD
    build_encoder = partial(Encoder, params.size, params.dropout_rate, style)
    # A seed must go on leading to the same weights: pre-training has always drawn the encoder
    # before the rest of the stem, a classifier after it.
    encoder = shared_encoder or (build_encoder() if pretrains else None)
    drop_token = DropToken(params.drop_token_rate, pretrains or "batch")
    stem = Stem(patches, positions, drop_token, params.dropout_rate, pre_projects=is_agnostic)
    return Tower(stem, encoder or build_encoder(), params.post_projection_width)


def build_text_tower(
    params: ModelParams, clip: ClipParams, vocab_size: int, shared_encoder: Encoder | None = None
) -> Tower | LinearText:
    """Return the text tower, with its own or the shared encoder."""
    words = Words(vocab_size, params.word_width)
    words.requires_grad_(params.train_word_table)
    size = params.text_size
    if params.text_style == "linear":
        return LinearText(words)
    if params.text_style == "t5":
        bias = RelativeBias(params.text_buckets, params.text_max_distance, size.num_heads)
        t5_stem = T5Stem(words, size.width, bias, params.dropout_rate)
        return Tower(t5_stem, Encoder(size, params.dropout_rate, T5))
    is_shared = shared_encoder is not None
    projection = Dense(params.word_width, size.width, bias=is_shared)
    positions = Positions((clip.num_tokens,), size.width)
    encoder = shared_encoder or Encoder(size, params.dropout_rate)
    stem = BertStem(words, positions, projection, params.dropout_rate)
    return Tower(stem, encoder, params.post_projection_width if is_shared else None)


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
