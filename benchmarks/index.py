"""What a rank of training spends on opening a corpus, in time and memory by number of segments.

Usage: python -m benchmarks.index [--rows N ...]. Writes an index of N rows like those of real
segments, of two sources, and the table of samples as `preprocess` does. Then a process of its own
opens the corpus as a rank does, reads samples at random and goes through the order of an epoch.
Only the indices are simulated; there are no shards, and nothing is decoded.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vatt.corpus.index import INDEX_NAME, ROWS_PER_GROUP, make_schema
from vatt.corpus.samples import SAMPLES_NAME, SampleTable, write_samples
from vatt.loading.order import TrainingOrder, weigh

SOURCES = ["audioset", "howto100m"]
VALUES = {
    pa.string(): "0123456789abcdef" * 2,
    pa.bool_(): True,
    pa.int64(): 100,
    pa.float64(): 10.0,
}
"""The values of columns that are the same in all rows."""
WEIGHTS = {"audioset": 0.5, "howto100m": 0.5}
BATCH_SIZE = 2048
NUM_READS = 20_000
PEAK_PATH = Path("/proc/self/clear_refs")
Result = TypeVar("Result")


def write_index(folder: Path, num_rows: int) -> None:
    """Write an index; all rows can be learnt from, and most columns are the same in all of them."""
    schema = make_schema()
    row = {field.name: VALUES[field.type] for field in schema} | {"split": "train"}
    rows = pa.Table.from_pylist([row] * ROWS_PER_GROUP, schema=schema)
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(folder / INDEX_NAME, schema) as writer:
        for first in range(0, num_rows, ROWS_PER_GROUP):
            numbers = range(first, min(first + ROWS_PER_GROUP, num_rows))
            group = rows.slice(0, len(numbers))
            offsets = 600_000 * (np.arange(first, first + len(numbers)) % 2000) + 512
            changed = {
                "key": [f"{number:016x}_0000" for number in numbers],
                "source": rng.choice(SOURCES, len(numbers), p=[0.1, 0.9]),
                "shard": [f"train-{number // 2000:06d}.tar" for number in numbers],
                "video_offset": offsets,
                "audio_offset": offsets + 200_000,
                "meta_offset": offsets + 600_000,
            }
            for name, values in changed.items():
                place = schema.get_field_index(name)
                column = pa.array(values, schema.field(name).type)
                group = group.set_column(place, schema.field(name), column)
            writer.write_table(group)


def measure(work: Callable[[], Result]) -> tuple[Result, float, float, float]:
    """Run some work; return its result, seconds, processor seconds and MB of memory at most."""
    PEAK_PATH.write_text("5")  # what is in use now is the most from here on
    before_mb, begin_s, cpu_s = read_peak_mb(), time.perf_counter(), time.process_time()
    result = work()
    wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
    return result, wall_s, cpu_s, read_peak_mb() - before_mb


def read_peak_mb() -> float:
    """Return the largest memory of this process since PEAK_PATH was written to."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) * 1024 / 1e6


def open_corpus(folder: Path) -> dict[str, float]:
    """Open a corpus as a rank does, and return what that took and what follows."""

    def begin() -> SampleTable:
        table = SampleTable(folder)
        order = TrainingOrder(0, BATCH_SIZE, start_step=10**6, num_steps=10**6 + 1)
        [batch] = order.batches(weigh(table.sizes, WEIGHTS))
        for _, sample in batch:
            table[sample]
        return table

    def read_some() -> None:
        for number in rng.integers(len(table), size=NUM_READS).tolist():
            table[number]

    def draw_epoch() -> None:
        num_steps = math.ceil(len(table) / BATCH_SIZE)
        order = TrainingOrder(0, BATCH_SIZE, start_step=0, num_steps=num_steps)
        for _ in order.batches(weigh(table.sizes, None)):
            pass

    process_mb, rng = read_peak_mb(), np.random.default_rng(1)
    table, open_s, open_cpu_s, open_mb = measure(begin)
    _, _, read_s, _ = measure(read_some)
    _, _, draw_s, epoch_mb = measure(draw_epoch)
    return {
        "open_s": open_s,
        "open_cpu_s": open_cpu_s,
        "open_mb": open_mb,
        "read_us": 1e6 * read_s / NUM_READS,
        "draw_us": 1e6 * draw_s / len(table),
        "epoch_mb": epoch_mb,
        "process_mb": process_mb,
    }


def measure_size(num_rows: int) -> dict[str, float]:
    """Simulate an index, and measure in a new process what opening it takes."""
    folder = Path(tempfile.mkdtemp())
    try:
        write_index(folder, num_rows)
        _, _, write_s, write_mb = measure(lambda: write_samples(folder))
        command = [sys.executable, "-m", "benchmarks.index", "--open", str(folder)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        sizes = {
            f"{name}_mb": (folder / name).stat().st_size / 1e6
            for name in (INDEX_NAME, SAMPLES_NAME)
        }
        opened: dict[str, float] = json.loads(run.stdout)
        return sizes | {"write_s": write_s, "write_mb": write_mb} | opened
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Print a table with a column for each size, and the ratio of the last to the first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(open_corpus(arguments.open)))
        return
    results = [measure_size(num_rows) for num_rows in arguments.rows]
    print(f"{'rows':14}" + "".join(f"{rows:13,}" for rows in arguments.rows) + "   last / first")
    for name in results[0]:
        values = [result[name] for result in results]
        ratio = values[-1] / values[0] if values[0] else math.nan
        print(f"{name:14}" + "".join(f"{value:13.4g}" for value in values) + f"{ratio:15.2f}")


if __name__ == "__main__":
    main()
