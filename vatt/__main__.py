"""The command line: `python -m vatt STAGE` runs one stage of dvc.yaml in the current folder."""

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vatt.atomic import write_json
from vatt.params import Params, StageError, load_params

STAGES = {
    "download": "bring every configured source to data/download",
    "preprocess": "cut, transcode and tokenise into shards with an index",
    "validate": "check that clips, sound and captions agree (Great Expectations)",
    "pretrain": "self-supervised training (DeepSpeed)",
    "evaluate": "zero-shot retrieval, linear probes, the report",
    "promote": "make the new model the champion if it is not worse",
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; exits with a usage message where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m vatt", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, text in STAGES.items():
        commands.add_parser(name, help=text, description=text)
    return parser.parse_args(arguments)


def run_stage(name: str, params: Params) -> Mapping[str, Any]:
    """Run one stage with exactly the parameter sections that its signature names."""
    main = importlib.import_module(f"vatt.stages.{name}").main
    sections = {section: params.section(section) for section in inspect.signature(main).parameters}
    metrics: Mapping[str, Any] = main(**sections)
    return metrics


def main() -> int:
    """Run the stage of the command line; the exit code is 0 only if it finished."""
    arguments = parse_arguments()
    # Idle threads of torch would spin and take the cores from those that work: several times
    # slower wherever cores are shared, as with the processes that decode clips.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    metrics_path = Path("metrics") / f"{arguments.stage}.json"
    try:
        params = load_params(arguments.params)
        write_json(metrics_path, run_stage(arguments.stage, params))
    except StageError as error:
        print(f"{arguments.stage}: {error}", file=sys.stderr)
        if error.metrics is not None:
            write_json(metrics_path, error.metrics)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
