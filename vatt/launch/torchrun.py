"""torchrun, but it dies with the agent that started it, and writes down which rank failed how."""

import sys
from pathlib import Path
from typing import Any

import torch.distributed.run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.core.signals import die_with_parent

LOG_LINES = 20
STAGE_ERROR = f"{StageError.__name__}: "


def main() -> int:
    """Run torchrun with the arguments after the first one, which is where to write a failure."""
    die_with_parent()
    failure_path = Path(sys.argv[1])
    try:
        torch.distributed.run.main(sys.argv[2:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        write_json(failure_path, _describe(rank, failure, failure_path.with_name("log")))
        return 1
    return 0


def _describe(rank: int, failure: ProcessFailure, log_dir: Path) -> dict[str, Any]:
    """Say which rank failed and how: a stage error as it is, others with where they happened."""
    if isinstance(failure.message, dict):  # what the worker recorded
        how, last_words = failure.message["message"], failure.message["extraInfo"]["py_callstack"]
        if how.startswith(STAGE_ERROR):
            message = how.removeprefix(STAGE_ERROR)
            return {"kind": "stage", "message": message, "time_s": failure.timestamp}
        kind = "error"
    else:
        logs = log_dir.glob(f"*/attempt_*/{failure.local_rank}/stderr.log")
        how, last_words = failure.message, "".join(log.read_text(errors="replace") for log in logs)
        kind = "died"
    message = "\n".join([f"rank {rank} died: {how}", *last_words.splitlines()[-LOG_LINES:]])
    return {"kind": kind, "message": message, "time_s": failure.timestamp}


if __name__ == "__main__":
    sys.exit(main())
