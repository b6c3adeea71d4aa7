"""Checkpoints that count only when they are whole, and resuming from the newest one that is.

A checkpoint holds whole tensors, whatever the number of ranks and the ZeRO stage, so that a run can
go on with others. It is written by a thread while training goes on.
"""

import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.params import TrainingParams
from vatt.train.engine import Engine

TENSORS = "state.safetensors"
"""Weights and moments."""
NUMBERS = "run.json"
"""The step, the counts of the engine, and what the loop must know to continue."""
MARKER = "complete.json"
"""Written last: the digest of every other file. A folder without it is half-written."""


class Checkpoints:
    """The checkpoints of one run: `directory/step-00000100` and so on.

    The newest `training.keep_checkpoints` stay, and those at multiples of `keep_every_steps`. All
    ranks call every method together; only the first one reads and writes. As a context, it ends
    when the last checkpoint is on disk. StageError says that one could not be written, such as on a
    full disk, of which nothing is left.
    """

    def __init__(self, directory: Path, training: TrainingParams) -> None:
        self._directory, self._training = directory, training
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self._is_first = torch.distributed.get_rank() == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._writer:  # waits for its end
            if kind is None:
                self.finish()

    def save(self, engine: Engine, step: int, state: Mapping[str, Any]) -> None:
        """Copy what the checkpoint of `step` holds, and begin to write it."""
        self.finish()
        tensors = engine.gather_state()
        numbers = {"step": step, "engine": engine.counts(), "run": state}
        if self._is_first:
            # Text at once: the loop goes on to change the lists.
            text = json.dumps(numbers)
            folder = self._directory / f"step-{step:08d}"
            self._writing = self._writer.submit(self._write, folder, tensors, text)

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def resume(self, engine: Engine) -> tuple[int, dict[str, Any]]:
        """Load the newest whole checkpoint; return its step, and what was given to `save`.

        Where there is none: 0 and an empty dictionary. Damaged ones are passed over with a message.
        """
        self.finish()
        newest = self._find_newest() if self._is_first else None
        found: list[Any] = [None]
        if newest is not None:
            found = [json.loads((newest / NUMBERS).read_text(encoding="utf-8"))]
        torch.distributed.broadcast_object_list(found, src=0, device=engine.device)
        if found[0] is None:
            return 0, {}
        tensors = {} if newest is None else load_file(newest / TENSORS)
        engine.restore_state(tensors, found[0]["engine"])
        return found[0]["step"], found[0]["run"]

    def _write(self, folder: Path, tensors: Mapping[str, Tensor], numbers: str) -> None:
        """Write a checkpoint, force it to disk, mark it complete, then remove older ones."""
        try:
            _remove(folder)
            folder.mkdir(parents=True)
            save_file(dict(tensors), folder / TENSORS)
            (folder / NUMBERS).write_text(numbers, encoding="utf-8")
            for name in (TENSORS, NUMBERS):
                with (folder / name).open("rb+") as file:
                    os.fsync(file.fileno())
            digests = {name: _digest(folder / name) for name in (TENSORS, NUMBERS)}
            write_json(folder / MARKER, {"files": digests})
            # Then what need not be kept, and what a killed run left half-written.
            whole = [each for each in self._list() if (each / MARKER).exists()]
            kept, every_steps = (
                whole[: self._training.keep_checkpoints],
                self._training.keep_every_steps,
            )
            if every_steps:
                kept += [each for each in whole if int(each.name.split("-")[1]) % every_steps == 0]
            for each in set(self._list()) - set(kept):
                _remove(each)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StageError(
                f"{socket.gethostname()}: a checkpoint could not be written: {folder}: {error}"
            ) from error

    def _find_newest(self) -> Path | None:
        for folder in self._list():
            problem = find_damage(folder)
            if problem is None:
                return folder
            print(f"{folder} is not used: {problem}", file=sys.stderr)
        return None

    def _list(self) -> list[Path]:
        """Return the folders of all checkpoints, newest first."""
        return sorted(self._directory.glob("step-*"), reverse=True)


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        digests = dict(json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"])
    except FileNotFoundError:
        return "half-written"
    except (ValueError, KeyError, TypeError):
        return f"{MARKER} is damaged"
    if digests.keys() != {TENSORS, NUMBERS}:
        return f"{MARKER} is damaged"
    for name, digest in digests.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _digest(folder / name) != digest:
            return f"{name} is damaged"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its marker first: killed meanwhile, the rest is known to be half."""
    (folder / MARKER).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
