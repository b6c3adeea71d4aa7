"""One table printed in three ways, and the results as they are printed at the end of a run."""

from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.world import make_metrics, make_splits
from vatt.core.files import write_json
from vatt.evaluate import results
from vatt.evaluate.comparison import compare_networks
from vatt.evaluate.paper_results import list_published
from vatt.evaluate.report import open_template
from vatt.evaluate.results import (
    format_headline,
    format_results,
    tabulate_finetuned,
    tabulate_probes,
    tabulate_retrieval,
)
from vatt.evaluate.tables import Cell, Table, to_markdown, to_text

TABLE = Table(
    "Pets",
    ("kind", "name"),
    ("weight", "legs"),
    [
        [Cell("cat"), Cell("a|<b>"), Cell("4.5%", "4.0–5.1%", "strong"), Cell("4")],
        [Cell(), Cell("tail"), Cell("1.0"), Cell()],
        [Cell("fish"), Cell("not weighed")],
    ],
    ["Weighed at <noon>."],
)


def test_text_has_a_column_of_words_and_intervals_beside_or_below_the_numbers() -> None:
    lines = to_text(TABLE).splitlines()
    assert [line.split() for line in lines] == [
        ["Pets", "weight", "legs"],
        ["cat,", "a|<b>", "4.5%", "4.0–5.1%", "4"],
        ["tail", "1.0"],
        ["fish", "not", "weighed"],
        ["Weighed", "at", "<noon>."],
    ]
    assert lines[1].index(".5%") == lines[2].index(".0")
    assert lines[2].startswith("  tail")  # it continues the row above
    wide = TABLE._replace(
        numbers=tuple("abcd"),
        rows=[[Cell("word " * 20), Cell("more"), *[Cell("99.9%", "99.0–100.0%")] * 4]],
    )
    lines = to_text(wide).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.count("99.9%") for line in lines[1:3]] == [4, 0]
    assert lines[2].count("99.0–100.0%") == 4
    assert " ".join(lines).count("word") == 20


def test_html_has_classes_and_letters_for_markup() -> None:
    show = getattr(open_template("table.html").module, "show")  # noqa: B009
    page = show(TABLE, "narrow")
    for shown in (
        '<table class="narrow">',
        '<td class="" colspan="1">a|&lt;b&gt;</td>',
        '<td class="n strong" colspan="1">4.5%<small>4.0–5.1%</small></td>',
        '<td class="soft" colspan="3">not weighed</td>',
        '<p class="soft">Weighed at &lt;noon&gt;.</p>',
    ):
        assert shown in page
    assert show(TABLE._replace(rows=[], notes=[])) == ""


def test_markdown_has_intervals_in_brackets() -> None:
    assert to_markdown(TABLE).splitlines() == [
        "| kind | name | weight | legs |",
        "|---|---|---|---|",
        "| cat | a&#124;&lt;b&gt; | 4.5% (4.0–5.1%) | 4 |",
        "| | tail | 1.0 | |",
        "| fish | not weighed |",
    ]


def test_picked_columns_keep_what_reaches_to_the_end() -> None:
    picked = TABLE.pick(("name",), ("legs",))
    assert (picked.labels, picked.numbers) == (("name",), ("legs",))
    shown = [[cell.text for cell in row] for row in picked.rows]
    assert shown == [["a|<b>", "4"], ["tail", ""], ["not weighed"]]


def show_ends(interval: tuple[float, float]) -> str:
    return "–".join(f"{100 * end:.1f}" for end in interval) + "%"


def test_the_printed_tables_are_aligned_and_hold_the_numbers(
    metrics: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    notes = ["Items are cut at fixed times."]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="is missing: the stage evaluate makes it"):
        results.main()
    write_json(tmp_path / "metrics" / "evaluate.json", {**metrics, "retrieval_notes": notes})
    results.main()
    printed = capsys.readouterr().out
    for words in ("Report: data/evaluate/report.html", f"{notes[0]}\n", "x chance"):
        assert words in printed
    assert max(map(len, printed.splitlines())) <= 100
    lines = [line for line in printed.splitlines() if line.count(".") > 2]
    assert len(lines) == 2 * 4 + 4 * 2 + 2
    table, (values, ends) = lines[:-2], lines[-2:]
    assert len({line.index(".") for line in table}) == 1
    key = "text_to_video_r10"
    shown = [f"{100 * metrics[key]:.1f}%", show_ends(metrics["intervals"][key])]
    shown += [f"{100 * metrics['untrained'][key]:.1f}%"]
    shown += [show_ends(metrics["untrained_intervals"][key])]
    assert next(line for line in table if "R@10" in line).split()[1:5] == shown
    probe = metrics["probes"]["colour"]["audio"]["svm"]
    row = table[[line.startswith("colour, audio") for line in table].index(True) + 1]
    assert row.split()[2] == show_ends(probe["interval"])
    assert row.split()[4] == show_ends(probe["untrained_interval"])
    task = metrics["finetuned"]["video"]
    names = ("accuracy", "linear_probe", "scratch", "untrained", "chance")
    assert values.split()[-5:] == [f"{100 * task[name]:.1f}%" for name in names]
    shown = [show_ends(task[f"{name}_interval"]) for name in names[1:-1]]
    assert ends.split()[-4:] == [show_ends(task["interval"]), *shown]


def test_the_tables_hold_what_the_terminal_leaves_out(metrics: dict[str, Any]) -> None:
    row = {row[0].text: row for row in tabulate_retrieval(metrics)[1].rows}["R@10"]
    ends = show_ends(metrics["cosine_intervals"]["audio_to_video_r10"])
    assert row[2] == Cell(f"{100 * metrics['cosine']['audio_to_video_r10']:.1f}%", ends)
    probe = metrics["probes"]["action"]["video"]
    row = tabulate_probes(metrics).rows[2]
    assert [cell.text for cell in row[-2:]] == ["3", f"{probe['num_train']} / {probe['num_test']}"]
    folds = {"action": {"video": {**probe, "num_folds": 3}}}
    assert tabulate_probes({"probes": folds}).rows[0][2].text == "accuracy, 3 folds"
    task = metrics["finetuned"]["video"]
    for scratch, mark in ((0.0, "strong good"), (1.0, "strong")):
        table = tabulate_finetuned({"finetuned": {"video": {**task, "scratch": scratch}}})
        assert table.rows[0][4].mark == mark
        assert not table.notes
    table = tabulate_finetuned({"finetuned": {"video": {**task, "num_unknown": 3}}})
    assert table.notes == ["video: 3 test clips have a label that training does not know."]


def test_published_numbers_are_printed_as_the_papers_print_them(metrics: dict[str, Any]) -> None:
    rows = list_published(["audioset", "kinetics400"], ["youcook2"])
    published = [row._asdict() for row in rows]
    printed = " ".join(format_results({**metrics, "published": published}).split())
    for shown in (
        "audioset, audio, VATT-Base, d-prime, mean of classes 2.895",
        "audioset, audio, VATT-Base, AUC 97.1%",
        "kinetics400, video, VATT-Large, top-5 95.5%",
        "youcook2, text to video, VATT-MBS, median rank 13.0",
        "not measured here",
    ):
        assert shown in printed


def test_the_tables_of_an_empty_test_split_say_so() -> None:
    metrics = make_metrics(compare_networks(*make_splits(0)))
    assert format_headline(metrics) == "nothing to measure"
    printed = format_results(metrics)
    assert printed.count("Nothing to measure") == 2
    assert printed.count("skipped: no clips in the test split") == 4


def test_a_stage_prints_the_main_numbers_in_a_line(metrics: dict[str, Any]) -> None:
    own, heard = (f"{100 * metrics[f'{name}_to_video_r10']:.1f}%" for name in ("text", "audio"))
    accuracy = f"{100 * metrics['finetuned']['video']['accuracy']:.1f}%"
    assert format_headline(metrics) == (
        f"R@10 text to video {own}, R@10 sound to video {heard}, video accuracy {accuracy}"
    )
