"""A run: stages of the pipeline in a folder of their own, with settings of their own.

Each stage is a process, as by hand. What ended is not run again while code, settings and numerical
path are the same; a stage that was killed goes on by itself.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import yaml
from tqdm import tqdm

from vatt.core.code import PACKAGE_DIR, digest_code
from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.core.signals import die_with_parent
from vatt.core.times import TIMES_PATH, read_times
from vatt.params import TASKS, format_settings

Stage = tuple[str, ...]
"""The words behind `python -m vatt`."""
TASK_STAGES: tuple[Stage, ...] = tuple(
    (stage, task) for task in TASKS for stage in ("tune", "finetune")
)
CORPUS_STAGES: tuple[Stage, ...] = (("download",), ("preprocess",), ("validate",))
STAGES: tuple[Stage, ...] = (
    *CORPUS_STAGES,
    *(("pretrain",), *TASK_STAGES),
    *(("evaluate",), ("promote",)),
)
"""Those of dvc.yaml in an order in which each has what it needs."""
CODE = (
    *("core", "corpus", "download", "evaluate", "loading", "media", "model", "params"),
    *("preprocess", "stages", "train", "tune", "validate", "weights"),
)
"""The code below vatt/ that can change a number of a run."""
PARAMS_PATH = Path("params.yaml")
TAIL_LINES = 15  # of a failed stage, shown with the error


def skip(bar: "tqdm[NoReturn]", num_stages: int) -> None:
    """Move the bar by stages that were not run now: they say nothing of the time that is left."""
    bar.initial += num_stages
    bar.update(num_stages)


@dataclass(frozen=True)
class Run:
    """Stages in a folder, from settings laid over params.yaml."""

    folder: Path
    settings: Mapping[str, Any]
    """What differs from params.yaml, as in a file with the key `over`."""
    stages: Sequence[Stage]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that choose a numerical path."""
    base: "Run | None" = None
    """A run whose outcome this one goes on from."""
    shared: Sequence[str] = ()
    """The files and folders of the base that stand in the folder, too."""

    @cached_property
    def params_text(self) -> str:
        """The whole of the settings, as YAML."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "differences.yaml"
        content = {"over": str(PARAMS_PATH.resolve()), **self.settings}
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return format_settings(path)

    @cached_property
    def digest(self) -> str:
        """What decides the numbers: settings, code, libraries, numerical path, and the base."""
        before = self.base.digest if self.base else ""
        return digest_code(*CODE, beside=(self.params_text, json.dumps(self._machine), before))

    @property
    def _machine(self) -> dict[str, Any]:
        """What decides the last digits, which the names of trainings do not cover."""
        versions = {name: version(name) for name in ("torch", "numpy", "scikit-learn")}
        launch = yaml.safe_load(self.params_text)["launch"]
        return {"environment": dict(self.environment), "launch": launch, "versions": versions}

    def read_cpu_s(self) -> dict[str, float]:
        """Return the seconds of processors that each stage took which has ended, by its words."""
        state = self._read_state()
        return dict(state["cpu_s"]) if state.get("digest") == self.digest else {}

    def carry_out(self, bar: "tqdm[NoReturn]") -> None:
        """Run the stages that have not ended, one after another; the bar moves by all of them.

        Raises:
            StageError: a stage failed.
        """
        if self._read_state().get("machine", self._machine) != self._machine:
            shutil.rmtree(self.folder)  # else trainings of the other path would count as done
        done = self.read_cpu_s()
        for stage in self.stages:
            words = " ".join(stage)
            bar.set_description(f"{self.folder}: {words}")
            if words in done:
                skip(bar, 1)
                continue
            self._prepare()
            self._start(stage)
            done[words] = read_times(self.folder / TIMES_PATH)[-1].cpu_s
            state = {"machine": self._machine, "digest": self.digest, "cpu_s": done}
            write_json(self._state_path, state)
            bar.update()

    @property
    def _state_path(self) -> Path:
        return self.folder / "run.json"

    def _read_state(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._state_path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def read_metrics(self, name: str) -> dict[str, Any]:
        """Return the metrics of a stage, as `evaluate` or `tune_video`."""
        content = (self.folder / "metrics" / f"{name}.json").read_text(encoding="utf-8")
        return dict(json.loads(content))

    def _prepare(self) -> None:
        """Lay out the folder: parameters, an empty inbox, and what the base shares."""
        (self.folder / "data/inbox").mkdir(parents=True, exist_ok=True)
        (self.folder / "params.yaml").write_text(self.params_text, encoding="utf-8")
        for name in self.shared:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.base and not path.is_symlink():
                path.symlink_to(self.base.folder.resolve() / name)

    def _start(self, stage: Stage) -> None:
        """Run a stage as a process that ends with this one; its output goes to `log.txt`."""
        paths = [str(PACKAGE_DIR.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, **self.environment, "PYTHONPATH": os.pathsep.join(paths)}
        log_path = self.folder / "log.txt"
        with log_path.open("w", encoding="utf-8") as log:
            ended = subprocess.run(
                [sys.executable, "-m", "vatt", *stage],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                preexec_fn=die_with_parent,
            )
        if ended.returncode:
            lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            shown = "\n".join(lines[-TAIL_LINES:])
            raise StageError(f"{self.folder}: {' '.join(stage)} failed:\n{shown}")
