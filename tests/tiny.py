"""The smallest network that tests build, and its loss; tests change what they are about."""

from vatt.params import LossParams, ModelParams

TINY_MODEL = ModelParams(
    shared_encoder=False,
    post_projection_width=24,
    video="tiny",
    audio="tiny",
    text="tiny",
    video_patch=(2, 8, 8),
    audio_input="waveform",
    audio_patch=512,
    spectrogram_patch=(2, 20),
    text_style="t5",
    text_buckets=32,
    text_max_distance=64,
    word_width=16,
    train_word_table=True,
    space_kind="fac",
    batch_norm_everywhere=False,
    space_va_width=24,
    space_vt_width=12,
    dropout_rate=0.1,
    drop_token_rate=0.5,
    drop_token_draw="clip",
)

LOSS = LossParams(
    form="asymmetric",
    positives="twice",
    temperature=0.07,
    weight_va=1.0,
    weight_vt=1.0,
    valid_mean="global",
    rows_per_chunk=None,
)
