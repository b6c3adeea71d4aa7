"""Data sets of the paper: every item and every file is accounted for, also when there are many."""

import os
import time
import tracemalloc
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tests.download.datasets.miniature import ESC50, FETCH, Found, collect, write_media
from tests.download.made_files import write_files
from vatt.core.errors import StageError
from vatt.download.catalogue import collect_catalogue
from vatt.download.datasets import READERS
from vatt.download.datasets.clips import read_audioset
from vatt.download.lists import OfficialLists
from vatt.params import DownloadParams, FetchParams, Source
from vatt.params.sources import AudioSetSource, CatalogueSource


def test_every_kind_has_a_reader() -> None:
    kinds = {
        get_args(source.model_fields["kind"].annotation)[0]
        for source in get_args(get_args(Source)[0])
        if issubclass(source, CatalogueSource)
    }
    assert kinds == READERS.keys()


def test_remote_lists_and_media(tmp_path: Path, server: str) -> None:
    write_files(tmp_path / "media/lists", ESC50)
    write_media(tmp_path / "media", "audio/a.wav", "audio/b.flac")
    collection = collect(
        tmp_path, "esc50", annotations=f"{server}/lists/", media=f"{server}/audio/"
    )
    assert collection.splits == {"a.wav": "test", "b.flac": "test"}
    assert (tmp_path / "download/mine/a.wav").read_text() == "audio/a.wav"
    assert collection.counts == {"test": (2, 2, 0)}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "ucf101: give one of media, addresses"),
        ({"media": "a", "addresses": "b"}, "ucf101: give one of media, addresses"),
        ({"site": "youtube"}, "Extra inputs are not permitted"),
        ({"media": "a", "fold": 4}, "less than or equal to 3"),
        ({"media": "a", "annotations": ""}, "at least 1 character"),
        ({"media": "a", "classes": 400}, "Extra inputs are not permitted"),
        ({"media": "a", "kind": "ucf"}, "does not match any of the expected tags"),
        ({"media": "a", "kind": "howto100m", "site": "youtube"}, "media, addresses, site"),
    ],
)
def test_wrong_parameters_are_refused(changes: dict[str, Any], problem: str) -> None:
    given = {"kind": "ucf101", "name": "ucf101", "annotations": "x", **changes}
    with pytest.raises(ValidationError, match=problem):
        DownloadParams.model_validate({"sources": [given]})


def test_folders_that_do_not_exist_are_named_by_their_key(tmp_path: Path) -> None:
    for key in ("annotations", "media"):
        with pytest.raises(StageError, match=f"{key} = 'none': is not an existing folder"):
            collect(tmp_path, "esc50", ESC50, **{key: "none"})


def test_a_file_that_cannot_be_read_is_unusable(tmp_path: Path) -> None:
    write_media(tmp_path / "media", "a.wav", "b.wav")
    (tmp_path / "media/c.wav").symlink_to("nowhere")
    (tmp_path / "media/d.wav").mkdir()
    collection = collect(tmp_path, "esc50", ESC50)
    assert collection.counts == {"test": (2, 1, 1)}
    assert collection.failed == {
        "c.wav": "is not a file, or a link to a file that does not exist",
        "d.wav": "missing: no media file is called d",
    }


def test_names_with_everything_in_them(tmp_path: Path) -> None:
    names = ['a\'b "c".wav', "emoji \U0001f600 é.wav", "two..dots.wav", "per%20cent #1?.wav"]
    names.append("n\nl.wav")
    rows = "".join('"{}",1,dog\r\n'.format(name.replace('"', '""')) for name in names)
    write_media(tmp_path / "media", *names)
    Path(os.fsdecode(os.fsencode(tmp_path / "media") + b"/\xff.wav")).write_text("not UTF-8")
    lists = {"esc50.csv": f"\ufefffilename,fold,category\r\n{rows}"}
    collection = collect(tmp_path, "esc50", lists)
    assert set(collection.ok) == set(names[:4])
    # The last name goes over two lines, as after a quotation mark that is not closed.
    assert collection.failed == {
        "esc50.csv line 6": "esc50.csv line 6: goes on to line 7: a quotation mark is not closed"
    }
    assert set(collection.ignored) == {"n\nl.wav", "\\udcff.wav"}


def test_the_same_again_is_the_same_and_media_must_not_hold_the_copy(tmp_path: Path) -> None:
    first = collect(tmp_path, "esc50", ESC50, ["a.wav", "sub/b.wav", "sub/x.wav"])
    assert collect(tmp_path, "esc50") == first
    # Lists and media may share a folder.
    write_files(tmp_path / "media", ESC50)
    shared = collect(tmp_path, "esc50", annotations=str(tmp_path / "media"))
    assert shared.labels == first.labels
    assert shared.ignored["esc50.csv"] == "is no media file"
    with pytest.raises(StageError, match=r"holds .*download or lies in it"):
        collect(tmp_path, "esc50", media=str(tmp_path))


VALIDATION: dict[str, tuple[str, str, str, list[str]]] = {
    "ucf101": ("trainlist01.txt", "a/{}", "_", [f"v_a_g{n:02d}" for n in range(40)]),
    "hmdb51": ("a_test_split1.txt", "{} 1", "_", [f"film{n}_a_u_nm_np1_med" for n in range(40)]),
    "esc50": ("esc50.csv", "{0},{0[0]},dog", "-", [f"{2 + n // 20}-{n}" for n in range(40)]),
}
"""The list, a row of it, what parts a recording's name from its clips', the names of recordings."""


@pytest.mark.parametrize("kind", VALIDATION)
def test_validation_takes_whole_recordings_of_the_training_data(tmp_path: Path, kind: str) -> None:
    file, row, mark, recordings = VALIDATION[kind]
    clips = [f"{recording}{mark}{clip}.avi" for recording in recordings for clip in "ABC"]
    lists = {"testlist01.txt": "", file: "".join(f"{row.format(clip)}\n" for clip in clips)}
    held_out = [f"1-{number}-{clip}.avi" for number in range(20) for clip in "AB"]
    if kind == "esc50":
        test_rows = "".join(f"{row.format(clip)}\n" for clip in held_out)
        lists[file] = f"filename,fold,category\n{lists[file]}{test_rows}"
    found = collect(tmp_path, kind, lists, [*clips, *held_out], validation_rate=0.5).splits
    drawn = {name for name, split in found.items() if split == "validation"}
    whole = {name.rpartition(mark)[0] for name in drawn}
    assert 10 <= len(whole) <= 30
    assert len(drawn) == 3 * len(whole)
    of_test = {name for name, split in found.items() if split == "test"}
    assert of_test == (set(held_out) if kind == "esc50" else set())


NUM_ROWS = 200_000


@pytest.fixture(scope="module")
def large_lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AudioSet of 200,000 rows, each with three of 527 labels."""
    folder = tmp_path_factory.mktemp("large")
    classes = "".join(f'{number},/m/{number:05x},"Sound {number}"\n' for number in range(527))
    with (folder / "unbalanced_train_segments.csv").open("w") as file:
        for number in range(NUM_ROWS):
            mids = ",".join(f"/m/{(number * 7 + step * 31) % 527:05x}" for step in range(3))
            file.write(f'id_{number:08d}, {number % 300}.000, {number % 300 + 10}.000, "{mids}"\n')
    (folder / "class_labels_indices.csv").write_text(f"index,mid,display_name\n{classes}")
    return folder


def test_reading_does_not_hold_the_list(large_lists: Path) -> None:
    source = AudioSetSource(kind="audioset", name="x", annotations=str(large_lists), media="x")
    tracemalloc.start()
    items = read_audioset(OfficialLists(str(large_lists), FetchParams()), source)
    count = sum(len(item.annotations) for _, item in zip(range(20_000), items, strict=False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3 * 20_000
    assert peak < 2_000_000


def test_many_rows_take_seconds(tmp_path: Path, large_lists: Path) -> None:
    names = [f"{number % 10}/Yid_{number:08d}.wav" for number in range(0, NUM_ROWS, 400)]
    write_media(tmp_path / "media", *names)
    media = str(tmp_path / "media")
    source = AudioSetSource(kind="audioset", name="mine", annotations=str(large_lists), media=media)
    start_s = time.process_time()
    collection = Found(collect_catalogue(source, tmp_path / "download", FETCH))
    taken_s = time.process_time() - start_s
    assert collection.counts == {"train": (len(names), NUM_ROWS - len(names), 0)}
    assert len(collection.entries) == NUM_ROWS
    assert collection.ok[names[1]].annotations[0].label == f"Sound {400 * 7 % 527}"
    assert taken_s < 20  # 4 s on a quiet machine
