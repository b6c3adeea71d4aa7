"""The lines that `make demo` ends with, and that DVC is counted."""

from vatt.core.times import Spent
from vatt.tables.times import format_times


def test_each_stage_has_a_line_and_dvc_is_the_rest() -> None:
    rows = [
        Spent("pretrain", 30.0, 50.0, 4.0),  # failed, say, and was run again
        Spent("pretrain", 60.0, 100.0, 2.0),
        Spent("tune audio", 12.0, 18.0, 6.0),
        Spent("make demo", 120.0, 180.0, 24.0),
    ]
    lines = format_times(rows).splitlines()
    table = {" ".join(line.split()[:-2]): line.split()[-2:] for line in lines}
    assert table["pretrain"] == ["2.60", "1.50"]
    assert table["tune audio"] == ["0.40", "0.20"]
    assert table["DVC and the rest"] == ["0.40", "0.30"]
    assert lines[-1].split() == ["all", "3.40", "2.00"]
    assert sum(line.endswith("unchanged, not run") for line in lines) == 12
    assert len(lines) == 1 + 14 + 2


def test_nothing_was_run() -> None:
    lines = format_times([]).splitlines()
    assert sum(line.endswith("unchanged, not run") for line in lines) == 14
    assert lines[-1].split() == ["all", "0.00", "0.00"]
