"""HowTo100M's file of all captions is read as a stream, whatever its size."""

import io
import json
import tracemalloc
from collections.abc import Iterator
from itertools import islice

import pytest

from vatt.core.errors import StageError
from vatt.download import captions
from vatt.download.captions import stream_captions

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
        *('{"a": {}} x', '{"a": {}}{"b": {}}', '{"a": ' + '{"a": ' * 5000 + "1" + "}" * 5001),
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
