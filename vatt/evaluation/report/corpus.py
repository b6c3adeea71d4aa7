"""What a corpus holds, as a table."""

from typing import Any

import pandas as pd

SPLITS = ("train", "validation", "test")


def count_clips(index: pd.DataFrame) -> list[dict[str, Any]]:
    """Return numbers of videos and clips by source and split; `index` has a row per clip."""
    return [
        {
            "source": source,
            "split": split,
            "num_videos": clips["video_id"].nunique(),
            "num_clips": len(clips),
            "num_audio": int(clips["has_audio"].sum()),
            "num_text": int(((clips["num_captions"] > 0) | (clips["descriptions"] != "[]")).sum()),
            "minutes": f"{(clips['end_s'] - clips['start_s']).sum() / 60:.1f}",
        }
        for source, of_source in index.groupby("source")
        for split in SPLITS
        if len(clips := of_source[of_source["split"] == split])
    ]
