"""The towers of each modality from the parameters: VATT with one encoder each, or VATT-MA with one for all."""

from vatt.models.droptoken import DropToken
from vatt.models.layers import Dense
from vatt.models.patches import AudioPatches, Patches, SpectrogramPatches, VideoPatches
from vatt.models.positions import Positions
from vatt.models.spectrogram import NUM_BANDS, count_frames
from vatt.models.stem import Stem
from vatt.models.text import BertStem, LinearText, RelativeBias, T5Stem, Words
from vatt.models.tower import Tower
from vatt.models.transformer import STANDARD, T5, UNBIASED, Encoder
from vatt.params import ClipParams, ModelParams


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
