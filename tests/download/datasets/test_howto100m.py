"""HowTo100M: narrated videos, and captions from whichever file the user has."""

import json
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.download.datasets.miniature import Found, collect, write_media
from tests.download.made_files import write_files
from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.media.captions import Caption, read_captions

LIST = (
    "video_id,category_1,category_2,rank,task_id\n"
    "nVbIUDjzWY4,Cars & Other Vehicles,Motorcycles,27,52907\r\n"
    "CTPAZ2euJ2Q,Cars & Other Vehicles,Motorcycles,35,109057\n"
    "_97kyZVWVG0,Hobbies and Crafts,Crafts,34,119814\n"
    "gkjnR3-ZVts,Food and Entertaining,Drinks,6,25938\n"
)
IDS = ("nVbIUDjzWY4", "CTPAZ2euJ2Q", "_97kyZVWVG0")
MEDIA = ("videos/nVbIUDjzWY4.mp4", "CTPAZ2euJ2Q.webm", "How to sew [_97kyZVWVG0].mkv")


def captions(*texts: str | float) -> dict[str, object]:
    return {
        "start": [float(number) for number in range(len(texts))],
        "end": [number + 1.5 for number in range(len(texts))],
        "text": list(texts),
    }


def texts_of(tmp_path: Path, collection: Found) -> dict[str, list[str]]:
    """What preprocess will read for each video."""
    found = {}
    for name, row in collection.ok.items():
        if row.captions_path and row.captions_format:
            path = tmp_path / "download" / row.captions_path
            read = read_captions(path, row.captions_format)
            found[name] = [caption.text for caption in read.captions]
    return found


def write_lists(tmp_path: Path, **files: str) -> None:
    lists = {name.replace("__", "."): content for name, content in files.items()}
    write_files(tmp_path / "lists", {"HowTo100M_v1.csv": LIST, **lists})
    write_media(tmp_path / "media", *MEDIA)


def test_raw_captions_of_all_videos(tmp_path: Path) -> None:
    raw = {
        IDS[0]: captions("we take the café", float("nan"), 'and "stir" \u2028 it'),
        "other": captions("not used"),
        IDS[1]: captions(),
    }
    write_lists(tmp_path, raw_caption__json=json.dumps(raw), caption__json="{broken")
    collection = collect(tmp_path, "howto100m")
    assert texts_of(tmp_path, collection) == {
        MEDIA[0]: ["we take the café", 'and "stir" it'],
        MEDIA[1]: [],
    }
    path = collection.ok[MEDIA[0]].captions_path
    assert path == f"mine/.captions/{IDS[0]}.json"
    assert read_captions(tmp_path / "download" / path, "howto100m_json").captions[0] == Caption(
        0.0, 1.5, "we take the café"
    )
    assert collection.ok[MEDIA[2]].captions_path is None
    assert collection.counts == {"train": (3, 1, 0)}
    assert collection.failed == {"gkjnR3-ZVts": "missing: no media file is called gkjnR3-ZVts"}


def test_a_file_for_each_video_beside_it_or_in_the_lists(tmp_path: Path) -> None:
    write_lists(tmp_path)
    table = "start,end,text\n0.5,2,from the list\n"
    write_files(tmp_path / "lists/howto100m_captions", {f"{name}.csv": table for name in IDS})
    write_files(
        tmp_path / "media",
        {
            "CTPAZ2euJ2Q.en.vtt": "WEBVTT\n\n00:01.000 --> 00:02.000\nbeside\n",
            "CTPAZ2euJ2Q.de.vtt": "WEBVTT\n",
            "other.vtt": "WEBVTT\n",
        },
    )
    collection = collect(tmp_path, "howto100m")
    assert texts_of(tmp_path, collection) == {
        MEDIA[0]: ["from the list"],
        MEDIA[1]: ["beside"],
        MEDIA[2]: ["from the list"],
    }
    assert collection.ignored == {
        "CTPAZ2euJ2Q.de.vtt": "is no media file",
        "other.vtt": "is no media file",
    }


def test_captions_are_written_once(tmp_path: Path) -> None:
    raw = {name: captions(f"text of {name}") for name in IDS[:2]}
    write_lists(tmp_path, raw_caption__json=json.dumps(raw))
    first = collect(tmp_path, "howto100m")
    folder = tmp_path / "download/mine/.captions"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert collect(tmp_path, "howto100m").entries == first.entries
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    # A video that is gone takes its captions with it; one that comes gets its own.
    (tmp_path / "media" / MEDIA[0]).unlink()
    collect(tmp_path, "howto100m")
    assert {path.name for path in folder.iterdir()} == {f"{IDS[1]}.json"}
    write_media(tmp_path / "media", MEDIA[0])
    assert collect(tmp_path, "howto100m").entries == first.entries
    # Another state of the file is read again.
    changed = {IDS[1]: captions("changed"), IDS[2]: captions("new")}
    write_files(tmp_path / "lists", {"raw_caption.json": json.dumps(changed)})
    assert texts_of(tmp_path, collect(tmp_path, "howto100m")) == {
        MEDIA[1]: ["changed"],
        MEDIA[2]: ["new"],
    }
    (tmp_path / "lists/raw_caption.json").unlink()
    assert texts_of(tmp_path, collect(tmp_path, "howto100m")) == {}
    assert not list(folder.iterdir())


def test_killed_while_captions_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {name: captions(f"text of {name}") for name in IDS}
    write_lists(tmp_path, raw_caption__json=json.dumps(raw))
    written = []

    def stop_at_the_second(path: Path) -> AbstractContextManager[Path]:
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        return atomic_path(path)

    with monkeypatch.context() as patch:
        patch.setattr("vatt.download.captions.atomic_path", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            collect(tmp_path, "howto100m")
    before = written[0].stat().st_mtime_ns
    found = texts_of(tmp_path, collect(tmp_path, "howto100m"))
    assert found == {name: [f"text of {video}"] for name, video in zip(MEDIA, IDS, strict=True)}
    assert written[0].stat().st_mtime_ns == before


def test_broken_off_captions_are_named_and_a_mended_file_is_used(tmp_path: Path) -> None:
    whole = json.dumps({name: captions(f"text of {name}") for name in IDS})
    write_lists(tmp_path, caption__json=whole[:-30])
    with pytest.raises(StageError, match=r"caption\.json: is not of the form .* cut off"):
        collect(tmp_path, "howto100m")
    write_files(tmp_path / "lists", {"caption.json": whole})
    assert texts_of(tmp_path, collect(tmp_path, "howto100m")) == {
        name: [f"text of {video}"] for name, video in zip(MEDIA, IDS, strict=True)
    }


def test_rows_named_twice_and_hostile_ones(tmp_path: Path) -> None:
    rows = f"{LIST}nVbIUDjzWY4,again,x,1,2\n../x,a,b,1,2\n,a,b,1,2\n"
    write_files(tmp_path / "lists", {"HowTo100M_v1.csv": rows})
    write_media(tmp_path, "x.mp4")
    write_media(tmp_path / "media", *MEDIA)
    collection = collect(tmp_path, "howto100m")
    assert collection.counts == {"train": (3, 1, 2)}
    assert collection.ignored == {
        "nVbIUDjzWY4": "the official list names nVbIUDjzWY4 more than once; the first time counts"
    }
    assert collection.failed["HowTo100M_v1.csv line 7"] == (
        "HowTo100M_v1.csv line 7: video_id = '../x': must be an id of letters, digits, _ and -"
    )
