"""Which sentences are about parts of files, and how they are kept."""

from pathlib import Path

import pytest

from vatt.core.errors import StageError
from vatt.corpus.annotated import AnnotatedPart, list_parts, read_parts, write_parts
from vatt.corpus.manifest import Annotation, ManifestEntry

STEPS = (
    Annotation("caption", None, 4.0, 9.5, "stir"),
    Annotation("caption", None, None, None, "soup\u2028in a pot"),
    Annotation("action", "stir", 4.0, 9.5),
    Annotation("caption", None, 0.0, 2.0, "cut"),
)


def test_descriptions_are_about_parts_where_one_of_them_has_times(tmp_path: Path) -> None:
    entry = ManifestEntry("s", "soup.mp4", "test", path="s/soup.mp4", annotations=STEPS)
    gone = ManifestEntry("s", "a.mp4", "test", "failed", reason="x", annotations=STEPS[:1])
    trained = ManifestEntry("s", "b.mp4", "train", path="s/b.mp4", annotations=STEPS[:1])
    whole = ManifestEntry("s", "whole.mp4", "test", path="s/w.mp4", annotations=STEPS[1:3])
    entries = [entry, gone, trained, whole]
    write_parts(tmp_path, [part for own in entries for part in list_parts(own)])
    assert read_parts(tmp_path, "test") == [
        AnnotatedPart("s", "a.mp4", "test", 4.0, 9.5, "stir"),
        AnnotatedPart("s", "soup.mp4", "test", 0.0, None, "soup\u2028in a pot"),
        AnnotatedPart("s", "soup.mp4", "test", 0.0, 2.0, "cut"),
        AnnotatedPart("s", "soup.mp4", "test", 4.0, 9.5, "stir"),
    ]
    assert [part.video_id for part in read_parts(tmp_path, "train")] == ["b.mp4"]


def test_a_corpus_without_times_has_no_file(tmp_path: Path) -> None:
    whole = ManifestEntry("s", "whole.mp4", "test", path="s/w.mp4", annotations=STEPS[1:3])
    write_parts(tmp_path, list_parts(whole))
    assert list(tmp_path.iterdir()) == []
    assert read_parts(tmp_path, "test") == []


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    write_parts(tmp_path, [AnnotatedPart("s", "a.mp4", "test", 4.0, 9.5, "stir")] * 2)
    path = tmp_path / "annotated_parts.jsonl"
    path.write_text(path.read_text() + '{"source": "s"}\n')
    with pytest.raises(StageError, match=r"annotated_parts\.jsonl line 3: .*video_id"):
        read_parts(tmp_path, "test")
