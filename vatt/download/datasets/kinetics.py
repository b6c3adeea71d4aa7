"""Kinetics-400, 600 and 700: clips of about 10 s of videos, one action each (VATT section 4.1).

Differs from the paper's words: the official validation list is our test split, as in the released
code. The labels of the official test list were never published for all versions, so it is unused.
"""

from collections.abc import Collection, Iterator

from vatt.corpus.manifest import Split
from vatt.download.items import Item, Row, RowError, label, make_items
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import KineticsSoundsSource, KineticsSource

COLUMNS = ("youtube_id", "time_start", "time_end", "split")
UNUSED = ("test", "holdout")
SPLITS: dict[str, Split] = {
    "train": "train",
    **dict.fromkeys(("val", "validate", "validation", *UNUSED), "test"),
}


def read_kinetics(
    lists: OfficialLists,
    source: KineticsSource | KineticsSoundsSource,
    classes: Collection[str] | None = None,
) -> Iterator[Item]:
    """Yield the items of every CSV with columns of Kinetics, of `classes` if they are given."""
    names = [name for name in lists.find_all(".csv") if set(COLUMNS) & set(lists.columns(name))]
    if not names:
        lists.need(f"CSV with the columns label,{','.join(COLUMNS)}")
    for name in names:
        rows = lists.read_csv(name, *COLUMNS)
        if classes is not None:
            rows = (
                row for row in rows if row.problem or row.fields.get("label", "").strip() in classes
            )
        yield from make_items(rows, "train", _make_item, source.name)


def _make_item(row: Row, task: str) -> Item:
    video_id = row.identifier("youtube_id")
    part_s = row.part_s("time_start", "time_end")
    name = f"{video_id}_{int(part_s[0]):06d}_{int(part_s[1]):06d}"
    split_name = row.text("split")
    if split_name not in SPLITS:
        raise RowError(f"split = {split_name!r}: must be {', '.join(SPLITS)}")
    if split_name in UNUSED:
        unused = "of the official test list"
        return Item(name, "test", (name,), whole_video=video_id, unused=unused)
    labels = (label(task, row.text("label")),)
    return Item(name, SPLITS[split_name], (name,), labels, video_id, part_s)
