"""The report in a real browser."""

from pathlib import Path

import pytest

from tests.browser import open_page
from tests.evaluate.world import make_report
from vatt.evaluate.report import write_report

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
