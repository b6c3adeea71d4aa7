import ast
import dataclasses
import importlib.metadata
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.closure import files_used_by
from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS
from vatt.core.code import PACKAGE_DIR, list_code
from vatt.core.errors import StageError
from vatt.core.pool import run_in_workers
from vatt.corpus.index import Segment
from vatt.corpus.manifest import Annotation, ManifestEntry
from vatt.media.decoding import MediaError
from vatt.preprocess.fragments import (
    CODE,
    LIBRARIES,
    FragmentStore,
    Outcome,
    add_labels,
    key_of,
    make_key,
    write_fragment,
)
from vatt.preprocess.transcripts import SpokenLine, Transcript, Word

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".ts", ".avi", ".ogg", ".wav", ".flac", ".mp3")
SOUND_ONLY = {".ogg", ".wav", ".flac", ".mp3"}


def test_keys_are_of_plain_characters_and_differ() -> None:
    names = ["a.mp4", "A.mp4", "ü 😀.mp4", "x/y.mp4", "\ud800.mp4", "y"]
    keys = [key_of(ManifestEntry("s", name, "train", path="x")) for name in names]
    keys.append(key_of(ManifestEntry("s/x", "y.mp4", "train", path="x")))
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys)
    assert len({*keys}) == len(names)  # a source's name holds no slash


def test_descriptions_of_parts_that_a_file_lacks_are_a_problem(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", Clip(duration_s=4.0))
    steps = [(0.5, 1.0, "Stir."), (3.5, 90.0, "Serve."), (50.0, 60.0, "Eat.")]
    annotations = tuple(Annotation("caption", None, *step) for step in steps)
    entry = ManifestEntry("s", "a.mp4", "test", path="a.mp4", annotations=annotations)
    outcome = write_fragment(tmp_path, tmp_path, PARAMS, entry)
    (segment,) = add_labels(outcome, entry).segments
    assert segment.descriptions == '["Stir."]'
    assert segment.problem == "2 of 3 descriptions are of parts that it lacks"


def test_subtitles_in_a_file_are_its_captions_where_none_are_beside_it(tmp_path: Path) -> None:
    write_clip(tmp_path / "plain.mp4", Clip(duration_s=4.0))
    tracks = {"other": "ein Koch rührt", "said": "a cook stirs", "signs": "KITCHEN"}
    for name, text in tracks.items():
        (tmp_path / f"{name}.srt").write_text(f"1\n00:00:00,500 --> 00:00:02,000\n{text}\n")
    command = ["ffmpeg", "-loglevel", "error", "-i", "plain.mp4"]
    command += [part for name in tracks for part in ("-i", f"{name}.srt")]
    command += [part for number in range(4) for part in ("-map", str(number))]
    command += ["-c", "copy", "-c:s", "mov_text", "-disposition:s:2", "forced"]
    for number, language in enumerate(("ger", "eng", "eng")):
        command += [f"-metadata:s:s:{number}", f"language={language}"]
    subprocess.run([*command, "a.mp4"], check=True, cwd=tmp_path)
    entry = ManifestEntry("s", "a.mp4", "train", path="a.mp4")
    outcome = write_fragment(tmp_path, tmp_path, PARAMS, entry)
    assert outcome.texts == ["a cook stirs"]
    assert outcome.segments[0].num_captions == 1
    assert outcome.segments[0].problem is None
    (tmp_path / "b.srt").write_text("1\n00:00:00,500 --> 00:00:02,000\nbeside it\n")
    entry = dataclasses.replace(entry, captions_path="b.srt")
    assert write_fragment(tmp_path, tmp_path, PARAMS, entry).texts == ["beside it"]


def test_a_recogniser_hears_what_has_no_captions(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", Clip(duration_s=4.0))
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nbeside it\n")
    (tmp_path / "bad.mp4").write_text("no media")
    line = SpokenLine(1.0, 2.0, "hello", (Word(1.0, 2.0, "hello"),))
    heard: list[str] = []

    def transcribe(name: str, error: Exception | None = None) -> Transcript:
        heard.append(name)
        if error:
            raise error
        return Transcript("en", 0.9, (line,), ())

    def write(name: str, error: Exception | None = None, captions: str | None = None) -> Outcome:
        entry = ManifestEntry("s", name, "train", path=name, transcribe=True)
        entry = dataclasses.replace(entry, captions_path=captions)
        work = partial(transcribe, name, error)
        return write_fragment(tmp_path, tmp_path, PARAMS, entry, work)

    assert write("a.mp4", captions="a.vtt").texts == ["beside it"]
    assert heard == []
    outcome = write("a.mp4")
    assert (outcome.texts, outcome.segments[0].num_captions) == (["hello"], 1)
    assert outcome.transcript is not None
    assert outcome.transcript["lines"][0]["words"][0]["text"] == "hello"
    assert write("bad.mp4", MediaError("is no media file")).reason is not None
    with pytest.raises(StageError, match="out of memory"):  # no fault of the file
        write("a.mp4", StageError("CUDA: out of memory"))


def change_bytes(
    content: bytearray, rng: np.random.Generator, *, num_bytes: int = 10**9, most: int = 30
) -> None:
    for place in rng.integers(min(num_bytes, len(content)), size=rng.integers(1, most)):
        content[place] = rng.integers(256)


def overwrite(content: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(len(content))
    content[start : start + 500] = rng.bytes(500)


def cut_out(content: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(len(content))
    del content[start : start + rng.integers(1, 3000)]


def cut_off(content: bytearray, rng: np.random.Generator) -> None:
    del content[rng.integers(1, len(content)) :]


DAMAGES: list[Callable[[bytearray, np.random.Generator], None]] = [
    *(change_bytes, partial(change_bytes, num_bytes=600, most=20), overwrite, cut_out, cut_off)
]


@pytest.mark.parametrize("num_rounds", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_damaged_files_are_used_or_refused(tmp_path: Path, num_rounds: int) -> None:
    (tmp_path / "fragments").mkdir()
    entries = []
    for suffix in SUFFIXES:
        clip = Clip(duration_s=2.0, video=suffix not in SOUND_ONLY)
        good = write_clip(tmp_path / f"good{suffix}", clip).read_bytes()
        for number in range(num_rounds * len(DAMAGES)):
            content = bytearray(good)
            rng = np.random.default_rng([number, len(good)])
            DAMAGES[number % len(DAMAGES)](content, rng)
            path = tmp_path / f"{number}{suffix}"
            path.write_bytes(content)
            entries.append(ManifestEntry("damaged", path.name, "train", path=path.name))
    work = partial(write_fragment, tmp_path, tmp_path / "fragments", PARAMS)
    outcomes = list(run_in_workers(work, entries, 2))
    for outcome in outcomes:
        assert outcome is None or bool(outcome.segments) != bool(outcome.reason)
        assert outcome is None or sum(row.num_frames for row in outcome.segments) < 100
    usable = sum(outcome is not None and bool(outcome.segments) for outcome in outcomes)
    assert len(entries) / 3 < usable < len(entries)


MEMBERS = bytes(range(256)) * 8
KEY = "0123456789abcdef"


def make_outcome() -> Outcome:
    """A segment with values of all types, as measured: numpy's numbers, NaN, odd characters."""
    values: dict[Any, Any] = {
        str: 'x "ü" \ud800',
        int: 7,
        float: math.nan,
        bool: True,
        str | None: None,
    }
    row = {field.name: values[field.type] for field in dataclasses.fields(Segment)}
    row |= {"num_frames": np.int64(5), "black_rate": np.float32(0.5), "start_s": 0.1 + 0.2}
    return Outcome([Segment(**row)], ["one", "two\n"])


@pytest.fixture
def store(tmp_path: Path) -> FragmentStore:
    store = FragmentStore(tmp_path)
    (tmp_path / "new").write_bytes(MEMBERS)
    store.add(KEY, tmp_path / "new", make_outcome())
    return store


def test_an_outcome_comes_back_as_it_was(store: FragmentStore) -> None:
    outcome = store.read(KEY)
    assert outcome is not None
    assert repr(outcome.segments) == repr(make_outcome().segments).replace(
        "np.int64(5)", "5"
    ).replace("np.float32(0.5)", "0.5")
    assert outcome.texts == ["one", "two\n"]
    assert outcome.reason is None
    assert store.path_of(KEY).read_bytes().startswith(MEMBERS)


def test_a_quarantined_file_leaves_no_members(store: FragmentStore, tmp_path: Path) -> None:
    (tmp_path / "half").write_bytes(MEMBERS)
    for key, name in (("ab", "half"), ("cd", "missing")):
        store.add(key, tmp_path / name, Outcome([], [], "broken"))
        assert store.read(key) == Outcome([], [], "broken")
    assert store.path_of("ab").stat().st_size < len(MEMBERS)


def test_every_damage_is_noticed(store: FragmentStore) -> None:
    path = store.path_of(KEY)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [0, len(MEMBERS), *range(len(good) - 26, len(good)), *rng.integers(len(good), size=50)]
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert store.read(KEY) is None
    for length in [0, 5, 16, 24, 25, len(MEMBERS), len(good) - 1]:
        path.write_bytes(good[:length])
        assert store.read(KEY) is None
    path.write_bytes(good + b"\0")
    assert store.read(KEY) is None
    path.write_bytes(good)
    assert store.read(KEY) is not None
    other = "01" + "0" * 14  # an entry under another key is damaged, too
    path.rename(store.path_of(other))
    assert store.read(other) is None


def test_what_is_not_used_is_removed(store: FragmentStore, tmp_path: Path) -> None:
    store.add("ff", tmp_path / "new", Outcome([], [], "broken"))
    (store.partial_dir / "x").mkdir(parents=True)
    store.remove_all_but({"ff"})
    assert store.read(KEY) is None
    assert store.read("ff") is not None
    assert not store.partial_dir.exists()


ENTRY = ManifestEntry("s", "a.mp4", "train", path="s/a.mp4")


def key(
    files: tuple[str | None, ...] = ("file", "captions"),
    code: str = "code",
    params: dict[str, Any] | None = None,
    **entry: Any,
) -> str:
    changed = PARAMS.model_copy(update=params)
    return make_key(dataclasses.replace(ENTRY, **entry), files, changed, code)


def test_whatever_a_fragment_is_made_from_is_in_its_key() -> None:
    others = [
        key(video_id="b.mp4"),
        key(caption_problem="HTTP 404"),
        *(key(("other", "captions")), key(("file", "other")), key(("file", None))),
        *(key(params={"video_crf": 21}), key(params={"segment_s": 5.0}), key(code="other")),
    ]
    assert len({key(), *others}) == 1 + len(others)
    same = {"segments_per_shard": 9, "vocab_size": 999, "time_limit_s": 1.5}
    assert key() == key() == key(params=same)
    assert key(split="test", annotations=(Annotation("t"),)) == key()  # they are added later


def test_the_code_of_fragments_is_all_that_they_use() -> None:
    used = files_used_by(PACKAGE_DIR / "preprocess" / "fragments.py")
    values = {path for path in used if path.parent.name in {"params", "core"}}
    assert used - values - set(list_code(*CODE)) == set()


def imports_of(path: Path) -> set[str]:
    """Return the packages outside the standard library that a module imports, as in `import`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"vatt"}


def test_the_versions_of_all_packages_that_fragments_are_made_with_count() -> None:
    # The same modules read whole corpora, for which they need more than fragments do.
    readers = {"vatt/corpus/index.py", "vatt/corpus/shards.py"}
    of_corpora = {"pandas", "pyarrow", "fsspec", "aiohttp"}
    imported = set()
    for path in list_code(*CODE):
        is_reader = str(path.relative_to(PACKAGE_DIR.parent)) in readers
        imported |= imports_of(path) - (of_corpora if is_reader else set())
    packages = importlib.metadata.packages_distributions()
    used = {package.lower() for name in imported for package in packages[name]}
    # The first two check types and rows; they compute nothing. The network is read from its file.
    assert used - {"jaxtyping", "pydantic"} | {"silero-vad"} == set(LIBRARIES)
