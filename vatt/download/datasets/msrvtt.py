"""MSR-VTT: 10,000 clips with 20 sentences each, for retrieval (VATT section 4.1)."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation, Split
from vatt.download.items import Item, Row, RowError, check_identifier, make_items
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import MSRVTTSource

SPLITS: dict[str, Split] = {"train": "train", "validate": "validation", "test": "test"}
FULL_LISTS = ("train_val_videodatainfo.json", "test_videodatainfo.json")
TEST_LISTS = ("MSRVTT_JSFUSION_test.csv", "msrvtt_test.csv")
TRAIN_LISTS = ("MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv")

Sentences = dict[str, tuple[Annotation, ...]]


def read_msrvtt(lists: OfficialLists, source: MSRVTTSource) -> Iterator[Item]:
    """Yield the videos of the protocol with their sentences.

    1k_a: the 1,000 test videos with the one sentence of the list; the training videos with all of
    theirs, if their list is there. full: the three official splits, of the files that are there.
    """
    if source.protocol == "1k_a":
        rows = lists.read_csv(lists.need(*TEST_LISTS), "video_id", "sentence")
        yield from make_items(rows, "test", _make_test_item)
        train = lists.find(*TRAIN_LISTS)
        if train:
            _, sentences = _read_data(lists, lists.need("MSRVTT_data.json"))
            rows = lists.read_csv(train, "video_id")
            yield from make_items(rows, "train", _make_train_item, sentences)
        return
    names = [name for name in map(lists.find, FULL_LISTS) if name] or [lists.need(*FULL_LISTS)]
    for name in names:
        videos, sentences = _read_data(lists, name)
        rows = (
            Row(f"{name} videos[{number}]", number, video) for number, video in enumerate(videos)
        )
        yield from make_items(rows, "train", _make_full_item, sentences)


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


def _make_test_item(row: Row) -> Item:
    video_id = row.identifier("video_id")
    sentence = Annotation("caption", text=row.text("sentence"))
    return Item(video_id, "test", (video_id,), (sentence,))


def _make_train_item(row: Row, sentences: Sentences) -> Item:
    video_id = row.identifier("video_id")
    if video_id not in sentences:
        raise RowError(f"video_id = {video_id!r}: has no sentence in MSRVTT_data.json")
    return Item(video_id, "train", (video_id,), sentences[video_id])


def _make_full_item(row: Row, sentences: Sentences) -> Item:
    match row.fields:
        case {"video_id": str(video_id), "split": str(split)} if split in SPLITS:
            check_identifier(video_id, "video_id")
            return Item(video_id, SPLITS[split], (video_id,), sentences.get(video_id, ()))
    raise RowError(f"needs video_id and split ({', '.join(SPLITS)}); it is {row.fields!r:.100}")
