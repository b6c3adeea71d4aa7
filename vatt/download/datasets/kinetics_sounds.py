"""Kinetics-Sounds: the 32 classes of Kinetics that can be seen and heard (AVBERT section 4).

There is no official list; these are the classes that most authors name.
"""

from collections.abc import Iterator

from vatt.download.datasets.kinetics import read_kinetics
from vatt.download.items import Item
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import KineticsSoundsSource

CLASSES = frozenset(
    [
        "blowing nose",
        "blowing out candles",
        "bowling",
        "chopping wood",
        "dribbling basketball",
        "laughing",
        "mowing lawn",
        "playing accordion",
        "playing bagpipes",
        "playing bass guitar",
        "playing clarinet",
        "playing drums",
        "playing guitar",
        "playing harmonica",
        "playing keyboard",
        "playing organ",
        "playing piano",
        "playing saxophone",
        "playing trombone",
        "playing trumpet",
        "playing violin",
        "playing xylophone",
        "ripping paper",
        "shoveling snow",
        "shuffling cards",
        "singing",
        "stomping grapes",
        "strumming guitar",
        "tap dancing",
        "tapping guitar",
        "tapping pen",
        "tickling",
    ]
)


def read_kinetics_sounds(lists: OfficialLists, source: KineticsSoundsSource) -> Iterator[Item]:
    """Yield the items of the 32 classes in the CSVs of Kinetics; other rows are no items."""
    return read_kinetics(lists, source, CLASSES)
