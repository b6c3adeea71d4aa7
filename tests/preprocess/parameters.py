"""Parameters of preprocessing for tests: those of the demo, with a small tokenizer."""

from vatt.params import PreprocessParams

PARAMS = PreprocessParams(
    frame_rate_hz=5.0,
    short_side_px=64,
    segment_s=4.0,
    min_segment_s=2.0,
    key_frame_interval=5,
    video_crf=20,
    caption_context_s=10.0,
    segments_per_shard=4,
    vocab_size=512,
    vocabulary=None,
    time_limit_s=60.0,
)
