"""The table of ratios."""

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """A ratio, what it should be, and what it was worked out from."""

    name: str
    value: float
    target: str = ""
    detail: str = ""


def print_table(title: str, rows: Iterable[Row]) -> None:
    """Print rows as Markdown."""
    print(f"\n{title}\n\n| ratio | value | target | from |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.value:.2f} | {row.target} | {row.detail} |")
