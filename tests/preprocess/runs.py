"""Runs of preprocess for tests: parameters, what goes in, and what comes out."""

import hashlib
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pandas as pd

from tests.made_media import Clip, write_clip
from vatt.corpus.manifest import ManifestEntry
from vatt.params import PreprocessParams
from vatt.preprocess.corpus import write_corpus

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


def write_clips(download_dir: Path, clips: Mapping[str, Clip]) -> list[ManifestEntry]:
    """Write clips to the source `s`; return their rows of the manifest, all of the train split."""
    for name, clip in clips.items():
        write_clip(download_dir / "s" / name, clip)
    return [ManifestEntry("s", name, "train", path=f"s/{name}") for name in clips]


def preprocess(
    download_dir: Path,
    out_dir: Path,
    params: PreprocessParams = PARAMS,
    num_workers: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Make `out_dir` and preprocess into it; return the metrics."""
    out_dir.mkdir()
    return write_corpus(download_dir, out_dir, params, num_workers, **options)


def read_quarantine(folder: Path) -> dict[str, str]:
    lines = (folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["video_id"]: row["reason"] for row in map(json.loads, lines)}


def digest_files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read_video(out_dir: Path, row: pd.Series) -> npt.NDArray[np.uint8]:
    """Return the stored pictures of a segment, frames x height x width x 3."""
    with (out_dir / "shards" / row["shard"]).open("rb") as shard:
        shard.seek(row["video_offset"])
        content = BytesIO(shard.read(row["video_bytes"]))
    with av.open(content) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)
