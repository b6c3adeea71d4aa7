"""A corpus that keeps every rule, for tests to break, and which rules fail on it."""

import json
from typing import Any

import numpy as np
import pandas as pd

from vatt.params import ValidateParams
from vatt.validate.tables import DUPLICATE_COLUMNS, Corpus
from vatt.validate.verdict import validate_corpus

PARAMS = ValidateParams(
    min_segments=10,
    min_segments_per_split=4,
    max_duration_gap_s=0.25,
    max_start_offset_s=0.2,
    max_words_per_second=8.0,
    max_silent_rate=0.95,
    max_clipped_rate=0.1,
    max_black_rate=0.9,
    max_frozen_rate=0.9,
    max_caption_offset_s=1.0,
    min_caption_score=0.2,
    max_unspoken_rate=0.1,
    max_duplicate_rate=0.1,
    max_quarantined_rate=0.2,
    mostly_warning=0.9,
    mostly_critical=0.5,
)
NUM_SEGMENTS = 40


def clean_index() -> pd.DataFrame:
    """20 videos of two segments, that keep every rule."""
    segments = np.arange(NUM_SEGMENTS)
    videos = segments // 2
    splits = np.array(["train"] * 14 + ["validation"] * 3 + ["test"] * 3)
    return pd.DataFrame(
        {
            "key": [f"{video:016x}_{segment % 2:04d}" for segment, video in enumerate(videos)],
            "source": "demo",
            "video_id": [f"video {video}.mp4" for video in videos],
            "split": splits[videos],
            "source_digest": [f"{video:032x}" for video in videos],
            "has_video": True,
            "has_audio": True,
            "num_captions": 2,
            "frame_rate_hz": 5.0,
            "width_px": 112,
            "height_px": 64,
            "video_duration_s": 4.0,
            "audio_duration_s": 4.01,
            "start_offset_s": -0.02,
            "caption_words_per_second": 2.5,
            "captions_outside": 0,
            "silent_rate": 0.1,
            "clipped_rate": 0.0,
            "black_rate": 0.0,
            "frozen_rate": 0.2,
            "speech_rate": 0.6,
            "caption_offset_s": -0.3,
            "caption_score": 0.7,
        }
    )


def quarantine(num_inputs: int) -> pd.DataFrame:
    names = [f"{n}.mp4" for n in range(num_inputs)]
    return pd.DataFrame({"source": "demo", "video_id": names, "reason": "cut"}, dtype=object)


def duplicates(num_videos: int) -> pd.DataFrame:
    """The first videos of the clean index are like one of the test split."""
    like = {"source": "demo", "video_id": "video 19.mp4", "split": "test"}
    rows = [
        ["demo", f"video {n}.mp4", "train", like, kind, 7, 3.5]
        for n in range(num_videos)
        for kind in ("picture", "sound")
    ]
    return pd.DataFrame(rows, columns=DUPLICATE_COLUMNS, dtype=object)


def corpus(index: pd.DataFrame, num_refused: int = 0, num_alike: int = 0) -> Corpus:
    return Corpus(index, quarantine(num_refused), duplicates(num_alike))


def failures(judged: pd.DataFrame | Corpus, params: ValidateParams = PARAMS) -> dict[str, Any]:
    """Return the rules that fail, by name, after checking that `passed` agrees with them."""
    if not isinstance(judged, Corpus):
        judged = corpus(judged)
    verdict, _ = validate_corpus(judged, params)
    json.dumps(verdict, allow_nan=False)
    failed = {rule["name"]: rule for rule in verdict["expectations"] if not rule["success"]}
    assert verdict["passed"] == all(rule["severity"] == "warning" for rule in failed.values())
    return failed
