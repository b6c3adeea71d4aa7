"""An item of a data set's official list: where its file may be, and what is known of it."""

from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

from vatt.data.manifest import FOLD_TASK, Annotation, Split


class Item(NamedTuple):
    """One item of the list, or one row of it that cannot be used."""

    item_id: str
    """Unique within the data set; names the item where it has no file."""
    split: Split | None
    """None: not used, for the reason in `problem`."""
    names: tuple[str, ...] = ()
    """What a file of this item alone may be called: ends of paths without suffix, best first."""
    annotations: tuple[Annotation, ...] = ()
    whole_video: str | None = None
    """What the video may be called of which the item is a part."""
    part_s: tuple[float, float] | None = None
    """Start and end of the item in `whole_video`."""
    recording: str | None = None
    """What it shares with the items cut from the same recording, which stay in one split; None: see
    `whole_video`, and where that is None, too, it is a recording of its own."""
    problem: str | None = None
    """Why the list itself makes the item unusable."""


@lru_cache(maxsize=4096)
def label(task: str, name: str) -> Annotation:
    """Return the label of a whole file; equal ones are one object, since lists have millions."""
    return Annotation(task, name)


@lru_cache(maxsize=64)
def fold_label(fold: int, split: Split) -> Annotation:
    """Return what a whole file is for in an official fold: `train` or `test`."""
    return Annotation(FOLD_TASK, f"{fold}:{split}")


def stem_of(path: str) -> str:
    """Return a path without suffix: media are often converted, so that theirs says little."""
    return str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path
