"""(d) The peak memory of a step that keeps activations or not, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

from benchmarks.model.networks import build_bench
from benchmarks.model.table import Row

CLIP = {"num_frames": 16, "num_samples": 76_800}
BATCH_SIZE = 4


def measure() -> list[Row]:
    """Return the rows of the table: BBS on clips of half the paper's length."""
    kept, recomputed = (_start(recomputes) for recomputes in (False, True))
    rows = []
    for number, name in enumerate(("activations and gradients", "whole process")):
        detail = f"{recomputed[number] / 1e9:.2f} / {kept[number] / 1e9:.2f} GB"
        rows.append(
            Row(f"{name}, computed again / kept", recomputed[number] / kept[number], "", detail)
        )
    return rows


def run(*, recomputes: bool) -> tuple[int, int]:
    """Return by how many bytes a forward and backward pass raises memory, and to how many."""
    bench = build_bench("bbs.yaml", CLIP, BATCH_SIZE)
    bench.set_recomputation(recomputes=recomputes)
    before = _read_status("VmRSS")
    # Linux then starts its record of the peak anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    bench.objective(bench.batch)[0].backward()
    peak = _read_status("VmHWM")
    return peak - before, peak


def _start(recomputes: bool) -> list[int]:
    command = [sys.executable, "-m", "benchmarks.model.memory", str(int(recomputes))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [int(number) for number in done.stdout.split()]


def _read_status(name: str) -> int:
    """Return a number of bytes that Linux keeps about this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(*run(recomputes=sys.argv[1] == "1"))
