"""Videos of YouTube by their ids, or clips of about 10 s of them (VATT section 4.1).

HowTo100M has 1.2 million narrated videos, all of them training data; `vatt.download.captions` finds
their captions. AudioSet has several of 527 sounds a clip, and no text. Kinetics-400, 600 and 700
have one action a clip.
"""

from collections.abc import Collection, Iterator, Mapping

from vatt.corpus.manifest import Split
from vatt.download.lists import Item, OfficialLists, Row, RowError, label, make_items
from vatt.params.sources import (
    AudioSetSource,
    HowTo100MSource,
    KineticsSoundsSource,
    KineticsSource,
)

AUDIOSET_LISTS: tuple[tuple[Split, str], ...] = (
    ("train", "balanced_train_segments.csv"),
    ("train", "unbalanced_train_segments.csv"),
    ("test", "eval_segments.csv"),
)
AUDIOSET_CLASSES = "class_labels_indices.csv"
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end", "split")
# Differs from the paper's words: the official validation list is our test split, as in the released
# code. The labels of the official test list were never published for all versions: it is unused.
KINETICS_UNUSED = ("test", "holdout")
KINETICS_SPLITS: dict[str, Split] = {
    "train": "train",
    **dict.fromkeys(("val", "validate", "validation", *KINETICS_UNUSED), "test"),
}
KINETICS_SOUNDS = frozenset({
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball",
    "laughing", "mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar",
    "playing clarinet", "playing drums", "playing guitar", "playing harmonica", "playing keyboard",
    "playing organ", "playing piano", "playing saxophone", "playing trombone", "playing trumpet",
    "playing violin", "playing xylophone", "ripping paper", "shoveling snow", "shuffling cards",
    "singing", "stomping grapes", "strumming guitar", "tap dancing", "tapping guitar",
    "tapping pen", "tickling",
})  # fmt: skip
"""The classes that can be seen and heard (AVBERT section 4). There is no official list; these are
the classes that most authors name."""


def read_howto100m(lists: OfficialLists, _: HowTo100MSource) -> Iterator[Item]:
    """Yield the videos of the list; they have no labels."""
    rows = lists.read_csv(lists.need("HowTo100M_v1.csv"), "video_id")
    return make_items(rows, "train", _make_video)


def _make_video(row: Row) -> Item:
    video_id = row.identifier("video_id")
    return Item(video_id, "train", (video_id,), whole_video=video_id)


def read_audioset(lists: OfficialLists, source: AudioSetSource) -> Iterator[Item]:
    """Yield the items of all lists that are there, with a label for each sound."""
    found = [(split, path) for split, name in AUDIOSET_LISTS if (path := lists.find(name))]
    if not found:
        lists.need(*(name for _, name in AUDIOSET_LISTS))
    classes = {
        row.fields["mid"]: row.fields["display_name"]
        for row in lists.read_csv(lists.need(AUDIOSET_CLASSES), "mid", "display_name")
        if not row.problem and {"mid", "display_name"} <= row.fields.keys()
    }
    for split, path in found:
        rows = lists.read_bare_csv(path, "id", "start", "end", "mids")
        yield from make_items(rows, split, _make_sound, split, source.name, classes)


def _make_sound(row: Row, split: Split, task: str, classes: Mapping[str, str]) -> Item:
    """Make an item, with all names that the programs which fetch AudioSet give to a clip."""
    video_id, (start_s, end_s) = row.identifier("id"), row.part_s("start", "end")
    mids = [mid.strip() for mid in row.text("mids").split(",")]
    unknown = [mid for mid in mids if mid not in classes]
    if unknown:
        raise RowError(f"label = {unknown[0]!r}: is not in {AUDIOSET_CLASSES}")
    names = (
        f"Y{video_id}",
        f"{video_id}_{start_s:g}",
        f"{video_id}_{start_s:.3f}",
        f"{video_id}_{start_s:g}_{end_s:g}",
        f"{video_id}_{round(start_s * 1000)}_{round(end_s * 1000)}",
        f"{video_id}_{start_s:.3f}_{end_s:.3f}",
        f"Y{video_id}_{start_s:.3f}_{end_s:.3f}",
        f"{video_id}_{int(start_s):06d}_{int(end_s):06d}",
        f"{video_id}_{start_s:g}-{end_s:g}",
    )
    labels = tuple(label(task, classes[mid]) for mid in mids)
    return Item(f"{video_id}_{start_s:g}", split, names, labels, video_id, (start_s, end_s))


def read_kinetics(
    lists: OfficialLists,
    source: KineticsSource | KineticsSoundsSource,
    classes: Collection[str] | None = None,
) -> Iterator[Item]:
    """Yield the items of every CSV with columns of Kinetics, of `classes` if they are given."""
    columns = KINETICS_COLUMNS
    names = [name for name in lists.find_all(".csv") if set(columns) & set(lists.columns(name))]
    if not names:
        lists.need(f"CSV with the columns label,{','.join(columns)}")
    for name in names:
        rows = lists.read_csv(name, *columns)
        if classes is not None:
            rows = (
                row for row in rows if row.problem or row.fields.get("label", "").strip() in classes
            )
        yield from make_items(rows, "train", _make_action, source.name)


def read_kinetics_sounds(lists: OfficialLists, source: KineticsSoundsSource) -> Iterator[Item]:
    """Yield the items of the 32 classes in the CSVs of Kinetics; other rows are no items."""
    return read_kinetics(lists, source, KINETICS_SOUNDS)


def _make_action(row: Row, task: str) -> Item:
    video_id = row.identifier("youtube_id")
    part_s = row.part_s("time_start", "time_end")
    name = f"{video_id}_{int(part_s[0]):06d}_{int(part_s[1]):06d}"
    split_name = row.text("split")
    if split_name not in KINETICS_SPLITS:
        raise RowError(f"split = {split_name!r}: must be {', '.join(KINETICS_SPLITS)}")
    if split_name in KINETICS_UNUSED:
        unused = "of the official test list"
        return Item(name, "test", (name,), whole_video=video_id, unused=unused)
    labels = (label(task, row.text("label")),)
    return Item(name, KINETICS_SPLITS[split_name], (name,), labels, video_id, part_s)
