"""Copies of videos in another split are found, however they are coded, and nothing else is."""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import preprocess
from tests.preprocess.test_analysis import draw, play
from vatt.corpus.index import IndexWriter, Segment
from vatt.corpus.manifest import ManifestEntry, Split, write_manifest
from vatt.preprocess.duplicates import find_duplicates


def write_video(path: Path, seed: int, size_px: tuple[int, int] = (90, 120), **codec: str) -> None:
    """Write a slow change from one picture to another and a tune, 8 s."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", **codec})
        video.height, video.width, video.pix_fmt = *size_px, "yuv420p"
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        first, last = draw(seed).astype(float), draw(seed + 50).astype(float)
        for number in range(80):
            share = number / 80
            picture = ((1 - share) * first + share * last).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            container.mux(video.encode(frame.reformat(size_px[1], size_px[0], "yuv420p")))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(play(seed, 8.0)[None], "s16", "mono")
        sound.sample_rate = 48_000
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos 0 to 5 in training, a coarse small copy of 0 in test, 6 and 7 elsewhere."""
    folder = tmp_path_factory.mktemp("duplicates")
    (folder / "s").mkdir()
    rows: list[tuple[str, Split, int]] = [(f"{n}.mp4", "train", n) for n in range(4)]
    rows += [("copy of 0.mkv", "test", 0), ("6.mp4", "test", 6), ("7.mp4", "validation", 7)]
    entries = []
    for name, split, seed in rows:
        size_px = (60, 80) if "copy" in name else (90, 120)
        write_video(folder / "s" / name, seed, size_px, crf="34" if "copy" in name else "18")
        entries.append(ManifestEntry("s", name, split, path=f"s/{name}"))
    for name, seed in (("tune of 1.wav", 1), ("other tune.wav", 9)):
        samples = play(seed, 8.0)[::2].astype(np.float32) / np.float32(50_000)
        clip = Clip(duration_s=8.0, video=False, sample_rate_hz=24_000, samples=samples)
        write_clip(folder / "s" / name, clip)
        entries.append(ManifestEntry("s", name, "validation", path=f"s/{name}"))
    write_manifest(folder, entries)
    preprocess(folder, folder / "out")
    return folder / "out"


def test_copies_in_other_splits_are_written_beside_the_index(corpus: Path) -> None:
    lines = (corpus / "duplicates.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = {(row["video_id"], row["kind"], row["duplicate_of"]["video_id"]) for row in rows}
    assert found == {
        ("0.mp4", "picture", "copy of 0.mkv"),
        ("0.mp4", "sound", "copy of 0.mkv"),
        ("1.mp4", "sound", "tune of 1.wav"),
    }
    for row in rows:
        assert row["split"] == "train"
        assert row["duplicate_of"]["split"] in {"test", "validation"}
        assert row["num_seconds"] >= 5
        assert row["distance"] <= 8


def test_copies_within_a_split_are_no_concern(corpus: Path, tmp_path: Path) -> None:
    rows = pq.read_table(corpus / "index.parquet").to_pylist()
    for splits, expected in [({"train"}, 0), ({"train", "test"}, 2)]:
        with IndexWriter(tmp_path / "index.parquet") as writer:
            for row in rows:
                split = row["split"] if row["split"] in splits else "train"
                writer.extend([Segment(**{**row, "split": split})])
        assert len(list(find_duplicates(tmp_path / "index.parquet"))) == expected
