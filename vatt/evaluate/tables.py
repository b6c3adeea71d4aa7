"""One table, which is printed as text for a terminal, in HTML by table.html, or as Markdown."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

TEXT_WIDTH = 100
LABEL_WIDTH, VALUE_WIDTH, INTERVAL_WIDTH = 44, 6, 12
"""The least widths of text, so that the numbers of several tables stand below one another."""


class Cell(NamedTuple):
    """Words or a number."""

    text: str = ""
    interval: str = ""
    """Where the number may lie, as text."""
    mark: str = ""
    """Classes of HTML: `strong`, `good` and `bad`."""


class Table(NamedTuple):
    """Columns of words, then columns of numbers."""

    title: str
    labels: tuple[str, ...]
    numbers: tuple[str, ...]
    """The titles of the columns."""
    rows: Sequence[Sequence[Cell]]
    """A cell for each column; the last cell of a row that has fewer reaches to the end of it."""
    notes: Sequence[str] = ()

    @property
    def num_columns(self) -> int:
        """The number of columns."""
        return len(self.labels) + len(self.numbers)

    def pick(self, labels: Sequence[str], numbers: Sequence[str]) -> "Table":
        """Return the table with these columns alone; what reaches to the end of a row stays."""
        titles = self.labels + self.numbers
        places = [titles.index(title) for title in (*labels, *numbers)]
        rows = [
            [row[place] for place in places]
            if len(row) == self.num_columns
            else [*(row[place] for place in places if place < len(row) - 1), row[-1]]
            for row in self.rows
        ]
        return self._replace(labels=tuple(labels), numbers=tuple(numbers), rows=rows)


def build_table(
    title: str,
    labels: tuple[str, ...],
    numbers: tuple[str, ...],
    rows: Iterable[Iterable[object]],
    notes: Sequence[str] = (),
) -> Table:
    """Build a table; what is not yet a cell becomes one with its text."""
    cells = [[x if isinstance(x, Cell) else Cell(str(x)) for x in row] for row in rows]
    return Table(title, labels, numbers, cells, notes)


def to_text(table: Table) -> str:
    """Print a table with its title and notes in lines of at most 100 characters.

    The words of a row stand in one column, which is wrapped. Intervals stand beside their numbers,
    or below them where there is no room.
    """
    num_labels = len(table.labels)
    full = [row for row in table.rows if len(row) == table.num_columns]
    labels = [_join_words(row[:num_labels]) for row in full]
    numbers = list(zip(*(row[num_labels:] for row in full), strict=True))
    for is_beside in (True, False):
        columns = [
            _set_column(title, cells, is_beside=is_beside)
            for title, cells in zip(table.numbers, numbers, strict=False)
        ]
        room = TEXT_WIDTH - sum(len(lines[0]) for lines, *_ in columns)
        if room >= LABEL_WIDTH:
            break
    width = min(room, max([LABEL_WIDTH, *(len(label) + 1 for label in labels)]))
    lines = _set_row(table.title, [column.pop(0) for column in columns], width)
    set_rows = zip(labels, *columns, strict=True)
    for row in table.rows:
        if len(row) == table.num_columns:
            label, *cells = next(set_rows)
            lines += _set_row(label, cells, width)
        else:
            lines.append(f"{_join_words(row[:-1]):{width}}{row[-1].text}")
    lines += [line for note in table.notes for line in textwrap.wrap(note, TEXT_WIDTH)]
    return "\n".join(line.rstrip() for line in lines)


def _set_column(title: str, cells: Sequence[Cell], *, is_beside: bool) -> list[list[str]]:
    """Return the lines of the title and of each cell, all of one width.

    The decimals of a number stand below those of a percentage.
    """
    parts = [
        [text if not text or text.endswith("%") else f"{text} " for text in cell[:2]]
        for cell in cells
    ]
    if not any(interval for _, interval in parts):
        parts = [[value] for value, _ in parts]
    elif is_beside:
        longest = [max(map(len, texts)) for texts in zip(*parts, strict=True)]
        sizes = max(VALUE_WIDTH, longest[0]), max(INTERVAL_WIDTH, longest[1])
        parts = [[f"{value:>{sizes[0]}} {interval:>{sizes[1]}}"] for value, interval in parts]
    width = max([VALUE_WIDTH, *(len(line) for lines in ([title], *parts) for line in lines)]) + 1
    return [[f"{line:>{width}}" for line in lines] for lines in ([title], *parts)]


def _set_row(words: str, cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a row from its words and the lines of its cells."""
    wrapped = textwrap.wrap(words, width - 1, subsequent_indent=" " * 4) or [""]
    columns = [[f"{line:{width}}" for line in wrapped], *cells]
    num_lines = max(map(len, columns))
    filled = ([*lines, *[" " * len(lines[0])] * (num_lines - len(lines))] for lines in columns)
    return ["".join(parts) for parts in zip(*filled, strict=True)]


def _join_words(cells: Sequence[Cell]) -> str:
    """Return the words of a row; it is indented where it continues the row above."""
    words = ", ".join(cell.text for cell in cells if cell.text)
    return words if not cells or cells[0].text else f"  {words}"


def to_markdown(table: Table) -> Markup:
    """Print a table without its title and notes; empty without rows."""
    if not table.rows:
        return Markup("")
    lines = []
    for row in ([Cell(title) for title in table.labels + table.numbers], *table.rows):
        texts = [f"{cell.text} ({cell.interval})" if cell.interval else cell.text for cell in row]
        shown = (f" {escape_markdown(text)} |" if text else " |" for text in texts)
        lines.append("|" + "".join(shown))
    lines.insert(1, "|" + "---|" * table.num_columns)
    return Markup("\n").join(map(Markup, lines))


def escape_markdown(text: str) -> Markup:
    """Return text of the corpus without what would be a tag, or end a cell or row of a table."""
    return escape(" ".join(text.split())).replace("|", Markup("&#124;"))
