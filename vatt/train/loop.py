"""The training loop: forward, loss, backward, update, until the last step (VATT section 4.2).

What each kind of training brings to the engine and to the loop.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vatt.core.batch import Batch, LabelledBatch
from vatt.core.errors import StageError
from vatt.corpus.shards import RangeCache, RemoteShards
from vatt.loading.order import TrainingOrder
from vatt.model.cost import Cost
from vatt.params import LaunchParams, TrainingParams
from vatt.train.checkpoint import Checkpoints
from vatt.train.engine import Engine
from vatt.train.heartbeat import beat
from vatt.train.monitor import Curve, Guard, Live, append_row, write_rows
from vatt.train.speed import Speed

AnyBatch = Batch | LabelledBatch


@dataclass(frozen=True)
class Validation:
    """How the module is measured on the split validation, the same clips on every rank.

    kind: what the numbers are called, and the file in the folder of the run. find_problems: from a step and its numbers, in words what is
    wrong with them. tell: called on the first rank with the step and the numbers of every
    measurement, in order, those before a resume included; it may raise to end the run.
    """

    kind: str
    measure: Callable[[Engine], dict[str, float]]
    find_problems: Callable[[int, Mapping[str, float]], list[str]] = lambda _step, _numbers: []
    tell: Callable[[int, dict[str, float]], None] | None = None


@dataclass(frozen=True)
class Plan:
    """What a run does besides its module and its data.

    section: of params.yaml, for messages. directory: its checkpoints and logs. curve_path: its loss
    curve. parts: the names of the losses. settings: from the number of an update, those of each
    group of the optimizer. cost: of one clip in training.
    """

    section: str
    seed: int
    training: TrainingParams
    directory: Path
    curve_path: Path
    parts: tuple[str, ...]
    settings: Callable[[int], Sequence[Mapping[str, float]]]
    validation: Validation | None = None
    cost: Cost | None = None


def train(engine: Engine, open_batches: Callable[[int], Iterable[AnyBatch]], plan: Plan) -> Curve:
    """Train to the last step, from the newest whole checkpoint if there is one.

    Everything random in a step comes from its number, so a run that was killed and started again
    computes what an uninterrupted one does. A finished run is left as it is.

    Args:
        engine: this rank's share of the module.
        open_batches: from the number of steps done, this rank's parts of batches from there on.
        plan: how long, how fast, and where to write.

    Raises:
        StageError: a bad step ends the run, a checkpoint cannot be written, the data ended.
    """
    training = plan.training
    with Checkpoints(plan.directory, training) as checkpoints:
        start, state = checkpoints.resume(engine)
        numbers = _Numbers(plan, state)
        curve, guard = numbers.curve, numbers.guard
        batches = iter(open_batches(start) if start < training.num_steps else ())
        speed = Speed(engine, plan.cost)
        with Live(plan.section, plan.directory, start, training.num_steps) as live:
            for step in range(start + 1, training.num_steps + 1):
                with speed.spending("waiting"):
                    parts = _take_parts(batches, step, training)
                is_logged = _is_due(step, training.log_every_steps, training)
                if is_logged:
                    speed.wait_for_ranks()
                torch.manual_seed(derive_seed(plan.seed, step))
                settings = plan.settings(step)
                losses, norm, problem = _update(engine, parts, guard, settings)
                if problem is not None:
                    guard.reject(step, problem)
                    if training.on_bad_step == "roll_back":
                        checkpoints.resume(engine)
                elif math.isfinite(norm):  # in fp16 a gradient may overflow: then nothing was done
                    curve.add(losses, norm)
                    guard.accept(losses[0])
                live.advance()
                beat(step)
                speed.count(training.batch_size)
                if is_logged:
                    live.show(step, "curve", curve.close_window(step, _find_rate(settings)))
                    live.show(step, "speed", speed.close_window())
                numbers.validate(engine, step, speed, live)
                if _is_due(step, training.checkpoint_every_steps, training):
                    with speed.spending("saving"):
                        checkpoints.save(engine, step, numbers.state())
    return curve


def _take_parts(batches: Iterator[AnyBatch], step: int, training: TrainingParams) -> list[AnyBatch]:
    """Return this rank's batches of a step."""
    parts = list(islice(batches, training.accumulation_steps))
    if len(parts) < training.accumulation_steps:
        raise StageError(f"step {step}: the data ended; expected {training.num_steps} steps")
    return parts


def _update(
    engine: Engine,
    parts: Sequence[AnyBatch],
    guard: Guard,
    settings: Sequence[Mapping[str, float]],
) -> tuple[list[float], float, str | None]:
    """Compute all parts of a batch and follow their gradient, unless it would do harm.

    Returns:
        The losses over all ranks and parts, the gradient's norm, and why nothing was followed.
    """
    losses = engine.compute_losses(parts[0].to(engine.device))
    total = losses.detach().float()
    for part in parts[1:]:
        engine.accumulate(losses[0])
        losses = engine.compute_losses(part.to(engine.device))
        total = total + losses.detach().float()
    torch.distributed.all_reduce(total)
    means = (total / (len(parts) * torch.distributed.get_world_size())).tolist()
    problem = guard.find_problem(means)
    # A gradient of NaN is followed nowhere: all ranks and all stages leave the update out.
    norm = engine.update(losses[0] if problem is None else losses[0] * math.nan, settings)
    if problem is None and math.isinf(norm) and engine.loss_scale is None:
        problem = "gradient_norm is not finite"
    return means, norm, problem


class _Numbers:
    """What a run keeps account of; all of it is part of a checkpoint."""

    def __init__(self, plan: Plan, state: Mapping[str, Any]) -> None:
        self._plan, self._is_first = plan, torch.distributed.get_rank() == 0
        curve_path = plan.curve_path if self._is_first else None
        self.curve = Curve(curve_path, plan.parts, state.get("curve", {}))
        self.guard = Guard(plan.section, plan.parts, plan.training, state.get("guard", {}))
        self._validations: list[dict[str, float]] = list(state.get("validations", []))
        if self._is_first and plan.validation is not None:
            self._path = plan.directory / f"{plan.validation.kind}.jsonl"
            write_rows(self._path, self._validations)
            for row in self._validations:
                self._tell(plan.validation, row)

    def validate(self, engine: Engine, step: int, speed: Speed, live: Live) -> None:
        """Measure the module where it is due, show the numbers, and say what is wrong with them."""
        validation, training = self._plan.validation, self._plan.training
        if validation is None or not _is_due(step, training.validate_every_steps, training):
            return
        with speed.spending("validating"):
            measured = validation.measure(engine)
        row = {"step": step, **measured}
        self._validations.append(row)
        live.show(step, validation.kind, measured)
        for problem in validation.find_problems(step, measured):
            live.say(step, problem)
        if self._is_first:
            append_row(self._path, row)
            self._tell(validation, row)

    def _tell(self, validation: Validation, row: Mapping[str, float]) -> None:
        if validation.tell is not None:
            measured = {name: value for name, value in row.items() if name != "step"}
            validation.tell(int(row["step"]), measured)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {
            "curve": self.curve.state(),
            "guard": self.guard.state(),
            "validations": self._validations,
        }


def derive_seed(seed: int, step: int) -> int:
    """Return the seed of everything random in a step of this rank."""
    text = f"{seed}/{step}/{torch.distributed.get_rank()}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())


def _find_rate(settings: Sequence[Mapping[str, float]]) -> float:
    """Return the learning rate, of several the highest."""
    return max((group["lr"] for group in settings), default=0.0)


def _is_due(step: int, every_steps: int | None, training: TrainingParams) -> bool:
    return every_steps is not None and (step % every_steps == 0 or step == training.num_steps)


SHARD_CACHE_DIR = Path(".cache/shards")


@dataclass(frozen=True)
class Setup:
    """All but the engine and the loop.

    objective: maps a batch to its losses, as many as there are names in `parts`; the first one is
    minimised. settings: from the number of an update, counted from 1, those of each group of the
    optimizer. select_weights: of all weights of the objective those that are the result, by their
    names there. cost: of one clip in training, None where it is not counted.
    """

    objective: nn.Module
    parts: tuple[str, ...]
    optimizer: torch.optim.Optimizer
    settings: Callable[[int], Sequence[Mapping[str, float]]]
    open_batches: Callable[[TrainingOrder], Iterable[Batch | LabelledBatch]]
    validation: Validation | None
    select_weights: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    cost: Cost | None = None


def open_shards(launch: LaunchParams, index_digest: str) -> RemoteShards | None:
    """Return where the shards of an index are; None is the folder of the corpus."""
    if launch.shards_url is None:
        return None
    cache = RangeCache(SHARD_CACHE_DIR, int(launch.shard_cache_gib * 2**30))
    return RemoteShards(launch.shards_url, cache, index_digest)
