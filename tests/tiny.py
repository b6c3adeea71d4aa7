"""The smallest network that tests of exports and stages build."""

from vatt.params import ModelParams

TINY_MODEL = ModelParams(
    video="tiny",
    audio="tiny",
    text="tiny",
    video_patch=(2, 8, 8),
    audio_patch=512,
    word_width=16,
    train_word_table=True,
    space_va_width=24,
    space_vt_width=12,
    dropout_rate=0.1,
    drop_token_rate=0.5,
)
