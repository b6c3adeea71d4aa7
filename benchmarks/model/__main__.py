"""Print ratios of the model's speed and memory: python -m benchmarks.model [step] [drop] [packed] [memory]."""

import argparse

from benchmarks.model import drop, memory, packed, step
from benchmarks.model.clock import Clock
from benchmarks.model.table import print_table

TIMED = {"step": step, "drop": drop, "packed": packed}


def main() -> None:
    """Measure what was asked for, or everything."""
    parser = argparse.ArgumentParser(prog="benchmarks.model", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join([*TIMED, 'memory'])}")
    parts = parser.parse_args().parts or [*TIMED, "memory"]
    for part in parts:
        if part == "memory":
            print_table(part, memory.measure())
            continue
        clock = Clock()
        print_table(part, TIMED[part].measure(clock))
        print(f"\nother processes used up to {clock.disturbance:.0%} of the cores meanwhile")


if __name__ == "__main__":
    main()
