"""HowTo100M: narrated videos, and captions from whichever file the user has, whatever its size."""

import io
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import pytest

from tests.download.datasets.miniature import Found, collect, write_media
from tests.download.made_files import write_files
from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.download import captions
from vatt.download.captions import stream_captions
from vatt.media.captions import Caption, read_captions

VIDEOS = {
    "abc": {"start": [0, 1.5], "end": [1, 2], "text": ["one", 'two " \\ } { é \U0001f600']},
    "-_9": {"start": [], "end": [], "text": []},
    'odd "key\\': {"start": [1], "end": [2], "text": ["x"]},
    "": {"start": [1], "end": [2], "text": [""]},
}


def read(content: str | bytes) -> dict[str, object]:
    data = content.encode() if isinstance(content, str) else content
    return {key: json.loads(text) for key, text in stream_captions(io.BytesIO(data), "c.json")}


@pytest.mark.parametrize("chunk", [2, 7, 64, 1 << 20])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_it_equals_reading_it_whole(
    monkeypatch: pytest.MonkeyPatch, chunk: int, ascii_only: bool, indent: int | None
) -> None:
    monkeypatch.setattr(captions, "CHUNK", chunk)
    text = json.dumps(VIDEOS, ensure_ascii=ascii_only, indent=indent)
    assert read(text) == VIDEOS
    assert read(text.replace("\n", "\r\n").encode("utf-8-sig")) == VIDEOS
    assert read("{}") == read(" { }\n") == {}


def test_missing_texts_cost_nothing_else() -> None:
    (value,) = read('{"a": {"start": [0], "end": [1], "text": [NaN]}}').values()
    assert str(value) == "{'start': [0], 'end': [1], 'text': [nan]}"


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{", '{"a"', '{"a": 1}', '{"a": []}', '{"a": {"start": [}}', '{"a": {}'),
        *('{"a": {}} x', '{"a": {}}{"b": {}}', '{"a": ' + '{"a": ' * 300_000 + "1" + "}" * 300_001),
        *(b'{"a\xff": {}}', b"\0"),
    ],
)
def test_other_files_are_refused(content: str | bytes) -> None:
    with pytest.raises(StageError, match=r"^c\.json: is not "):
        read(content)


class _Endless(io.RawIOBase):
    """A file of as many videos as one likes, made while it is read."""

    def __init__(self, num_videos: int) -> None:
        self._parts = self._write(num_videos)
        self._rest = b""

    @staticmethod
    def _write(num_videos: int) -> Iterator[bytes]:
        value = json.dumps({"start": [0.5] * 80, "end": [3.5] * 80, "text": ["stir it"] * 80})
        for number in range(num_videos):
            yield f'{"," if number else "{"}\n"{number:011d}": {value}'.encode()
        yield b"}"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while len(self._rest) < len(buffer) and (parts := b"".join(islice(self._parts, 100))):
            self._rest += parts
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def test_memory_does_not_grow_with_the_file() -> None:
    num_videos = 6000
    tracemalloc.start()
    num_bytes = count = 0
    for _, text in stream_captions(io.BufferedReader(_Endless(num_videos)), "c.json"):
        count += 1
        num_bytes += len(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == num_videos
    assert num_bytes > 10_000_000
    assert peak < 8_000_000


IDS = ("nVbIUDjzWY4", "CTPAZ2euJ2Q", "_97kyZVWVG0")
MEDIA = ("videos/nVbIUDjzWY4.mp4", "CTPAZ2euJ2Q.webm", "How to sew [_97kyZVWVG0].mkv")
LIST = (
    "video_id,category_1,category_2,rank,task_id\n"
    f"{IDS[0]},Cars & Other Vehicles,Motorcycles,27,52907\r\n"
    f"{IDS[1]},Cars & Other Vehicles,Motorcycles,35,109057\n"
    f"{IDS[2]},Hobbies and Crafts,Crafts,34,119814\n"
    "gkjnR3-ZVts,Food and Entertaining,Drinks,6,25938\n"
)


def captions_of(*texts: str | float) -> dict[str, object]:
    return {
        "start": [float(number) for number in range(len(texts))],
        "end": [number + 1.5 for number in range(len(texts))],
        "text": list(texts),
    }


RAW = json.dumps({name: captions_of(f"text of {name}") for name in IDS})
TEXTS = {name: [f"text of {video}"] for name, video in zip(MEDIA, IDS, strict=True)}


def collect_howto100m(tmp_path: Path, **files: str) -> Found:
    lists = {name.replace("__", "."): content for name, content in files.items()}
    return collect(tmp_path, "howto100m", {"HowTo100M_v1.csv": LIST, **lists})


def texts_of(tmp_path: Path, collection: Found) -> dict[str, list[str]]:
    """What preprocess will read for each video."""
    found = {}
    for name, row in collection.ok.items():
        if row.captions_path:
            path = tmp_path / "download" / row.captions_path
            read = read_captions(path)
            found[name] = [caption.text for caption in read.captions]
    return found


@pytest.fixture(autouse=True)
def media(tmp_path: Path) -> None:
    write_media(tmp_path / "media", *MEDIA)


def test_raw_captions_of_all_videos(tmp_path: Path) -> None:
    raw = {
        IDS[0]: captions_of("we take the café", float("nan"), 'and "stir" \u2028 it'),
        "other": captions_of("not used"),
        IDS[1]: captions_of(),
    }
    collection = collect_howto100m(
        tmp_path, raw_caption__json=json.dumps(raw), caption__json="{broken"
    )
    assert texts_of(tmp_path, collection) == {
        MEDIA[0]: ["we take the café", 'and "stir" it'],
        MEDIA[1]: [],
    }
    path = collection.ok[MEDIA[0]].captions_path
    assert path == f"mine/.captions/{IDS[0]}.json"
    transcript = read_captions(tmp_path / "download" / path)
    assert transcript.captions[0] == Caption(0.0, 1.5, "we take the café")
    assert collection.ok[MEDIA[2]].captions_path is None
    assert collection.counts == {"train": (3, 1, 0)}
    assert collection.failed == {"gkjnR3-ZVts": "missing: no media file is called gkjnR3-ZVts"}


def test_a_file_for_each_video_beside_it_or_in_the_lists(tmp_path: Path) -> None:
    table = "start,end,text\n0.5,2,from the list\n"
    write_files(tmp_path / "lists/howto100m_captions", {f"{name}.csv": table for name in IDS})
    beside = {
        "CTPAZ2euJ2Q.en.vtt": "WEBVTT\n\n00:01.000 --> 00:02.000\nbeside\n",
        "CTPAZ2euJ2Q.de.vtt": "WEBVTT\n",
        "other.vtt": "WEBVTT\n",
    }
    write_files(tmp_path / "media", beside)
    collection = collect_howto100m(tmp_path)
    assert texts_of(tmp_path, collection) == {
        MEDIA[0]: ["from the list"],
        MEDIA[1]: ["beside"],
        MEDIA[2]: ["from the list"],
    }
    assert collection.ignored == dict.fromkeys(list(beside)[1:], "is no media file")


def test_captions_are_written_once(tmp_path: Path) -> None:
    raw = {name: captions_of(f"text of {name}") for name in IDS[:2]}
    first = collect_howto100m(tmp_path, raw_caption__json=json.dumps(raw))
    folder = tmp_path / "download/mine/.captions"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert collect_howto100m(tmp_path).entries == first.entries
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    # A video that is gone takes its captions with it; one that comes gets its own.
    (tmp_path / "media" / MEDIA[0]).unlink()
    collect_howto100m(tmp_path)
    assert {path.name for path in folder.iterdir()} == {f"{IDS[1]}.json"}
    write_media(tmp_path / "media", MEDIA[0])
    assert collect_howto100m(tmp_path).entries == first.entries
    # Another state of the file is read again.
    changed = json.dumps({IDS[1]: captions_of("changed"), IDS[2]: captions_of("new")})
    collection = collect_howto100m(tmp_path, raw_caption__json=changed)
    assert texts_of(tmp_path, collection) == {MEDIA[1]: ["changed"], MEDIA[2]: ["new"]}
    (tmp_path / "lists/raw_caption.json").unlink()
    assert texts_of(tmp_path, collect_howto100m(tmp_path)) == {}
    assert not list(folder.iterdir())


def test_killed_while_captions_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def stop_at_the_second(path: Path) -> AbstractContextManager[Path]:
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        return atomic_path(path)

    with monkeypatch.context() as patch:
        patch.setattr(captions, "atomic_path", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            collect_howto100m(tmp_path, raw_caption__json=RAW)
    before = written[0].stat().st_mtime_ns
    assert texts_of(tmp_path, collect_howto100m(tmp_path)) == TEXTS
    assert written[0].stat().st_mtime_ns == before


def test_broken_off_captions_are_named_and_a_mended_file_is_used(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"caption\.json: is not of the form .* cut off"):
        collect_howto100m(tmp_path, caption__json=RAW[:-30])
    assert texts_of(tmp_path, collect_howto100m(tmp_path, caption__json=RAW)) == TEXTS


def test_rows_named_twice_and_hostile_ones(tmp_path: Path) -> None:
    rows = f"{LIST}{IDS[0]},again,x,1,2\n../x,a,b,1,2\n,a,b,1,2\n"
    write_media(tmp_path, "x.mp4")
    collection = collect(tmp_path, "howto100m", {"HowTo100M_v1.csv": rows})
    assert collection.counts == {"train": (3, 1, 2)}
    assert collection.ignored == {
        IDS[0]: f"the official list names {IDS[0]} more than once; the first time counts"
    }
    assert collection.failed["HowTo100M_v1.csv line 7"] == (
        "HowTo100M_v1.csv line 7: video_id = '../x': must be an id of letters, digits, _ and -"
    )
