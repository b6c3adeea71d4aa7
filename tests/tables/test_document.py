"""What README quotes is what docs/results.json holds, and docs/results.md is written from it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vatt.core.errors import StageError
from vatt.tables.document import (
    BEGIN,
    DOCUMENT_PATH,
    END,
    README_PATH,
    RESULTS_PATH,
    format_document,
    put_claims,
)

ROOT = Path(__file__).parents[2]
NUMBER: dict[str, Any] = {
    "name": "video action, fine-tuned - scratch",
    "unit": "share",
    "runs": [0.1, 0.14, 0.2, 0.18],
    "mean": 0.155,
    "deviation": 0.049497,
    "interval": [-0.289713, 0.599713],
    "holds": False,
}
RESULTS: dict[str, Any] = {
    "cpu_minutes": 12.4,
    "paths": {"native": "as it is", "narrow": "without AVX-512"},
    "runs": [{"seed": seed, "path": path} for seed in (1, 2) for path in ("native", "narrow")],
    "numbers": [
        NUMBER,
        {**NUMBER, "name": "text to video R@10 / chance", "unit": "times chance", "holds": True}
        | {"runs": [12.0, 14.0, 13.0, 15.0], "mean": 13.5, "interval": [7.2, 19.8]},
        {**NUMBER, "name": "video action, scratch", "holds": None},
    ],
}


def read_rows(text: str) -> dict[str, list[str]]:
    """The cells of all rows of tables in Markdown, by the first cell."""
    rows = re.findall(r"^\| (\S.*?) \| (.*) \|$", text, re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in rows}


def test_readme_is_rewritten_between_its_lines_alone() -> None:
    readme = f"# Title\n\n{BEGIN}\nstale\n{END}\n\nrest\n"
    written = put_claims(readme, RESULTS)
    assert written.startswith(f"# Title\n\n{BEGIN}\n")
    assert written.endswith(f"\n{END}\n\nrest\n")
    assert "stale" not in written
    assert put_claims(written, RESULTS) == written
    rows = read_rows(written)
    assert rows[NUMBER["name"]] == ["+15.5", "-29.0 to +60.0", "+10.0 to +20.0", "not claimed"]
    shown = ["13.5 x", "7.2 x to 19.8 x", "12.0 x to 15.0 x", "holds"]
    assert rows["text to video R@10 / chance"] == shown
    assert "video action, scratch" not in rows
    assert put_claims("no lines", RESULTS) == "no lines"


def test_a_table_says_what_agrees(tmp_path: Path) -> None:
    """Beside the published numbers, which it names so."""

    def make_number(name: str, low: float, high: float) -> dict[str, Any]:
        rows = {"means": [0.5, 0.6], "intervals": [[0.4, 0.6], [0.5, 0.7]]}
        return {"name": name, **rows, "gain": {"mean": 0.1, "interval": [low, high]}}

    numbers = [make_number("a", 0.05, 0.15), make_number("b", -0.3, -0.1)]
    content = {
        "seeds": [1, 2, 3],
        "steps": 250,
        "cpu_minutes": 20.2,
        "variants": ["one for all", "one encoder each"],
        "gflops": [0.2, 0.1],
        "step_s": [[0.5, 0.7, 0.6], [0.3, 0.3, 0.3]],
        "numbers": [*numbers, make_number("c", -0.1, 0.3)],
    }
    (tmp_path / "docs/tables").mkdir(parents=True)
    (tmp_path / "docs/tables/backbone.json").write_text(json.dumps(content))
    text = format_document(tmp_path)
    rows = read_rows(text)
    assert rows["a, %"] == ["50.0 (40.0 to 60.0)", "60.0 (50.0 to 70.0)", "+10.0 (+5.0 to +15.0)"]
    assert rows["seconds of a step"][:2] == ["0.600", "0.300"]
    assert rows["YouCook2, text to video R@10"] == ["40.6", "45.5"]
    assert "the last variant: a. Worse: b. Not decided: 1 of 3." in text
    assert "Published (VATT-MA-Medium" in text


@pytest.mark.parametrize("readme", [f"a\n{BEGIN}\n", f"a\n{END}\n", f"{END}\n{BEGIN}\n"])
def test_one_line_without_the_other_is_refused(readme: str) -> None:
    with pytest.raises(StageError, match=r"README\.md: needs two lines"):
        put_claims(readme, RESULTS)


def test_every_run_is_shown(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / RESULTS_PATH).write_text(json.dumps(RESULTS))
    text = format_document(tmp_path)
    _, _, every_run = text.partition("### Every run")
    rows = read_rows(every_run)
    # Mean, deviation over seeds, the largest difference of two paths (4 points), then each run.
    shown = ["+15.5", "4.9", "4.0", "+10.0", "+14.0", "+20.0", "+18.0"]
    assert rows[NUMBER["name"]] == shown
    assert rows["video action, scratch"][3:] == ["10.0 %", "14.0 %", "20.0 %", "18.0 %"]
    assert "Seeds 1, 2," in text
    assert "12 CPU-minutes" in text


def test_readme_and_document_are_of_the_results() -> None:
    """Once docs/results.json is there, README must quote it, and the document be made of it."""
    readme = (ROOT / README_PATH).read_text(encoding="utf-8")
    assert (BEGIN in readme) == (ROOT / RESULTS_PATH).exists(), (
        f"README.md has the lines {BEGIN} and {END} if there is {RESULTS_PATH}, and only then"
    )
    if BEGIN in readme:
        assert put_claims(readme, json.loads((ROOT / RESULTS_PATH).read_bytes())) == readme
    if (ROOT / DOCUMENT_PATH).exists():
        assert (ROOT / DOCUMENT_PATH).read_text(encoding="utf-8") == format_document(ROOT)
