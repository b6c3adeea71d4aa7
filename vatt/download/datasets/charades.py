"""Charades: 9,848 videos of daily life, several of 157 actions each, from time to time (AVBERT)."""

from collections.abc import Iterator

from vatt.corpus.manifest import Annotation, Split
from vatt.download.items import Item, Row, RowError, check_part, make_items, read_seconds
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import CharadesSource

LISTS: dict[Split, str] = {"train": "Charades_v1_train.csv", "test": "Charades_v1_test.csv"}


def read_charades(lists: OfficialLists, source: CharadesSource) -> Iterator[Item]:
    """Yield the videos with a label for each action, by its code (c000 to c156), and its time."""
    for split, name in LISTS.items():
        rows = lists.read_csv(lists.need(name), "id", "actions")
        yield from make_items(rows, split, _make_item, split, source.name)


def _make_item(row: Row, split: Split, task: str) -> Item:
    video_id = row.identifier("id")
    actions = [text for text in row.fields.get("actions", "").split(";") if text.strip()]
    labels = tuple(_read_action(text, task) for text in actions)
    return Item(video_id, split, (video_id,), labels)


def _read_action(text: str, task: str) -> Annotation:
    words = text.split()
    if len(words) != 3:
        raise RowError(f"actions = {text!r}: must be of the form c092 11.90 21.20")
    start_s, end_s = (read_seconds(word, "actions") for word in words[1:])
    return Annotation(task, words[0], *check_part(start_s, end_s))
