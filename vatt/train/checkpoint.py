"""Checkpoints that count only when they are whole, and resuming from the newest one that is."""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vatt.atomic import write_json
from vatt.train.engine import Engine

MARKER = "complete.json"
"""Written last: the digest of every other file. A folder without it is half-written."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, `directory/step-00000100` and so on; the newest `keep` stay.

    All ranks call every method together and see the same folder.
    """

    directory: Path
    keep: int

    def save(self, engine: Engine, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of `step`, mark it complete, then remove older ones."""
        tag = _name(step)
        if _is_first_rank():
            _remove(self.directory / tag)
        torch.distributed.barrier()
        engine.save(self.directory, tag, state)
        torch.distributed.barrier()
        if _is_first_rank():
            _mark_complete(self.directory / tag)
            for old in self._list()[self.keep :]:
                _remove(old)

    def resume(self, engine: Engine) -> tuple[int, dict[str, Any]]:
        """Load the newest whole checkpoint.

        Returns:
            Its step and what was given to `save`; 0 and an empty dictionary where there is none.
            A damaged or half-written checkpoint is passed over with a message.
        """
        newest = torch.tensor(self._find_newest() if _is_first_rank() else 0, device=engine.device)
        torch.distributed.broadcast(newest, src=0)
        step = int(newest)
        return step, engine.load(self.directory, _name(step)) if step else {}

    def _find_newest(self) -> int:
        for folder in self._list():
            problem = _find_damage(folder)
            if problem is None:
                return int(folder.name.removeprefix("step-"))
            print(f"pretrain: {folder} is not used: {problem}", file=sys.stderr)
        return 0

    def _list(self) -> list[Path]:
        """Return the folders of all checkpoints, newest first."""
        return sorted(self.directory.glob("step-*"), reverse=True)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _is_first_rank() -> bool:
    return torch.distributed.get_rank() == 0


def _mark_complete(folder: Path) -> None:
    """Force the files to disk, then write the marker."""
    digests = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        digests[path.name] = _digest(path)
    write_json(folder / MARKER, {"files": digests})


def _find_damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        digests = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return "half-written"
    except (ValueError, KeyError):
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
