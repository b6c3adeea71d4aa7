"""Print ratios of the model's speed and memory.

Usage: python -m benchmarks.model [step] [drop] [packed] [memory].
"""

import argparse

import torch

from benchmarks.model import drop, memory, packed, step
from benchmarks.model.clock import Clock
from benchmarks.model.table import print_table

NUM_THREADS = 2
TIMED = {"step": step, "drop": drop, "packed": packed}


def main() -> None:
    """Measure what was asked for, or everything."""
    parser = argparse.ArgumentParser(prog="benchmarks.model", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join([*TIMED, 'memory'])}")
    parser.add_argument(
        "--one-thread",
        action="store_true",
        help="count the CPU time of one thread: on a machine that others use",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1 if arguments.one_thread else NUM_THREADS)
    for part in arguments.parts or [*TIMED, "memory"]:
        if part == "memory":
            print_table(part, memory.measure())
            continue
        clock = Clock(counts_cpu_time=arguments.one_thread)
        print_table(part, TIMED[part].measure(clock))
        if not arguments.one_thread:
            print(f"\nother processes used up to {clock.disturbance:.0%} of the cores meanwhile")


if __name__ == "__main__":
    main()
