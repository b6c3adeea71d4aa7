"""AudioSet: clips of 10 s of videos, several of 527 sounds each (VATT section 4.1).

It has no text. The lists that are there are used, so that a part of it can be named.
"""

from collections.abc import Iterator, Mapping

from vatt.corpus.manifest import Split
from vatt.download.items import Item, Row, RowError, label, make_items
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import AudioSetSource

LISTS: tuple[tuple[Split, str], ...] = (
    ("train", "balanced_train_segments.csv"),
    ("train", "unbalanced_train_segments.csv"),
    ("test", "eval_segments.csv"),
)
CLASSES = "class_labels_indices.csv"


def read_audioset(lists: OfficialLists, source: AudioSetSource) -> Iterator[Item]:
    """Yield the items of all lists that are there, with a label for each sound."""
    found = [(split, path) for split, name in LISTS if (path := lists.find(name))]
    if not found:
        lists.need(*(name for _, name in LISTS))
    classes = {
        row.fields["mid"]: row.fields["display_name"]
        for row in lists.read_csv(lists.need(CLASSES), "mid", "display_name")
        if not row.problem and {"mid", "display_name"} <= row.fields.keys()
    }
    for split, path in found:
        rows = lists.read_bare_csv(path, "id", "start", "end", "mids")
        yield from make_items(rows, split, _make_item, split, source.name, classes)


def _make_item(row: Row, split: Split, task: str, classes: Mapping[str, str]) -> Item:
    video_id, part_s = row.identifier("id"), row.part_s("start", "end")
    mids = [mid.strip() for mid in row.text("mids").split(",")]
    unknown = [mid for mid in mids if mid not in classes]
    if unknown:
        raise RowError(f"label = {unknown[0]!r}: is not in {CLASSES}")
    labels = tuple(label(task, classes[mid]) for mid in mids)
    names = _clip_names(video_id, *part_s)
    return Item(f"{video_id}_{part_s[0]:g}", split, names, labels, video_id, part_s)


def _clip_names(video_id: str, start_s: float, end_s: float) -> tuple[str, ...]:
    """Return what the programs that fetch AudioSet call a clip."""
    start_ms, end_ms = round(start_s * 1000), round(end_s * 1000)
    return (
        f"Y{video_id}",
        f"{video_id}_{start_s:g}",
        f"{video_id}_{start_s:.3f}",
        f"{video_id}_{start_s:g}_{end_s:g}",
        f"{video_id}_{start_ms}_{end_ms}",
        f"{video_id}_{start_s:.3f}_{end_s:.3f}",
        f"Y{video_id}_{start_s:.3f}_{end_s:.3f}",
        f"{video_id}_{int(start_s):06d}_{int(end_s):06d}",
        f"{video_id}_{start_s:g}-{end_s:g}",
    )
