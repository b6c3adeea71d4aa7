"""Only what is new or changed is decoded, and the bytes are those of a run that decodes all."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS, digest_files, preprocess, read_quarantine, write_clips
from vatt.corpus.index import read_index
from vatt.corpus.manifest import Annotation, ManifestEntry, read_manifest, write_manifest
from vatt.params import PreprocessParams
from vatt.preprocess.fragments import FragmentStore

CAPTIONS = "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n"
CLIPS = {
    "a.mp4": Clip(duration_s=1.0),
    "b.mp4": Clip(duration_s=9.0, width_px=96),
    "c.wav": Clip(duration_s=2.0, video=False),
}


class Project:
    """A folder with downloads, a store of earlier work, and what was made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files_dir = folder / "download/s"
        self.store_dir = folder / "store"

    def write(self, params: PreprocessParams = PARAMS) -> dict[str, str]:
        """Run, with the store; returns the digests of all files."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        preprocess(self.folder / "download", self.folder / "out", params, store_dir=self.store_dir)
        return digest_files(self.folder / "out")

    def write_anew(self, params: PreprocessParams = PARAMS) -> dict[str, str]:
        """Run without a store."""
        preprocess(self.folder / "download", self.folder / "anew", params)
        return digest_files(self.folder / "anew")

    def entries(self) -> dict[Path, tuple[int, int]]:
        """Files of the store; one that was made again is another file."""
        paths = (self.store_dir / "fragments").glob("*/*")
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}

    def known(self) -> list[Path]:
        """What says under which key a file of some status is kept."""
        return list((self.store_dir / "known").glob("*/*"))

    def replace_file(self, name: str, content: bytes) -> None:
        """Write a new file in the place of an old one, which may have other names."""
        (self.files_dir / "new").write_bytes(content)
        (self.files_dir / "new").replace(self.files_dir / name)

    def add_row(self, name: str) -> None:
        rows = read_manifest(self.folder / "download")
        row = ManifestEntry("s", name, "test", path=f"s/{name}")
        write_manifest(self.folder / "download", [*rows, row])

    def change_row(self, name: str, **changes: Any) -> None:
        """Change fields of a row, or remove it where there are none."""
        rows = {row.video_id: row for row in read_manifest(self.folder / "download")}
        row = rows.pop(name)
        if changes:
            rows[name] = dataclasses.replace(row, **changes)
        write_manifest(self.folder / "download", rows.values())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    rows = [ManifestEntry("s", "gone.mp4", "train", "failed", reason="HTTP 404")]
    rows += write_clips(project.folder / "download", CLIPS)
    write_manifest(project.folder / "download", rows)
    (project.files_dir / "bad.mp4").write_text("no media")
    project.add_row("bad.mp4")
    (project.files_dir / "a.vtt").write_text(CAPTIONS)
    project.change_row("a.mp4", captions_path="s/a.vtt")
    project.write()
    return project


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    """A copy with the same downloads: as files, not only as content."""
    shutil.copytree(original.folder / "download", tmp_path / "download", copy_function=os.link)
    shutil.copytree(original.store_dir, tmp_path / "store", symlinks=True)
    return Project(tmp_path)


def count_new(project: Project, before: dict[Path, tuple[int, int]]) -> int:
    return sum(before.get(path) != place for path, place in project.entries().items())


def test_nothing_is_done_twice(
    project: Project, original: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = project.entries()
    assert len(before) == 4
    assert project.write() == digest_files(original.folder / "out")
    assert project.entries() == before
    assert "preprocess: 0 of 5 files are new or changed" in capsys.readouterr().out


def test_the_largest_files_are_begun_first(project: Project) -> None:
    shutil.rmtree(project.store_dir)
    project.write()
    store = FragmentStore(project.store_dir)
    paths = sorted(project.entries(), key=lambda path: path.stat().st_mtime_ns)
    outcomes = [store.read(path.name) for path in paths]
    done = [outcome.segments[0].video_id for outcome in outcomes if outcome and outcome.segments]
    sizes = {name: (project.files_dir / name).stat().st_size for name in CLIPS}
    assert done == sorted(CLIPS, key=lambda name: -sizes[name])


def change_sound(project: Project) -> None:
    content = (project.files_dir / "c.wav").read_bytes()
    project.replace_file("c.wav", content[:-100] + bytes(100))  # as long as before


def add_video(project: Project) -> None:
    write_clip(project.files_dir / "d.mp4", Clip(duration_s=1.0))
    project.add_row("d.mp4")


def change_video(project: Project) -> None:
    other = write_clip(project.folder / "other.mp4", Clip(duration_s=2.0))
    project.replace_file("a.mp4", other.read_bytes())


def change_captions(project: Project) -> None:
    project.replace_file("a.vtt", CAPTIONS.replace("hello", "bye").encode())


def lose_captions(project: Project) -> None:
    (project.files_dir / "a.vtt").unlink()


@pytest.mark.parametrize(
    "change", [add_video, change_video, change_sound, change_captions, lose_captions]
)
def test_one_change_is_one_file_to_do(
    project: Project, original: Project, change: Callable[[Project], None]
) -> None:
    before = project.entries()
    change(project)
    digests = project.write()
    assert count_new(project, before) == 1
    assert digests == project.write_anew() != digest_files(original.folder / "out")


LABELS = (
    Annotation("shape", "square", 0.0, 4.0),
    Annotation("shape", "box", 4.0, 9.0),
    Annotation("caption", text="A square moves.", start_s=0.0, end_s=3.0),
    Annotation("caption", text="Nobody sees this.", start_s=20.0, end_s=30.0),
)


@pytest.mark.parametrize(
    "changes",
    [{"annotations": LABELS}, {"split": "test"}, {"annotations": LABELS, "split": "test"}],
)
def test_another_label_or_split_decodes_nothing(
    project: Project, original: Project, changes: dict[str, Any]
) -> None:
    before = project.entries()
    project.change_row("b.mp4", **changes)
    digests = project.write()
    assert project.entries() == before
    assert digests == project.write_anew() != digest_files(original.folder / "out")
    rows = read_index(project.folder / "out").query("video_id == 'b.mp4'").sort_values("start_s")
    assert set(rows["split"]) == {changes.get("split", "train")}
    if "annotations" in changes:
        labels = ['{"shape": ["square"]}', '{"shape": ["box"]}']
        assert rows["labels"].tolist() == labels
        assert rows["descriptions"].tolist() == ['["A square moves."]', "[]"]
        assert set(rows["problem"]) == {"1 of 2 descriptions are of parts that it lacks"}


def test_what_left_the_corpus_is_removed(project: Project) -> None:
    before = project.entries()
    project.change_row("b.mp4")
    assert project.write() == project.write_anew()
    assert len(project.entries()) == len(project.known()) == len(before) - 1
    assert project.entries().items() < before.items()


@pytest.mark.parametrize(
    ("changes", "is_made_again"),
    [({"video_crf": 30}, True), ({"segments_per_shard": 2, "vocab_size": 600}, False)],
    ids=["of the segments", "of the shards"],
)
def test_only_a_parameter_of_the_segments_makes_all_again(
    project: Project, changes: dict[str, int], is_made_again: bool
) -> None:
    before = project.entries()
    params = PARAMS.model_copy(update=changes)
    assert project.write(params) == project.write_anew(params)
    if is_made_again:
        assert project.entries().keys().isdisjoint(before)
    else:
        assert project.entries() == before


@pytest.mark.parametrize("damage", [b"", b"xyz", None])
def test_a_damaged_entry_is_made_again(
    project: Project, original: Project, damage: bytes | None
) -> None:
    before = project.entries()
    largest = max(before, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[1000] ^= 1
    largest.write_bytes(content if damage is None else damage)
    digests = project.write()
    assert digests == digest_files(original.folder / "out")
    assert count_new(project, before) == 1
    assert digests == project.write()


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_lost_status_costs_reading_only(
    project: Project, original: Project, is_damaged: bool
) -> None:
    before = project.entries()
    for link in project.known():
        link.unlink()
        if is_damaged:
            link.symlink_to("nothing")
    assert project.write() == digest_files(original.folder / "out")
    assert project.entries() == before


def test_a_file_of_another_status_is_read_and_not_decoded(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = project.entries()
    path = project.files_dir / "a.mp4"
    project.replace_file("a.mp4", path.read_bytes())  # another inode
    for _ in range(2):
        project.write()
        assert "preprocess: 1 of 5 files are new or changed" in capsys.readouterr().out
        assert len(project.known()) == len(before)
        os.utime(path, (1, 1))
    assert project.entries() == before


def test_a_file_that_is_gone_is_tried_again(project: Project) -> None:
    content = (project.files_dir / "a.mp4").read_bytes()
    (project.files_dir / "a.mp4").unlink()
    project.write()
    assert set(read_quarantine(project.folder / "out")) == {"gone.mp4", "bad.mp4", "a.mp4"}
    project.replace_file("a.mp4", content)
    project.write()
    assert set(read_quarantine(project.folder / "out")) == {"gone.mp4", "bad.mp4"}


def test_a_file_on_which_the_decoder_hangs_is_given_up(project: Project) -> None:
    os.mkfifo(project.files_dir / "endless.mp4")  # whoever opens it waits for ever
    project.add_row("endless.mp4")
    project.write(PARAMS.model_copy(update={"time_limit_s": 0.3}))
    quarantine = read_quarantine(project.folder / "out")
    assert quarantine["endless.mp4"] == "the decoder hung: nothing new for 0.3 s"
    assert len(quarantine) == 3
