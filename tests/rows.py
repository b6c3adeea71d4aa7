"""An index of segments that have no media."""

import json
import math
from pathlib import Path

from vatt.corpus.index import INDEX_NAME, IndexWriter, Segment


def make_segment(
    key: str,
    split: str = "train",
    labels: dict[str, list[str]] | None = None,
    labels_text: str | None = None,
    *,
    has_video: bool = True,
    has_audio: bool = True,
) -> Segment:
    """Return a row of the index; `labels_text` is what stands there in place of `labels`."""
    return Segment(
        key=key,
        source="made",
        video_id=f"{key}.mp4",
        split=split,
        start_s=0.0,
        end_s=4.0,
        has_video=has_video,
        has_audio=has_audio,
        num_captions=0,
        num_frames=20,
        frame_rate_hz=5.0,
        width_px=64,
        height_px=64,
        num_samples=192_000,
        video_duration_s=4.0,
        audio_duration_s=4.0,
        start_offset_s=0.0,
        caption_words_per_second=math.nan,
        silent_rate=0.0,
        clipped_rate=0.0,
        black_rate=0.0,
        frozen_rate=0.0,
        picture_hashes="",
        labels=json.dumps(labels or {}) if labels_text is None else labels_text,
        descriptions="[]",
    )


def write_index(preprocess_dir: Path, segments: list[Segment]) -> None:
    """Write the index of a corpus in place of the one that is there."""
    with IndexWriter(preprocess_dir / INDEX_NAME) as index:
        index.extend(segments)
