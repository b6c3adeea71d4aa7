"""(b) The time of a step at four rates of DropToken against the FLOPs of the paper's table."""

import statistics
from functools import partial

from benchmarks.model.clock import Clock
from benchmarks.model.networks import Bench, build_bench
from benchmarks.model.table import Row

PAPER_GFLOPS = {0.75: 188.1, 0.5: 375.4, 0.25: 574.2, 0.0: 784.8}
"""What MBS costs by rate of DropToken (VATT table 4)."""
NUM_ROUNDS = 2


def measure(clock: Clock) -> list[Row]:
    """Return the rows of the table: MBS on one clip of the paper's size, float32, no dropout."""
    bench = build_bench("mbs.yaml", {}, batch_size=1)
    bench.set_dropout(0.0)
    tasks = {str(rate): partial(take_step, bench, rate) for rate in PAPER_GFLOPS}
    seconds = clock.time_in_turn(tasks, NUM_ROUNDS)
    per_flop = statistics.mean(seconds[str(rate)] / PAPER_GFLOPS[rate] for rate in PAPER_GFLOPS)
    rows = []
    for rate, gflops in PAPER_GFLOPS.items():
        step_s = seconds[str(rate)]
        title = f"time over FLOPs / their mean, drop {rate:.0%}"
        detail = f"{step_s:.2f} s over {gflops} GFLOPs"
        rows.append(Row(title, step_s / gflops / per_flop, "0.85 to 1.15", detail))
    return rows


def take_step(bench: Bench, drop_token_rate: float) -> None:
    """Take a training step with another share of tokens dropped."""
    bench.set_drop_token(drop_token_rate)
    bench.step(bf16=False)
