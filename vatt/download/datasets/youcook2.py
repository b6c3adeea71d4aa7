"""YouCook2: cooking videos with a sentence for each step, for retrieval (VATT section 4.1).

The official validation list is our test split, as in the paper: the test sentences are not public.
"""

from collections.abc import Iterator
from typing import Any

from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation, Split
from vatt.download.items import Item, Row, RowError, check_part, make_items, read_seconds
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import YouCook2Source

SPLITS: dict[str, Split] = {"training": "train", "validation": "test"}


def read_youcook2(lists: OfficialLists, _: YouCook2Source) -> Iterator[Item]:
    """Yield the videos with their sentences, each from its start to its end in the whole video."""
    name = lists.need("youcookii_annotations_trainval.json")
    content = lists.read_json(name)
    videos = content.get("database") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise StageError(f'{name}: is not of the form {{"database": {{"<video id>": ...}}}}')
    rows = (
        Row(f"{name} database.{video_id}", number, {"id": video_id, "video": video})
        for number, (video_id, video) in enumerate(videos.items())
    )
    return make_items(rows, "train", _make_item)


def _make_item(row: Row) -> Item:
    video_id, video = row.identifier("id"), row.fields["video"]
    subset = video.get("subset") if isinstance(video, dict) else None
    if not isinstance(subset, str) or subset not in SPLITS:
        raise RowError(f"subset = {subset!r}: must be {' or '.join(SPLITS)}")
    steps = video.get("annotations")
    if not isinstance(steps, list):
        raise RowError("annotations: is no list")
    return Item(
        video_id,
        SPLITS[subset],
        (video_id,),
        tuple(_read_step(number, step) for number, step in enumerate(steps)),
        whole_video=video_id,
    )


def _read_step(number: int, step: Any) -> Annotation:
    """Return the sentence of a step of a recipe."""
    field = f"annotations[{number}]"
    match step:
        case {"segment": [start, end], "sentence": str(sentence)} if sentence.strip():
            start_s, end_s = read_seconds(start, field), read_seconds(end, field)
            check_part(start_s, end_s, field)
            return Annotation("caption", None, start_s, end_s, sentence.strip())
    raise RowError(f"{field}: needs segment [start, end] and sentence; it is {step!r:.100}")
