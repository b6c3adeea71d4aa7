"""Over seeds: `python -m vatt.tables results` is `make results`, `times` ends `make demo`."""

import argparse
import sys

from vatt.core.errors import StageError
from vatt.core.signals import sigterm_raises

TABLES = {
    "results": "the demo over seeds and numerical paths, into docs/results.json (make results)",
    "droptoken": "75, 50, 25 and 0 % of the tokens removed, 3 seeds, into docs/results.md",
    "backbone": "one encoder for all modalities against one each, likewise",
    "candidates": "1, 3 and 5 candidates of MIL-NCE, likewise",
    "negatives": "a quarter, a half and all of the negatives, likewise",
    "times": "what the stages of `make demo` took",
}


def main() -> int:
    """Measure what the command line names; the exit code is 0 only if all runs ended well."""
    parser = argparse.ArgumentParser(prog="python -m vatt.tables", description=__doc__)
    commands = parser.add_subparsers(dest="table", required=True, metavar="TABLE")
    for name, text in TABLES.items():
        commands.add_parser(name, help=text, description=text)
    table = parser.parse_args().table
    if table == "times":  # at once, without torch
        from vatt.core.times import read_times
        from vatt.tables.times import format_times

        print(format_times(read_times()))
        return 0
    from vatt.tables.document import write_documents
    from vatt.tables.miniatures import measure_table
    from vatt.tables.results import measure_results

    try:
        with sigterm_raises():
            if table == "results":
                measure_results()
            else:
                measure_table(table)
            write_documents()
    except StageError as error:
        print(f"{table}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
