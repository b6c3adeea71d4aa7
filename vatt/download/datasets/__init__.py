"""The data sets of the paper: `read_<kind>(lists, source)` yields the items of one.

It raises StageError where a list that it needs is missing, lacks a column or cannot be read. A row
that is wrong becomes an item that says why. To add a data set, copy `read_moments_in_time`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from vatt.download.datasets import classes, clips, folds, sentences
from vatt.download.lists import Item, OfficialLists

READERS: dict[str, Callable[[OfficialLists, Any], Iterator[Item]]] = {
    "audioset": clips.read_audioset,
    "charades": classes.read_charades,
    "esc50": folds.read_esc50,
    "hmdb51": folds.read_hmdb51,
    "howto100m": clips.read_howto100m,
    "imagenet": classes.read_imagenet,
    "kinetics": clips.read_kinetics,
    "kinetics_sounds": clips.read_kinetics_sounds,
    "moments_in_time": classes.read_moments_in_time,
    "msrvtt": sentences.read_msrvtt,
    "ucf101": folds.read_ucf101,
    "youcook2": sentences.read_youcook2,
}
"""The reader of each kind of source."""
