"""The training loop: forward, loss, backward, update, until the last step (VATT section 4.2).

A `Setup` holds what each kind of training brings to it.
"""

import hashlib
import math
import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vatt.core.batch import Batch, LabelledBatch
from vatt.core.distributed import rank, seed_shared
from vatt.core.errors import StageError
from vatt.corpus.shards import RangeCache, RemoteShards
from vatt.loading.order import TrainingOrder
from vatt.model.cost import Cost
from vatt.params import LaunchParams, TrainingParams
from vatt.train.checkpoint import Checkpoints
from vatt.train.engine import Engine
from vatt.train.lineage import describe_resume
from vatt.train.monitor import BadStepsError, Live, Speed, append_row, write_rows
from vatt.train.precision import find_emulation
from vatt.train.recipe import SUMS_ONLY, Job

AnyBatch = Batch | LabelledBatch
SHARD_CACHE_DIR = Path(".cache/shards")
MEDIAN_STEPS = 100
"""How many losses a spike is compared with."""
FIRST_JUDGED_STEPS = 20
"""With fewer losses before it, no loss is called a spike."""


@dataclass(frozen=True)
class Validation:
    """How the module is measured on the split validation, the same clips on every rank."""

    kind: str
    """What the numbers are called, and the file in the folder of the run."""
    measure: Callable[[Engine], dict[str, float]]
    find_problems: Callable[[int, Mapping[str, float]], list[str]] = lambda _step, _numbers: []
    """Returns from a step and its numbers, in words, what is wrong with them."""
    report: Callable[[int, dict[str, float]], None] | None = None
    """Called on the first rank with the step and the numbers of every measurement, in order, those
    before a resume included; it may raise to end the run."""
    begins_untrained: bool = False
    """Whether the module is measured before its first step, too, as step 0."""


@dataclass(frozen=True)
class Setup:
    """What a kind of training brings: all but the engine and the loop."""

    objective: nn.Module
    """Maps a batch to its losses, of which the first one is minimised; trains its `model`."""
    parts: tuple[str, ...]
    """The names of the losses."""
    optimizer: torch.optim.Optimizer
    settings: Callable[[int], Sequence[Mapping[str, float]]]
    """Returns from the number of an update, counted from 1, those of each optimizer group."""
    open_batches: Callable[[TrainingOrder], Iterable[AnyBatch]]
    """Yields this rank's parts of batches in an order."""
    validation: Validation | None
    cost: Cost | None = None
    """The cost of one clip in training; None where it is not counted."""


def train(engine: Engine, job: Job, setup: Setup) -> "Records":
    """Train to the last step, from the newest whole checkpoint if there is one.

    Everything random in a step comes from its number, so a run that was killed and started again
    computes what an uninterrupted one does. A finished run is left as it is. `engine` is this
    rank's share of the module.

    Raises:
        StageError: a bad step ends the run, none did anything, the data ended, a disk refuses.
    """
    training, seed = job.recipe.training, job.recipe.run.seed
    with Checkpoints(job.directory, training) as checkpoints:
        start, state = checkpoints.resume(engine)
        _announce(job, start, state)
        records = Records(job, setup, state)
        batches = iter(_open_batches(job, setup, start) if start < training.num_steps else ())
        speed = Speed(engine, setup.cost)
        with Live(job.recipe.section, job.directory, start, training.num_steps) as live:
            records.begin(engine, start, speed, live)
            for step in range(start + 1, training.num_steps + 1):
                with speed.spending("waiting"):
                    parts = list(islice(batches, training.accumulation_steps))
                if len(parts) < training.accumulation_steps:
                    raise StageError(
                        f"step {step}: the data ended; expected {training.num_steps} steps"
                    )
                is_logged = _is_due(step, training.log_every_steps, training)
                if is_logged:
                    speed.wait_for_ranks()
                _seed_draws(seed, step, engine.device)
                settings = setup.settings(step)
                losses, norm, problem = _update(engine, parts, records, settings)
                if problem is not None:
                    records.reject(step, problem)
                    if training.on_bad_step == "roll_back":
                        checkpoints.resume(engine)
                elif math.isfinite(norm):  # in fp16 a gradient may overflow: then nothing was done
                    records.accept(losses, norm)
                live.advance(step)
                speed.count(training.batch_size)
                if is_logged:
                    highest = max((group["lr"] for group in settings), default=0.0)
                    live.show(step, "curve", records.close_window(step, highest))
                    live.show(step, "speed", speed.close_window())
                records.validate(engine, step, speed, live)
                if _is_due(step, training.checkpoint_every_steps, training):
                    with speed.spending("saving"):
                        checkpoints.save(engine, step, records.state())
    records.require_progress()
    return records


def _announce(job: Job, start_step: int, state: Mapping[str, Any]) -> None:
    """Say on the first rank what a user should know before the first step."""
    messages = [describe_resume(job, start_step, state.get("launch"))]
    if start_step < job.recipe.training.num_steps:
        messages.append(find_emulation(job.recipe.launch.precision))
    for message in messages:
        if message is not None and rank() == 0:
            print(f"{job.recipe.section}: {message}", file=sys.stderr)


def _seed_draws(seed: int, step: int, device: torch.device) -> None:
    torch.manual_seed(derive_seed(seed, step, rank()))
    seed_shared(derive_seed(seed, step, 0), device)


def _open_batches(job: Job, setup: Setup, start_step: int) -> Iterable[AnyBatch]:
    """Open this rank's batches after some steps, in the same parts on any number of ranks."""
    training, num_parts = job.recipe.training, job.recipe.training.accumulation_steps
    order = TrainingOrder(
        seed=job.recipe.run.seed,
        batch_size=training.batch_size // num_parts,
        start_step=start_step * num_parts,
        num_steps=training.num_steps * num_parts,
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
    )
    return setup.open_batches(order)


def _update(
    engine: Engine,
    parts: Sequence[AnyBatch],
    records: "Records",
    settings: Sequence[Mapping[str, float]],
) -> tuple[list[float], float, str | None]:
    """Compute all parts of a batch and follow their gradient, unless it would do harm.

    Return the losses over all ranks and parts, the gradient's norm, and why it was not followed.
    """
    losses = engine.compute_losses(parts[0].to(engine.device))
    total = losses.detach().float()
    for part in parts[1:]:
        engine.accumulate(losses[0])
        losses = engine.compute_losses(part.to(engine.device))
        total = total + losses.detach().float()
    torch.distributed.all_reduce(total)
    means = (total / (len(parts) * torch.distributed.get_world_size())).tolist()
    problem = records.find_problem(means)
    # A gradient of NaN is followed nowhere: all ranks and all stages leave the update out.
    norm = engine.update(losses[0] if problem is None else losses[0] * math.nan, settings)
    if problem is None and math.isinf(norm) and engine.loss_scale is None:
        problem = "gradient_norm is not finite"
    return means, norm, problem


class Records:
    """What a run keeps account of: its curve, its bad steps, and what was measured.

    All of it is part of a checkpoint, so that after a resume each step is in every file once. Steps
    are judged by what is the same on every rank, and by nothing else: all ranks decide alike, and a
    run that was killed and started again decides as an uninterrupted one does.
    """

    def __init__(self, job: Job, setup: Setup, state: Mapping[str, Any]) -> None:
        self._job, self._setup, self._training = job, setup, job.recipe.training
        self._is_first = torch.distributed.get_rank() == 0
        curve, guard = state.get("curve", {}), state.get("guard", {})
        self.rows: list[dict[str, float]] = list(curve.get("rows", []))
        """The means of the losses over each log window."""
        self._window: list[list[float]] = list(curve.get("window", []))
        self._losses = deque[float](guard.get("losses", []), maxlen=MEDIAN_STEPS)
        self._num_bad = int(guard.get("num_bad", 0))
        self._measured: list[dict[str, float]] = list(state.get("validations", []))
        if self._is_first:
            write_rows(job.curve_path, self.rows)
        if self._is_first and setup.validation is not None:
            self._path = job.directory / f"{setup.validation.kind}.jsonl"
            write_rows(self._path, self._measured)
            for row in self._measured:
                self._report(setup.validation, **row)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {
            "curve": {"rows": self.rows, "window": self._window},
            "guard": {"losses": list(self._losses), "num_bad": self._num_bad},
            "validations": self._measured,
            "launch": self._job.recipe.launch.model_dump(include=SUMS_ONLY),
        }

    def find_problem(self, losses: list[float]) -> str | None:
        """Return what is wrong with the losses of a step, before its update; None if nothing is."""
        named = zip(self._setup.parts, losses, strict=True)
        broken = [f"{part} is {loss}" for part, loss in named if not math.isfinite(loss)]
        if broken:
            return ", ".join(broken)
        factor = self._training.spike_factor
        if factor is not None and len(self._losses) >= FIRST_JUDGED_STEPS:
            median = statistics.median(self._losses)
            if losses[0] > factor * median:
                return f"loss is {losses[0]:.4g}, the median of the steps before is {median:.4g}"
        return None

    def accept(self, losses: list[float], gradient_norm: float) -> None:
        """Take in a step whose update was done: its losses over all ranks."""
        self._window.append([*losses, gradient_norm])
        self._losses.append(losses[0])

    def reject(self, step: int, problem: str) -> None:
        """Count a step whose update was left out, and say so.

        Raises:
            BadStepsError: the run is to end.
        """
        self._num_bad += 1
        section, max_bad_steps = self._job.recipe.section, self._training.max_bad_steps
        if self._training.on_bad_step == "stop":
            raise BadStepsError(
                f"step {step}: {problem}; the checkpoint before it is kept. A lower learning rate "
                f"or a {section}.gradient_clip_norm may help; "
                f"{section}.on_bad_step = skip or roll_back goes on"
            )
        if self._num_bad > max_bad_steps:
            raise BadStepsError(
                f"step {step}: {problem}; these are more bad steps than "
                f"{section}.max_bad_steps = {max_bad_steps}"
            )
        if self._is_first:
            print(f"{section}: step {step} is left out: {problem}", file=sys.stderr)

    def require_progress(self) -> None:
        """Raise BadStepsError if no step of the run updated a weight."""
        if not self.rows:
            raise BadStepsError(
                f"none of the {self._training.num_steps} steps updated a weight: gradients "
                "overflowed. launch.precision = fp16 needs some steps to find its scale; bf16 and "
                "fp32 have none"
            )

    def close_window(self, step: int, learning_rate: float) -> dict[str, float] | None:
        """Return the row of the window that ends at `step`, and write it; None if it is empty."""
        if not self._window:
            return None
        means = (sum(column) / len(column) for column in zip(*self._window, strict=True))
        named = zip((*self._setup.parts, "gradient_norm"), means, strict=True)
        row = {"step": step, **dict(named), "learning_rate": learning_rate}
        self.rows.append(row)
        self._window = []
        if self._is_first:
            append_row(self._job.curve_path, row)
        return row

    def begin(self, engine: Engine, start_step: int, speed: Speed, live: Live) -> None:
        """Measure the module before its first step, where that is asked for."""
        validation = self._setup.validation
        if start_step == 0 and validation is not None and validation.begins_untrained:
            self.validate(engine, 0, speed, live)

    def validate(self, engine: Engine, step: int, speed: Speed, live: Live) -> None:
        """Measure the module where it is due, show the numbers, and say what is wrong with them."""
        validation, every_steps = self._setup.validation, self._training.validate_every_steps
        if validation is None or not _is_due(step, every_steps, self._training):
            return
        with speed.spending("validating"):
            measured = validation.measure(engine)
        row = {"step": step, **measured}
        self._measured.append(row)
        live.show(step, validation.kind, measured)
        if self._is_first:
            for problem in validation.find_problems(step, measured):
                print(f"{self._job.recipe.section}: step {step}: {problem}", file=sys.stderr)
            append_row(self._path, row)
            self._report(validation, **row)

    def _report(self, validation: Validation, *, step: float, **measured: float) -> None:
        if validation.report is not None:
            validation.report(int(step), measured)


def derive_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of everything random in a step of a rank; 0 is that of one process alone."""
    text = f"{seed}/{step}/{rank}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())


def _is_due(step: int, every_steps: int | None, training: TrainingParams) -> bool:
    return every_steps is not None and (step % every_steps == 0 or step == training.num_steps)


def open_shards(launch: LaunchParams, index_digest: str) -> RemoteShards | None:
    """Return where the shards of an index are; None is the folder of the corpus."""
    if launch.shards_url is None:
        return None
    cache = RangeCache(SHARD_CACHE_DIR, int(launch.shard_cache_gib * 2**30))
    return RemoteShards(launch.shards_url, cache, index_digest)
