"""Long files need no more memory than short ones, but for a few bytes a second."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.preprocess.long_file import PART_S, write_long_file
from tests.preprocess.parameters import PARAMS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("num_parts", "max_growth_mb"),
    [
        (6, 20),  # all pictures would be 32 MB, all sound 37 MB
        pytest.param(563, 80, marks=pytest.mark.slow),  # 10 hours: 3.0 GB and 3.5 GB; found: 38 MB
    ],
)
def test_memory_does_not_grow_with_a_file(
    tmp_path: Path, num_parts: int, max_growth_mb: float
) -> None:
    write_long_file(tmp_path / "short.mkv", 1)
    write_long_file(tmp_path / "long.mkv", num_parts)
    command = [sys.executable, "-m", "tests.preprocess.long_file", str(tmp_path)]
    finished = subprocess.run(
        [*command, "short.mkv", "long.mkv"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    rows = [line.split() for line in finished.stdout.splitlines()]
    segments_per_part = round(PART_S / PARAMS.segment_s)
    assert [int(row[0]) for row in rows] == [segments_per_part, num_parts * segments_per_part]
    assert float(rows[1][1]) - float(rows[0][1]) < max_growth_mb
