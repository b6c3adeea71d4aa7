"""Data sets of videos with sentences, for retrieval: MSR-VTT and YouCook2 (VATT section 4.1)."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation, Split
from vatt.download.lists import (
    Item,
    OfficialLists,
    Row,
    RowError,
    check_part,
    make_items,
    read_seconds,
)
from vatt.params.sources import MSRVTTSource, YouCook2Source

MSRVTT_SPLITS: dict[str, Split] = {"train": "train", "validate": "validation", "test": "test"}
FULL_LISTS = ("train_val_videodatainfo.json", "test_videodatainfo.json")
TEST_LISTS = ("MSRVTT_JSFUSION_test.csv", "msrvtt_test.csv")
TRAIN_LISTS = ("MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv")
# The official validation list is our test split, as in the paper: test sentences are not public.
YOUCOOK2_SPLITS: dict[str, Split] = {"training": "train", "validation": "test"}

Sentences = dict[str, tuple[Annotation, ...]]
"""The sentences of each video."""


def read_msrvtt(lists: OfficialLists, source: MSRVTTSource) -> Iterator[Item]:
    """Yield the videos of the protocol, of 10,000 clips with 20 sentences each.

    1k_a: the 1,000 test videos with the one sentence of the list; the training videos with all of
    theirs, if their list is there. full: the three official splits, of the files that are there.
    """
    if source.protocol == "1k_a":
        rows = lists.read_csv(lists.need(*TEST_LISTS), "video_id", "sentence")
        yield from make_items(rows, "test", _make_test_clip)
        train = lists.find(*TRAIN_LISTS)
        if train:
            _, sentences = _read_data(lists, lists.need("MSRVTT_data.json"))
            rows = lists.read_csv(train, "video_id")
            yield from make_items(rows, "train", _make_train_clip, sentences)
        return
    names = [name for name in map(lists.find, FULL_LISTS) if name] or [lists.need(*FULL_LISTS)]
    for name in names:
        videos, sentences = _read_data(lists, name)
        rows = (
            Row(f"{name} videos[{number}]", number, video) for number, video in enumerate(videos)
        )
        yield from make_items(rows, "train", _make_clip, sentences)


def _read_data(lists: OfficialLists, name: str) -> tuple[list[Any], Sentences]:
    """Read the official JSON: its videos, and the sentences of each video."""
    content = lists.read_json(name)
    sentences = defaultdict(list)
    match content:
        case {"videos": list(videos), "sentences": list(rows)}:
            for number, row in enumerate(rows):
                match row:
                    case {"video_id": str(video_id), "caption": str(text)} if text.strip():
                        sentences[video_id].append(Annotation("caption", text=text.strip()))
                    case _:
                        raise StageError(
                            f"{name}: sentences[{number}]: needs video_id and caption; "
                            f"it is {row!r:.100}"
                        )
            return videos, {video_id: tuple(texts) for video_id, texts in sentences.items()}
    raise StageError(f'{name}: is not of the form {{"videos": [...], "sentences": [...]}}')


def _make_test_clip(row: Row) -> Item:
    video_id = row.identifier("video_id")
    sentence = Annotation("caption", text=row.text("sentence"))
    return Item(video_id, "test", (video_id,), (sentence,))


def _make_train_clip(row: Row, sentences: Sentences) -> Item:
    video_id = row.identifier("video_id")
    if video_id not in sentences:
        raise RowError(f"video_id = {video_id!r}: has no sentence in MSRVTT_data.json")
    return Item(video_id, "train", (video_id,), sentences[video_id])


def _make_clip(row: Row, sentences: Sentences) -> Item:
    match row.fields:
        case {"video_id": str(), "split": str(split)} if split in MSRVTT_SPLITS:
            video_id = row.identifier("video_id")
            return Item(video_id, MSRVTT_SPLITS[split], (video_id,), sentences.get(video_id, ()))
    raise RowError(
        f"needs video_id and split ({', '.join(MSRVTT_SPLITS)}); it is {row.fields!r:.100}"
    )


def read_youcook2(lists: OfficialLists, _: YouCook2Source) -> Iterator[Item]:
    """Yield cooking videos with a sentence for each step, from start to end in the whole video."""
    name = lists.need("youcookii_annotations_trainval.json")
    content = lists.read_json(name)
    videos = content.get("database") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise StageError(f'{name}: is not of the form {{"database": {{"<video id>": ...}}}}')
    rows = (
        Row(f"{name} database.{video_id}", number, {"id": video_id, "video": video})
        for number, (video_id, video) in enumerate(videos.items())
    )
    return make_items(rows, "train", _make_recipe)


def _make_recipe(row: Row) -> Item:
    video_id, video = row.identifier("id"), row.fields["video"]
    subset = video.get("subset") if isinstance(video, dict) else None
    if not isinstance(subset, str) or subset not in YOUCOOK2_SPLITS:
        raise RowError(f"subset = {subset!r}: must be {' or '.join(YOUCOOK2_SPLITS)}")
    if not isinstance(steps := video.get("annotations"), list):
        raise RowError("annotations: is no list")
    notes = []
    for number, step in enumerate(steps):
        field = f"annotations[{number}]"
        match step:
            case {"segment": [start, end], "sentence": str(sentence)} if sentence.strip():
                start_s, end_s = read_seconds(start, field), read_seconds(end, field)
                check_part(start_s, end_s, field)
                notes.append(Annotation("caption", None, start_s, end_s, sentence.strip()))
            case _:
                raise RowError(
                    f"{field}: needs segment [start, end] and sentence; it is {step!r:.100}"
                )
    split = YOUCOOK2_SPLITS[subset]
    return Item(video_id, split, (video_id,), tuple(notes), whole_video=video_id)
