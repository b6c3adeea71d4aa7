import copy
import dataclasses
import re
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.evaluate.world import make_report, make_splits
from vatt.core.files import write_json
from vatt.evaluate.report import Report, render_report
from vatt.evaluate.summary import format_summary
from vatt.evaluate.tables import read_studies
from vatt.model.cost import add_costs, count_clip
from vatt.params import SKIPPED

LOADING_ATTRIBUTES = {
    "src",
    "href",
    "xlink:href",
    "srcset",
    "data",
    "action",
    "poster",
    "background",
}
LOADING_TAGS = {"script", "link", "iframe", "object", "embed", "base", "form"}


class Page(HTMLParser):
    """Collects what a browser would load, the words of the page, and tags that are left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in LOADING_ATTRIBUTES]
        for _, value in attrs:
            self.loads += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report(make_splits())


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_report(report)


def test_it_loads_nothing_from_outside(html: str) -> None:
    page = Page(html)
    assert len(page.loads) > 50  # images of the examples, references inside the figures
    elsewhere = {
        load for load in page.loads if not load.startswith(("data:image/png;base64,", "#"))
    }
    assert elsewhere == {"../validate/index.html"}  # a link, to the page of the rules
    assert not LOADING_TAGS & set(page.tags)
    styles = "".join(re.findall(r"<style.*?</style>", html, re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles


def show(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * value:.1f}% {100 * low:.1f}–{100 * high:.1f}%"


def test_it_shows_the_numbers_of_the_metrics(report: Report, html: str) -> None:
    text = Page(html).text
    for direction in ("text_to_video", "audio_to_video"):
        for name in ("r1", "r5", "r10"):
            for numbers in (report.metrics, report.metrics["untrained"], report.metrics["chance"]):
                assert f"{100 * numbers[f'{direction}_{name}']:.1f}%" in text
        assert f"{report.metrics[f'{direction}_median_rank']:.1f}" in text
        low, high = report.metrics["intervals"][f"{direction}_r1"]
        assert f"{100 * low:.1f}–{100 * high:.1f}%" in text
        key = f"{direction}_r10"
        cells = [
            show(report.metrics[key], report.metrics["intervals"][key]),
            *(
                show(report.metrics[name][key], report.metrics[f"{name}_intervals"][key])
                for name in ("cosine", "untrained")
            ),
        ]
        assert f"R@10 {' '.join(cells)} {100 * report.metrics['chance'][key]:.1f}%" in text
    for task, modalities in report.metrics["probes"].items():
        for modality, result in modalities.items():
            parts = {"logistic regression": result, "SVM": result["svm"]}
            for title, part in parts.items():
                own = show(part["accuracy"], part["interval"])
                other = show(part["untrained"], part["untrained_interval"])
                assert f"{task} {modality} {title} accuracy {own} {other}" in text
    for shown in ("no video stream", "Durations agree.", "passed", "frame_size_px", "a1" * 32):
        assert shown in text


def test_it_shows_fine_tuned_networks_beside_their_rivals(report: Report, html: str) -> None:
    text = Page(html).text
    result = report.metrics["finetuned"]["video"]
    low, high = result["interval"]
    own = f"{100 * result['accuracy']:.1f}% {100 * low:.1f}–{100 * high:.1f}%"
    assert (
        f"video from {result['initial']} colour accuracy {own} {100 * result['linear_probe']:.1f}%"
        in text
    )
    for rival in ("scratch", "untrained", "chance"):
        assert f"{100 * result[rival]:.1f}%" in text
    assert "audio left out: no segment has a label" in text
    assert "kinetics400 video VATT-Base accuracy 79.6%" in text
    rivals = [result[name] for name in ("linear_probe", "scratch", "untrained", "chance")]
    assert ('class="n strong good"' in html) == (result["accuracy"] > max(rivals))


def test_it_says_what_training_started_from_and_how_retrieval_differs(report: Report) -> None:
    metrics = copy.deepcopy(dict(report.metrics))
    metrics["finetuned"]["video"]["initial"] = "other weights"
    metrics["retrieval_notes"] = ["Parts are <i>cut</i>."]
    text = Page(render_report(dataclasses.replace(report, metrics=metrics))).text
    assert "video from other weights colour" in text
    assert "Parts are <i>cut</i>." in text


def test_further_measures_stand_beside_other_networks_and_chance(report: Report) -> None:
    metrics = copy.deepcopy(dict(report.metrics))
    beside = {"interval": (0.9, 0.95), "untrained": 0.55, "untrained_interval": (0.5, 0.6)}
    beside |= {"scratch": 0.7, "scratch_interval": (0.65, 0.75), "chance": 0.5}
    metrics["finetuned"]["video"] |= {"top5": 0.92, "more": {"top5": beside}}
    text = Page(render_report(dataclasses.replace(report, metrics=metrics))).text
    intervals = ("90.0–95.0%", "65.0–75.0%", "50.0–60.0%")
    cells = " ".join(
        f"{value} {ends}"
        for value, ends in zip(("92.0%", "70.0%", "55.0%"), intervals, strict=True)
    )
    assert f"top-5 {cells} 50.0%" in text
    printed = " ".join(format_summary(metrics).split())
    assert "top-5 92.0% 70.0% 55.0% 50.0%" in printed


def test_it_shows_what_tuning_found(html: str) -> None:
    text = Page(html).text
    assert "Trial 2 of 3 is the best: 0.4500 , with the schedule of params.yaml 0.4000" in text
    assert "schedule params.yaml best learning_rate 0.001 0.003" in text
    assert "1 pruned 0.02" in text
    assert "Value of each trial" in text
    assert "Left out: no segment has a label of <i>that</i> task." in text  # as letters


def test_a_task_that_was_not_tuned_has_no_table(report: Report, tmp_path: Path) -> None:
    """With one trial `tune` trains nothing."""
    own = {"learning_rate": 0.001}
    found = {"schedule": own, "value": None, "trial": 0, "study": "audio-0", "own": own}
    row = {"trial": 0, "state": "waiting", "value": None, "schedule": own, "steps": []}
    write_json(tmp_path / "audio/best.json", found)
    write_json(tmp_path / "audio/trials.json", {"study": "audio-0", "trials": [row]})
    write_json(tmp_path / "image" / SKIPPED, {"reason": "no segment has a label"})
    untuned, skipped = read_studies(tmp_path)
    assert (untuned.best_value, untuned.own_value, untuned.skipped) == ("", "", None)
    assert skipped.skipped == "no segment has a label"
    html = render_report(dataclasses.replace(report, studies=[untuned]))
    section = Page(html[html.index("<h2>Tuning") : html.index("<h2>Text to video")]).text
    assert "Nothing was tried" in section
    assert "is the best" not in section


def test_it_says_how_to_reproduce_it(html: str) -> None:
    text = Page(html).text
    assert "git checkout c0de make setup" in text
    assert "Files differed from this commit." in text
    assert f"optuna {version('optuna')}" in text


def test_it_shows_what_the_network_costs_beside_the_papers_numbers(
    report: Report, html: str
) -> None:
    text = Page(html).text
    total = sum(weight.numel() for weight in report.model.parameters())
    whole = add_costs(count_clip(report.model, report.clip, 0.0).values())
    dropped = add_costs(count_clip(report.model, report.clip, 0.5).values())
    counts = (whole.full, whole.paper, dropped.full, dropped.paper)
    cells = " ".join(f"{count / 1e9:.3f}" for count in counts)
    assert f"all {total / 1e6:.3f} 0.000 {cells}" in text
    assert "all, drop 50.0%" in text
    assert "Medium video tower 155.0 154.958 -0.03%" in text
    assert "5 captions, drop 50% 375.4 375.3 -0.02% 363.5" in text


def test_texts_of_the_corpus_cannot_become_markup(html: str) -> None:
    text = Page(html).text
    assert "<b>fast</b>" not in html
    assert "<b>fast</b>" in text  # as letters
    assert "<i>odd</i>.mp4" in text


def test_it_is_the_same_text_twice(html: str) -> None:
    assert render_report(make_report(make_splits())) == html


def test_examples_show_what_was_found(report: Report) -> None:
    best, worst = report.examples
    num_clips = report.metrics["text_to_video_pairs"]
    assert [example.rank for example in best.examples] == ["1", "1", "1"]
    assert all(example.clips[1].right for example in best.examples)
    ranks = [float(example.rank) for example in worst.examples]
    assert ranks == sorted(ranks, reverse=True)
    assert num_clips >= ranks[0] > report.metrics["text_to_video_median_rank"]
    for example in (*best.examples, *worst.examples):
        assert example.clips[0].right
        assert len(example.clips) == 4
        assert all(len(clip.images) == 3 for clip in example.clips)


@pytest.mark.parametrize("num_test", [0, 1, 2])
def test_a_nearly_empty_test_split_gives_a_page_too(num_test: int) -> None:
    report = make_report(make_splits(num_test))
    page = Page(render_report(report))
    if num_test == 0:
        assert "Nothing to measure" in page.text
        assert "skipped: no clips in the test split" in page.text
        assert not report.examples
        assert report.metrics["text_to_video_r10"] is None
    if num_test == 2:
        assert report.metrics["audio_to_video_r10"] == 1.0


def test_without_labels_curve_and_quarantine_it_says_so(report: Report) -> None:
    bare = dataclasses.replace(
        report,
        metrics={**report.metrics, "probes": {}, "finetuned": {}, "published": []},
        figures=report.figures._replace(
            curves=None, finetuned_curves=None, confusion={}, finetuned={}
        ),
        studies=[],
        quarantine=[],
    )
    text = Page(render_report(bare)).text
    for sentence in (
        "no clip has a label",
        "No study was found",
        "Nothing was fine-tuned",
        "No training curve was found",
        "Every input made it",
    ):
        assert sentence in text
