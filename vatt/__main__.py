"""The command line: `python -m vatt STAGE` runs one stage of dvc.yaml in the current folder.

The stages of a matrix take their task: `python -m vatt finetune video`. Two commands stand beside
the stages: `python -m vatt describe` (`vatt.description`) and `python -m vatt import-tf`
(`vatt.weights.import_tf`). Trained models are put to work by `embed`, `search` and `classify`
(`vatt.use.commands`).
"""

import argparse
import gc
import importlib
import inspect
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from vatt.core.disk import name_disk_errors
from vatt.core.errors import StageError
from vatt.core.files import hold_lock, write_json
from vatt.core.times import record_time
from vatt.params import TASKS, Params, Task, TaskName, format_settings, load_params

STAGES = {
    "download": "bring every configured source to data/download",
    "preprocess": "cut, transcode and tokenise into shards with an index",
    "validate": "check that clips, sound and captions agree (Great Expectations)",
    "pretrain": "self-supervised training (DeepSpeed)",
    "tune": "search the schedule of fine-tuning for a task (Optuna)",
    "finetune": "supervised training for a task, with the schedule that tune found",
    "evaluate": "zero-shot retrieval, linear probes, fine-tuned models, the report",
    "promote": "make the new model the champion if it is not worse",
}
TASK_STAGES = ("tune", "finetune")
USES = ("embed", "search", "classify")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; exits with a usage message where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m vatt", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    describe = "print what params.yaml builds and what that costs (no stage)"
    for name, text in {**STAGES, "describe": describe}.items():
        command = commands.add_parser(name, help=text, description=text)
        # Without a default, which would win over --params before the command.
        command.add_argument("--params", type=Path, default=argparse.SUPPRESS, metavar="FILE")
        if name in TASK_STAGES:
            command.add_argument("task", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    text = "print all settings, those of params.yaml included, as YAML"
    command.add_argument("--full", action="store_true", help=text)
    text = "bring weights of the original TensorFlow model (no stage)"
    command = commands.add_parser("import-tf", help=text, description=text)
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="X of X.index")
    command.add_argument("out", type=Path, metavar="OUT", help="new folder for the export")
    command.add_argument("--vocabulary", type=Path, metavar="FILE", help="words, one a line")
    # What a checkpoint does not say of itself.
    command.add_argument("--head-width", type=int, help="of attention; 64 in every preset")
    command.add_argument("--text-max-distance", type=int, help="of relative positions; 64")
    command.add_argument("--num-tokens", type=int, help="words of a text; 16")
    text = "Hz of the video; 10, classifiers 12.5"
    command.add_argument("--frame-rate", type=float, dest="frame_rate_hz", help=text)
    add_uses(commands)
    return parser.parse_args(arguments)


def count(text: str) -> int:
    """Return a number of results from the command line; ValueError if it is none."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def add_uses(commands: Any) -> None:
    """Add the commands that put a trained model to work; see `vatt.use.commands`."""
    library, length = Path("data/library"), "seconds of a passage; 2.5 windows of the model"
    text = "bring the vectors of files and folders into a library (no stage)"
    command = commands.add_parser("embed", help=text, description=text)
    command.add_argument("places", nargs="+", metavar="FILE|FOLDER", help="or fsspec addresses")
    command.add_argument("--model", default="champion", help="the folder of an export; champion")
    command.add_argument(
        "--library", type=Path, default=library, metavar="FOLDER", help=f"{library}"
    )
    command.add_argument("--out", type=Path, metavar="FILE.parquet", help="also write all vectors")
    command.add_argument("--length", type=float, dest="passage_s", metavar="S", help=length)
    command.add_argument("--ray-address", metavar="ADDRESS", help="work on this Ray cluster")
    text = "find the passages of a library that are like a text, a sound or a video (no stage)"
    command = commands.add_parser("search", help=text, description=text)
    asked = command.add_mutually_exclusive_group(required=True)
    asked.add_argument("text", nargs="?", metavar="TEXT", help="what is shown")
    asked.add_argument("--sound", metavar="FILE", help="what it sounds like")
    asked.add_argument("--video", metavar="FILE", help="what it looks like")
    text = "search what is seen or what is heard; as asked"
    command.add_argument("--in", dest="sense", choices=("pictures", "sound"), help=text)
    command.add_argument("--top", type=count, default=10, metavar="N", help="results; 10")
    command.add_argument(
        "--library", type=Path, default=library, metavar="FOLDER", help=f"{library}"
    )
    text = "the folder of the model that made the library, if it was moved"
    command.add_argument("--model", metavar="FOLDER", help=text)
    text = "label files, by a fine-tuned network or by texts to choose from (no stage)"
    command = commands.add_parser("classify", help=text, description=text)
    command.add_argument("places", nargs="+", metavar="FILE|FOLDER", help="or fsspec addresses")
    text = "the folder of a classifier, or of any export with --texts; champion"
    command.add_argument("--model", default="champion", help=text)
    command.add_argument("--texts", nargs="+", metavar="TEXT", help="labels to choose from")
    command.add_argument("--top", type=count, default=3, metavar="N", help="labels shown; 3")
    command.add_argument("--length", type=float, dest="passage_s", metavar="S", help=length)
    for name in USES:
        commands.choices[name].add_argument("--json", action="store_true", help="for programs")


def run_stage(name: str, task: TaskName | None, params: Params) -> Mapping[str, Any]:
    """Run one stage with exactly the parameter sections that its signature names.

    A stage of tasks takes one task of the section `finetune`.
    """
    main = importlib.import_module(f"vatt.stages.{name}").main
    names = inspect.signature(main).parameters
    sections: dict[str, Any] = {section: params.section(section) for section in names}
    if task is not None:
        sections["finetune"] = Task(task, params.finetune.task(task))
    metrics: Mapping[str, Any] = main(**sections)
    return metrics


@contextmanager
def hold_stage(name: str) -> Iterator[None]:
    """Let no other process run a stage in this folder, however it is started.

    Raises:
        StageError: another one runs it.
    """
    path = Path(".cache/locks") / name
    try:
        lock = hold_lock(path, waits=False)
    except BlockingIOError as error:
        holder = path.read_text(encoding="utf-8").strip() or "another process"
        raise StageError(f"{holder} runs this stage in this folder; wait, or stop it") from error
    # Workers that outlive a killed stage must not keep the next one from running.
    os.register_at_fork(after_in_child=lock.close)
    with lock:
        lock.truncate(0)
        started = datetime.now().astimezone().isoformat(" ", "seconds")
        lock.write(f"process {os.getpid()} of {socket.gethostname()}, started {started},\n")
        lock.flush()
        yield


def refuse_outside_data() -> None:
    """Say before the work what DVC says after it: in git, outputs must lie in the project.

    Raises:
        StageError: DVC runs the stage, and data is a link to somewhere else.
    """
    is_outside = not Path("data").resolve().is_relative_to(Path.cwd())
    if "DVC_STAGE" in os.environ and Path(".git").exists() and is_outside:
        raise StageError(
            f"data is a link to {Path('data').resolve()}: DVC keeps no outputs outside of a git "
            "repository. Mount the other disk at data (mount --bind), or run the stages by hand"
        )


def main() -> int:
    """Run the stage of the command line; the exit code is 0 only if it finished."""
    arguments = parse_arguments()
    # Idle threads of torch would spin and take the cores from those that work: several times
    # slower wherever cores are shared, as with the processes that decode clips.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    task = getattr(arguments, "task", None)
    words = [arguments.stage, *([task] if task else [])]
    metrics_path = Path("metrics") / f"{'_'.join(words)}.json"
    try:
        if arguments.stage == "import-tf":
            importing = importlib.import_module("vatt.weights.import_tf")
            names = importing.ImportOptions.model_fields
            given = {name: value for name, value in vars(arguments).items() if name in names}
            importing.main(arguments.checkpoint, arguments.out, given)
            return 0
        if arguments.stage in USES:
            with name_disk_errors(getattr(arguments, "library", Path.cwd())):
                importlib.import_module("vatt.use.commands").run(arguments)
            return 0
        refuse_outside_data()
        params = load_params(arguments.params)
        if arguments.stage == "describe" and arguments.full:
            print(format_settings(arguments.params), end="")
            return 0
        if arguments.stage == "describe":
            print(importlib.import_module("vatt.description").describe(arguments.params, params))
            return 0
        # Many may tune a task at once: their study knows who trains which trial.
        one_at_a_time = nullcontext() if arguments.stage == "tune" else hold_stage("_".join(words))
        places = name_disk_errors(Path("data"), Path("metrics"), Path(".cache"))
        with places, one_at_a_time, record_time(" ".join(words)):
            write_json(metrics_path, run_stage(arguments.stage, task, params))
    except StageError as error:
        print(f"{' '.join(words)}: {error}", file=sys.stderr)
        if error.metrics is not None:
            write_json(metrics_path, error.metrics)
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    gc.freeze()  # else Python spends a second on looking through all that torch has made
    sys.exit(code)
