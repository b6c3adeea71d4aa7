"""The manifest is read back as written, and nothing else is accepted."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation, ManifestEntry, read_manifest, write_manifest

ENTRIES = [
    ManifestEntry(
        source="b",
        video_id="clip 'é' \U0001f600\u2028.mp4",
        split="train",
        path="b/clip 'é' \U0001f600\u2028.mp4",
        captions_path="b/clip.vtt",
        caption_problem="1 of 3 captions left out",
        annotations=(
            Annotation(task="action", label="run", start_s=0, end_s=1.5),
            Annotation(task="caption", text="A dog\nruns."),
        ),
    ),
    ManifestEntry(source="a", video_id="z.mp4", split="test", status="failed", reason="gone"),
    ManifestEntry(source="a", video_id="b.wav", split="validation", path="a/b.wav"),
]


def write_row(folder: Path, **changes: object) -> None:
    row = asdict(ManifestEntry("a", "v.mp4", "train", path="a/v.mp4"))
    rows = [row, row | {"video_id": "w.mp4", **changes}]
    lines = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / "manifest.jsonl").write_text(lines, encoding="utf-8")


def test_rows_come_back_sorted_and_in_any_order_are_the_same_bytes(tmp_path: Path) -> None:
    write_manifest(tmp_path / "one", ENTRIES)
    write_manifest(tmp_path / "two", reversed(ENTRIES))
    assert read_manifest(tmp_path / "one") == [ENTRIES[2], ENTRIES[1], ENTRIES[0]]
    files = [tmp_path / name / "manifest.jsonl" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"split": "dev"}, "split"),
        ({"video_id": 7}, "video_id"),
        ({"source": None}, "source"),
        ({"annotations": [{"task": "action", "start_s": "0"}]}, "annotations.0.start_s"),
        ({"annotations": [{"task": "action", "start_s": float("nan")}]}, "annotations.0.start_s"),
        ({"annotations": [{"label": "run"}]}, "annotations.0.task"),
        ({"path": None}, "path must be given"),
        ({"status": "failed", "reason": "x"}, "path must be null"),
        ({"transcribe": "yes"}, "transcribe"),
    ],
)
def test_wrong_row_is_refused_with_file_line_and_field(
    tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    write_row(tmp_path, **changes)
    with pytest.raises(StageError) as caught:
        read_manifest(tmp_path)
    assert f"{tmp_path}/manifest.jsonl line 2" in str(caught.value)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.mp4", "a/../../x.mp4", "link/x.mp4", "", "a\0"]
)
@pytest.mark.parametrize("field", ["path", "captions_path"])
def test_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str, field: str) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    write_row(tmp_path / "inside", **{"captions_path": "c.vtt", field: path})
    with pytest.raises(StageError, match=f"line 2: {field} = .*leaves the folder"):
        read_manifest(tmp_path / "inside")


def test_missing_broken_and_repeated(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="run `python -m vatt download` first"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"source": "a"\n', encoding="utf-8")
    with pytest.raises(StageError, match="line 1"):
        read_manifest(tmp_path)
    write_row(tmp_path, video_id="v.mp4")
    with pytest.raises(StageError, match=r"more than once: \('a', 'v.mp4'\)"):
        read_manifest(tmp_path)
