"""HowTo100M: 1.2 million narrated videos, all of them training data (VATT section 4.1).

Their captions are found by `vatt.download.corpus_captions`.
"""

from collections.abc import Iterator

from vatt.download.items import Item, Row, make_items
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import HowTo100MSource


def read_howto100m(lists: OfficialLists, _: HowTo100MSource) -> Iterator[Item]:
    """Yield the videos of the list; they have no labels."""
    rows = lists.read_csv(lists.need("HowTo100M_v1.csv"), "video_id")
    return make_items(rows, "train", _make_item)


def _make_item(row: Row) -> Item:
    video_id = row.identifier("video_id")
    return Item(video_id, "train", (video_id,), whole_video=video_id)
