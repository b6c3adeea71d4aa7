"""The stage graph of dvc.yaml and the data versions of dvc.lock, read as plain YAML."""

import hashlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml


class PipelineError(Exception):
    """dvc.yaml cannot be shown as a graph; the message names the stage and the key."""


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml; paths are relative to the folder of dvc.yaml.

    Of an entry with a `matrix` each combination is a stage, which DVC calls `tune@video`.
    """

    name: str
    description: str
    group: str
    kinds: tuple[str, ...]
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: tuple[str, ...]
    plots: tuple[str, ...]

    @property
    def asset(self) -> str:
        """The name of the stage's asset: Dagster takes letters, digits and underscores only."""
        return re.sub(r"\W", "_", self.name)


@dataclass(frozen=True)
class Pipeline:
    """All stages of the dvc.yaml in the folder `root`, in the order of the file."""

    root: Path
    stages: Mapping[str, Stage]

    def producer(self, path: str) -> str | None:
        """Return the name of the stage that writes `path`, or None."""
        for stage in self.stages.values():
            written = (*stage.outs, *stage.metrics, *stage.plots)
            if any(PurePosixPath(path).is_relative_to(out) for out in written):
                return stage.name
        return None

    def upstream(self, name: str) -> tuple[str, ...]:
        """Return the stages whose output the stage reads, without repeats, in the order of deps."""
        producers = (self.producer(path) for path in self.stages[name].deps)
        return tuple(dict.fromkeys(producer for producer in producers if producer))

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return every stage that must have run before this one, in the order of the file."""
        found = set(self.upstream(name))
        for parent in self.upstream(name):
            found.update(self.ancestors(parent))
        return tuple(stage for stage in self.stages if stage in found)

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the data that the stage reads and no stage writes, such as data/inbox."""
        deps = self.stages[name].deps
        return tuple(path for path in deps if _is_data(path) and not self.producer(path))

    def data_version(self, name: str) -> str | None:
        """Return the hash of the stage's data in dvc.lock; None if it never finished."""
        hashes = self._read_hashes(name, "outs")
        known = [hashes[out] for out in self.stages[name].outs if _is_data(out) and out in hashes]
        return "+".join(known) or None

    def has_read(self, reader: str, name: str) -> bool:
        """True if the last finished run of `reader` read the present data of the stage `name`."""
        read, written = self._read_hashes(reader, "deps"), self._read_hashes(name, "outs")
        data = [out for out in self.stages[name].outs if _is_data(out)]
        return all(out in written and read.get(out) == written[out] for out in data)

    def _read_hashes(self, name: str, kind: str) -> dict[str, str]:
        """Return the hash of each path that dvc.lock lists under `kind` of the stage."""
        path = self.root / "dvc.lock"
        lock = _read_yaml(path) if path.exists() else {}
        entry = lock.get("stages", {}).get(name, {})
        return {listed["path"]: listed["md5"] for listed in entry.get(kind, [])}

    def code_version(self, name: str) -> str:
        """Return a digest of the stage's command and code files.

        Parameters are left out: Dagster reads definitions once, and people edit params.yaml after.
        """
        stage = self.stages[name]
        digest = hashlib.sha256(stage.command.encode())
        for path in stage.deps:
            if not _is_data(path) and not self.producer(path):
                files = [file for file in (self.root / path).rglob("*") if file.is_file()]
                written_by_people = [file for file in files if file.suffix != ".pyc"]
                for file in sorted(written_by_people) or [self.root / path]:
                    digest.update(str(file.relative_to(self.root)).encode() + file.read_bytes())
        return digest.hexdigest()[:16]


def load_pipeline(root: Path) -> Pipeline:
    """Read the dvc.yaml in `root`.

    Raises:
        PipelineError: a stage has no command, or a key that is needed is missing.
    """
    stages: dict[str, Stage] = {}
    for name, entry in _read_yaml(root / "dvc.yaml")["stages"].items():
        matrix: Mapping[str, list[str | int]] = entry.get("matrix", {})
        for values in itertools.product(*matrix.values()):  # one, empty, without a matrix
            item = dict(zip(matrix, map(str, values), strict=True))
            full_name = "@".join([name, *(["-".join(item.values())] if item else [])])
            stages[full_name] = _parse_stage(full_name, _fill_in(entry, item) if item else entry)
    return Pipeline(root, stages)


def _fill_in(content: Any, item: Mapping[str, str]) -> Any:
    """Return `content` with `${item.<key>}` replaced in all its texts and keys."""
    if isinstance(content, Mapping):
        return {_fill_in(key, item): _fill_in(value, item) for key, value in content.items()}
    if isinstance(content, list):
        return [_fill_in(value, item) for value in content]
    if isinstance(content, str):
        return re.sub(r"\$\{item\.(\w+)\}", lambda found: item[found[1]], content)
    return content


def _parse_stage(name: str, entry: Mapping[str, Any]) -> Stage:
    def list_paths(key: str) -> tuple[str, ...]:  # an entry is `path` or `path: {options}`
        return tuple(one if isinstance(one, str) else next(iter(one)) for one in entry.get(key, []))

    try:
        return Stage(
            name=name,
            description=entry["desc"],
            group=entry["meta"]["group"],
            kinds=tuple(entry["meta"]["kinds"]),
            command=entry["cmd"],
            # What params.yaml names is watched by DVC alone: people edit it after this was read.
            deps=tuple(path for path in entry.get("deps", []) if "${" not in path),
            outs=list_paths("outs"),
            metrics=list_paths("metrics"),
            plots=list_paths("plots"),
        )
    except (KeyError, TypeError) as error:
        raise PipelineError(
            f"dvc.yaml: stage {name}: key {error} is missing or not a mapping"
        ) from error


def _is_data(path: str) -> bool:
    return PurePosixPath(path).parts[0] == "data"


def _read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
