"""The labels CSV: what it says of each file, and what is refused, with line, field and value."""

import pytest

from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation
from vatt.download.folder import read_labels


def test_rows_of_labels_are_collected() -> None:
    content = (
        "licence,path,task,label,start,end,text,split\n"
        "CC0,./a b.mp4,action,run,0,1.5,,test\n"
        'CC0,a b.mp4,caption,,,,"A dog, running.",\n'
        "CC0,talk.wav,audio_speech,zero,0.5,2, oh  zero ,\n"
        "CC0,listed.mp4,av,,,,,\n"
    )
    labels = read_labels(content.encode(), "labels.csv")
    assert labels["a b.mp4"].annotations == [
        Annotation("action", "run", 0.0, 1.5),
        Annotation("caption", None, None, None, "A dog, running."),
    ]
    assert labels["a b.mp4"].split == "test"
    assert labels["a b.mp4"].narration() == []
    assert labels["talk.wav"].narration() == [(0.5, 2.0, "oh  zero")]
    assert labels["talk.wav"].split is None
    assert labels["listed.mp4"].annotations == []


@pytest.mark.parametrize(
    ("divider", "end"), [(";", "\n"), ("\t", "\r\n"), (",", "\r"), ("|", "\r\r\n")]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_labels_as_spreadsheets_write_them(divider: str, end: str, encoding: str) -> None:
    rows = [["Path", "Task", "Label", "Start", "End", "Text"]]
    rows += [["é.mp4", "action", "run", "0:01", "0:02.5", ""]]
    rows += [["é.mp4", "caption", "", "", "", '"He said ""hi"", twice; so it is|"']]
    labels = read_labels(end.join(map(divider.join, rows)).encode(encoding), "labels.csv")
    assert labels["é.mp4"].annotations == [
        Annotation("action", "run", 1.0, 2.5),
        Annotation("caption", None, None, None, 'He said "hi", twice; so it is|'),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",action,run,,,", "labels.csv line 3: path: is empty"),
        ("a.mp4,,run,,,", "labels.csv line 3: task: is empty"),
        ("a.mp4,action,run,x,2,", "labels.csv line 3: start = 'x': must be a number of seconds"),
        ("a.mp4,action,run,0,nan,", "labels.csv line 3: end = 'nan'"),
        ("a.mp4,action,run,-1,2,", "labels.csv line 3: start = '-1'"),
        ("a.mp4,action,run,2,1,", "labels.csv line 3: end = 1: must be after start = 2"),
        ("a.mp4,action,run,2,,", "labels.csv line 3: start and end: give both"),
        ("a.mp4,action,run,,,dev", "line 3: split = 'dev': must be train, validation, test"),
        ("a.mp4,action,run,,,,x,y", "line 3: 'x,y' is behind the last column: a text with commas"),
        (
            'a.mp4,action,"run,,,\nb.mp4,action,run,,,',
            "line 3: is not CSV: a quotation mark is not closed",
        ),
        (
            'a.mp4,action,"run,,,\nb.mp4,action,",,,',
            "labels.csv line 4: label = 'run,,,\\nb.mp4,action,': a quotation mark is not closed",
        ),
        ("b.mp4,action,run,,,test", "line 3: split = 'test': b.mp4 is in 'train'"),
    ],
)
def test_wrong_label_is_refused_with_line_field_and_value(row: str, message: str) -> None:
    content = f"path,task,label,start,end,split\nb.mp4,action,run,,,train\n{row}\n"
    with pytest.raises(StageError) as caught:
        read_labels(content.encode(), "labels.csv")
    assert message in str(caught.value)


def test_all_wrong_labels_are_named_up_to_ten() -> None:
    content = "path,task,start\n" + "a.mp4,action,x\n" * 13
    with pytest.raises(StageError) as caught:
        read_labels(content.encode(), "labels.csv")
    lines = str(caught.value).split("\n")
    assert [line.split(":")[0] for line in lines[:10]] == [
        f"labels.csv line {number}" for number in range(2, 12)
    ]
    assert lines[10:] == ["and 3 more"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column path, task"),
        (b"file,task\na,b\n", "has no column path; its header .* it is file,task"),
        (b"\x00\x01", "is not CSV: is not a text file"),
    ],
)
def test_file_that_is_no_labels_csv(content: bytes, message: str) -> None:
    with pytest.raises(StageError, match=f"^labels.csv: {message}"):
        read_labels(content, "labels.csv")
