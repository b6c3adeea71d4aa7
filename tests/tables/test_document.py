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
    if not (ROOT / RESULTS_PATH).exists():
        assert BEGIN not in readme
        return
    assert BEGIN in readme, "README.md lacks the lines for the table: see vatt/tables/document.py"
    assert put_claims(readme, json.loads((ROOT / RESULTS_PATH).read_bytes())) == readme
    assert (ROOT / DOCUMENT_PATH).read_text(encoding="utf-8") == format_document(ROOT)
