"""What `make demo` took by stage, from what the stages wrote down: `python -m vatt.tables times`.

The Makefile begins the file anew and adds a line for the whole, which also holds DVC's own work.
"""

from collections.abc import Iterable, Sequence

from vatt.core.times import Spent
from vatt.tables.run import STAGES

WHOLE = "make demo"
"""What the Makefile calls its line."""


def format_times(rows: Sequence[Spent]) -> str:
    """Return a line for each stage, those that were not run included, and one for all."""
    lines = [f"{'Minutes, without installation':40}{'CPU':>8}{'wall':>8}"]
    ran = {row.stage for row in rows}
    for name in map(" ".join, STAGES):
        if name in ran:
            own = _add(name, (row for row in rows if row.stage == name))
            lines.append(_set_line(own))
        else:
            lines.append(f"{name:40}{'unchanged, not run':>24}")
    stages = _add("all", (row for row in rows if row.stage != WHOLE))
    whole = _add("all", (row for row in rows if row.stage == WHOLE))
    if WHOLE in ran:
        rest = (ours - theirs for ours, theirs in zip(whole[1:], stages[1:], strict=True))
        lines.append(_set_line(Spent("DVC and the rest", *rest)))
    return "\n".join([*lines, _set_line(whole if WHOLE in ran else stages)])


def _add(name: str, rows: Iterable[Spent]) -> Spent:
    """Return the sum of some runs; several of one stage follow each other."""
    columns = list(zip(*(row[1:] for row in rows), strict=True)) or [(), (), ()]
    return Spent(name, *map(sum, columns))


def _set_line(spent: Spent) -> str:
    return f"{spent.stage:40}{spent.cpu_s / 60:8.2f}{spent.wall_s / 60:8.2f}"
