"""Charades: several actions a video, each with its time."""

from pathlib import Path

from tests.download.datasets.miniature import collect, name_rows, write_lists, write_media
from vatt.corpus.manifest import Annotation

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
ROW = (
    '{},HR43,Kitchen,6,7,Yes,"A person cooks, then says ""hello"".",food;stove,'
    "A person cooks food.,{},24.83\n"
)


def test_actions_become_labels_with_times(tmp_path: Path) -> None:
    train = ROW.format("46GP8", "c092 11.90 21.20;c147 0.00 12.60") + ROW.format("N11GT", "")
    test = ROW.format("YSKX3", "c001 0 5").replace("\n", "\r\n")
    write_lists(
        tmp_path,
        {"Charades/Charades_v1_train.csv": HEADER + train, "Charades_v1_test.csv": HEADER + test},
    )
    names = [f"Charades_v1_480/{name}.mp4" for name in ("46GP8", "N11GT", "YSKX3")]
    write_media(tmp_path / "media", *names)
    collection = collect(tmp_path, "charades")
    assert {name: row.annotations for name, row in collection.ok.items()} == {
        names[0]: (Annotation("mine", "c092", 11.9, 21.2), Annotation("mine", "c147", 0.0, 12.6)),
        names[1]: (),
        names[2]: (Annotation("mine", "c001", 0.0, 5.0),),
    }
    assert collection.counts == {"train": (2, 0, 0), "test": (1, 0, 0)}


def test_bad_actions_are_named(tmp_path: Path) -> None:
    rows = [("AAAAA", "c092 1"), ("BBBBB", "c092 2 1"), ("CCCCC", "c092 -1 1"), ("../x", "")]
    train = "".join(ROW.format(*row) for row in rows)
    name = "Charades_v1_train.csv"
    write_lists(tmp_path, {name: HEADER + train, "Charades_v1_test.csv": HEADER})
    write_media(tmp_path, "x.mp4")
    problems = [
        "actions = 'c092 1': must be of the form c092 11.90 21.20",
        "end = 1: must be after start = 2",
        "actions = '-1': must be a number of seconds, 0 or more",
        "id = '../x': must be an id of letters, digits, _ and -",
    ]
    assert collect(tmp_path, "charades").failed == name_rows(name, problems)
