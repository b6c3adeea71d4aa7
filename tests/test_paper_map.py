"""docs/paper_map.md names symbols and tests that exist, and every deviation that the code marks."""

import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Row(NamedTuple):
    """A row of one of the tables."""

    paper: str
    symbol: str
    test: str
    deviation: str


def read_rows() -> list[Row]:
    lines = (ROOT / "docs/paper_map.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return [Row(*row) for row in cells if row[0] != "paper" and not row[0].startswith("---")]


ROWS = read_rows()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.paper)
def test_symbol_and_test_of_a_row_exist(row: Row) -> None:
    module, _, name = row.symbol.strip("`").partition(":")
    assert hasattr(import_module(module), name)
    path, _, test = row.test.strip("`").partition("::")
    assert path.startswith("tests/")
    assert test.startswith("test_")
    assert re.search(rf"(?m)^def {test}\(", (ROOT / path).read_text(encoding="utf-8"))


def test_every_marked_deviation_has_a_row() -> None:
    assert len(ROWS) >= 20
    mark = re.compile(r"Differs\s+from\s+the\s+(paper|original|released)")
    marked = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "vatt").rglob("*.py")
        if mark.search(path.read_text(encoding="utf-8"))
    }
    explained = {row.symbol.strip("`").partition(":")[0] for row in ROWS if row.deviation}
    assert marked - explained == set()
