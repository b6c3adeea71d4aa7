"""The report: what the page shows, and that it opens in a real browser without any request."""

import copy
import dataclasses
import re
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.browser import open_page
from tests.evaluate.world import make_report
from vatt.core.files import write_json
from vatt.evaluate.report import Report, read_studies, render_report, tabulate_clips, write_report
from vatt.evaluate.results import (
    format_results,
    tabulate_finetuned,
    tabulate_probes,
    tabulate_published,
    tabulate_retrieval,
)
from vatt.model.cost import add_costs, count_clip
from vatt.params import SKIPPED

LOADING_ATTRIBUTES = re.compile("src|href|xlink:href|srcset|data|action|poster|background")
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
        self.loads += [value or "" for name, value in attrs if LOADING_ATTRIBUTES.fullmatch(name)]
        for _, value in attrs:
            self.loads += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_report(report)


@pytest.fixture(scope="module")
def text(html: str) -> str:
    return Page(html).text


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


def test_it_shows_the_tables_of_the_results(report: Report, text: str) -> None:
    """What these tables hold is tested in test_results.py."""
    metrics = report.metrics
    tables = [*tabulate_retrieval(metrics), tabulate_probes(metrics), tabulate_finetuned(metrics)]
    for table in [*tables, tabulate_published(metrics), tabulate_clips(report.index)]:
        assert table.rows
        for row in table.rows:
            shown = " ".join(f"{cell.text} {cell.interval}" for cell in row).split()
            assert " ".join(shown) in text
    assert "audio skipped: no segment has a label" in text
    assert "kinetics400 video VATT-Base accuracy 79.6%" in text
    for words in ("no video stream", "Durations agree.", "passed", "frame_size_px", "a1" * 32):
        assert words in text


def test_first_of_all_it_shows_tiles(report: Report, text: str) -> None:
    for direction, title in (("text_to_video", "text to video"), ("audio_to_video", "sound to")):
        numbers = [report.metrics, report.metrics["untrained"], report.metrics["chance"]]
        own, untrained, chance = (part[f"{direction}_r10"] for part in numbers)
        assert f"R@10, {title}" in text
        times = f"{own / chance:.1f} times chance"
        assert f"{100 * own:.1f}% {times}, untrained {100 * untrained:.1f}%" in text
    result = report.metrics["finetuned"]["video"]
    names = ("accuracy", "linear_probe", "scratch", "chance")
    own, linear, scratch, chance = (f"{100 * result[name]:.1f}%" for name in names)
    beside = f"linear {linear}, from scratch {scratch}, chance {chance}"
    assert f"Fine-tuned for video, accuracy {own} {beside}" in text


def test_other_metrics_are_shown_as_they_are(report: Report) -> None:
    """What training started from, in what retrieval differs, and further measures."""
    metrics = copy.deepcopy(dict(report.metrics))
    beside = {"interval": (0.9, 0.95), "untrained": 0.55, "untrained_interval": (0.5, 0.6)}
    beside |= {"scratch": 0.7, "scratch_interval": (0.65, 0.75), "chance": 0.5}
    further = {"initial": "other weights", "top5": 0.92, "more": {"top5": beside}}
    metrics["finetuned"]["video"] |= further
    metrics["retrieval_notes"] = ["Parts are <i>cut</i>."]
    text = Page(render_report(dataclasses.replace(report, metrics=metrics))).text
    assert "video other weights colour" in text
    assert "Parts are <i>cut</i>." in text
    values, intervals = ("92.0%", "70.0%", "55.0%"), ("90.0–95.0%", "65.0–75.0%", "50.0–60.0%")
    cells = " ".join(f"{value} {ends}" for value, ends in zip(values, intervals, strict=True))
    assert f"top-5 {cells} 50.0%" in text
    printed = format_results(metrics).splitlines()
    place = [line.strip().startswith("top-5") for line in printed].index(True)
    assert printed[place].split() == ["top-5", *values, "50.0%"]
    assert printed[place + 1].split() == [*intervals]


def test_studies_are_shown_with_their_best_trial(report: Report, tmp_path: Path) -> None:
    """With one trial `tune` trains nothing."""
    cases: dict[str, tuple[list[float | None], int]] = {
        "video": ([0.4, 0.45], 1),
        "audio": ([0.4, 0.35], 0),
        "audio_visual": ([None], 0),
    }
    for task, (values, best) in cases.items():
        schedules = [{"learning_rate": n / 1000, "steps": n} for n in range(len(values))]
        pairs = enumerate(zip(values, schedules, strict=True))
        rows = [
            {"trial": number, "state": "complete", "value": value, "schedule": schedule}
            for number, (value, schedule) in pairs
        ]
        whole = {**schedules[best], "not_searched": 7}
        found = {"schedule": whole, "value": values[best], "trial": best, "study": task}
        write_json(tmp_path / task / "best.json", found)
        write_json(tmp_path / task / "trials.json", {"study": task, "trials": rows})
    (tmp_path / "video/history.svg").write_text("<?xml?><svg></svg>")
    write_json(tmp_path / "image" / SKIPPED, {"reason": "no segment has a label"})
    studies = read_studies(tmp_path)
    assert [study["figures"] for study in studies] == [["<svg></svg>"], [], [], []]
    html = render_report(dataclasses.replace(report, studies=studies))
    section = html[html.index("<h2>Tuning") :].partition("<h2>Text to video")[0]
    own, head = "the schedule of params.yaml", "schedule params.yaml best learning_rate"
    trials = "state trial value learning_rate steps complete 0 0.4000 0 0"
    assert Page(section[section.index("<h3>") :]).text == (
        f"video {head} 0 0.001 steps 0 1 Trial 1 of 2 is the best: 0.4500, with {own} 0.4000. "
        f"All trials of video {trials} complete 1 0.4500 0.001 1 "
        f"audio {head} 0 0 steps 0 0 Trial 0 of 2 is the best: 0.4000, {own}. "
        f"All trials of audio {trials} complete 1 0.3500 0.001 1 "
        "image Left out: no segment has a label. "
        f"audio_visual Nothing was tried (tune.num_trials is 1): {own} stays."
    )


def test_it_shows_costs_and_how_to_repeat_it(report: Report, html: str, text: str) -> None:
    total = sum(weight.numel() for weight in report.model.parameters())
    whole, dropped = (
        add_costs(count_clip(report.model, report.clip, rate).values()) for rate in (0.0, 0.5)
    )
    counts = (whole.full, whole.paper, dropped.full, dropped.paper)
    for shown in (
        "learning_rate 0.001 0.003 Trial 2 of 3 is the best: 0.4500, with the schedule of",
        "pruned 1 0.02",
        "Value of each trial",
        "git checkout c0de make setup",
        "Files differed from this commit.",
        f"optuna {version('optuna')}",
        f"all {total / 1e6:.3f} 0.000 {' '.join(f'{count / 1e9:.3f}' for count in counts)}",
        "all, drop 50.0%",
        "Medium video tower with the classifier of 600 classes 155.0 154.958 -0.03%",
        "5 captions, drop 50% 375.4 375.3 -0.02% 363.5",
        # Texts of the corpus stand there as letters.
        "Left out: no segment has a label of <i>that</i> task.",
        "<b>fast</b>",
        "<i>odd</i>.mp4",
    ):
        assert shown in text
    assert "<b>fast</b>" not in html


def test_it_is_the_same_text_twice(html: str) -> None:
    assert render_report(make_report()) == html


def test_examples_show_what_was_found(report: Report) -> None:
    best, worst = report.examples["Best"], report.examples["Worst"]
    num_clips = report.metrics["text_to_video_pairs"]
    assert [example["rank"] for example in best] == ["1", "1", "1"]
    assert all(example["clips"][1]["right"] for example in best)
    ranks = [float(example["rank"]) for example in worst]
    assert ranks == sorted(ranks, reverse=True)
    assert num_clips >= ranks[0] > report.metrics["text_to_video_median_rank"]
    for example in (*best, *worst):
        assert example["clips"][0]["right"]
        assert len(example["clips"]) == 4
        assert all(len(clip["images"]) == 3 for clip in example["clips"])


def test_a_nearly_empty_test_split_gives_a_page_too() -> None:
    empty, single, pair = map(make_report, range(3))
    text = Page(render_report(empty)).text
    assert "Nothing to measure" in text
    assert "skipped: no clips in the test split" in text
    assert not empty.examples
    assert empty.metrics["text_to_video_r10"] is None
    assert render_report(single)
    assert render_report(pair)
    assert pair.metrics["audio_to_video_r10"] == 1.0


def test_without_labels_curve_and_quarantine_it_says_so(report: Report) -> None:
    bare = dataclasses.replace(
        report,
        metrics={**report.metrics, "probes": {}, "finetuned": {}, "published": []},
        figures={},
        studies=[],
        quarantine=[],
    )
    text = Page(render_report(bare)).text
    for sentence in (
        "no clip has a label",
        "No study was found",
        "Nothing was fine-tuned",
        "No training curve of this network was found",
        "Every input made it",
    ):
        assert sentence in text


LOADED = "images => images.every(image => image.complete && image.naturalWidth > 0)"
OVERFLOW = """() => [...document.querySelectorAll('section, .tile, h1')]
    .filter(box => box.getBoundingClientRect().right > document.documentElement.clientWidth)
    .map(box => box.textContent.trim().slice(0, 40))"""

CUT_OFF = """() => [...document.querySelectorAll('.scroll')]
    .filter(box => box.scrollWidth > box.clientWidth + 1)
    .map(box => box.textContent.trim().slice(0, 40))"""


@pytest.mark.browser
@pytest.mark.parametrize("width_px", [1280, 600])
def test_it_opens_without_any_request_and_fits_the_window(width_px: int, tmp_path: Path) -> None:
    write_report(tmp_path / "report", make_report())
    path = tmp_path / "report" / "report.html"
    requests: list[str] = []
    problems: list[str] = []
    with open_page(width_px) as page:
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(path.as_uri())
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        assert page.title() == "VATT: evaluation report"
        assert page.locator("img").evaluate_all(LOADED)
        assert page.evaluate(OVERFLOW) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
        if width_px > 1000:  # else tables scroll within their section
            assert page.evaluate(CUT_OFF) == []
        trials = page.get_by_text("pruned")
        assert not trials.is_visible()
        page.get_by_text("All trials of video-0123").click()
        assert trials.is_visible()
    assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}
    assert problems == []
