"""The training loop: forward, loss, backward, update, until the last step (VATT section 4.2)."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from vatt.batch import Batch
from vatt.models.accounting import Cost
from vatt.params import PretrainParams, StageError
from vatt.train.checkpoint import Checkpoints
from vatt.train.engine import Engine
from vatt.train.launchers.heartbeat import Heartbeat
from vatt.train.numbers.curve import Curve
from vatt.train.numbers.guard import Guard
from vatt.train.numbers.health import find_collapse, measure_health
from vatt.train.numbers.live import Live
from vatt.train.numbers.speed import Speed
from vatt.train.optimizer import adam_settings


@dataclass(frozen=True)
class Plan:
    """What a run does besides its model and its data.

    directory: its checkpoints and logs. curve_path: its loss curve. open_validation: the clips whose
    health is measured, the same on every rank. cost: of one clip in training.
    """

    seed: int
    pretrain: PretrainParams
    directory: Path
    curve_path: Path
    open_validation: Callable[[], Iterable[Batch]] | None = None
    cost: Cost | None = None


def train(engine: Engine, open_batches: Callable[[int], Iterable[Batch]], plan: Plan) -> Curve:
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
    pretrain, first = plan.pretrain, torch.distributed.get_rank() == 0
    with Checkpoints(plan.directory, pretrain) as checkpoints:
        start, state = checkpoints.resume(engine)
        curve = Curve(plan.curve_path if first else None, state.get("curve", {}))
        guard = Guard(pretrain, state.get("guard", {}))
        batches = iter(open_batches(start) if start < pretrain.num_steps else ())
        speed, heartbeat = Speed(engine, plan.cost), Heartbeat()
        with Live(plan.directory, start, pretrain.num_steps) as live:
            for step in range(start + 1, pretrain.num_steps + 1):
                with speed.spending("waiting"):
                    parts = _take_parts(batches, step, pretrain)
                is_logged = _is_due(step, pretrain.log_every_steps, pretrain)
                if is_logged:
                    speed.wait_for_ranks()
                torch.manual_seed(derive_seed(plan.seed, step))
                settings = adam_settings(step, pretrain)
                losses, norm, problem = _update(engine, parts, guard, settings)
                if problem is not None:
                    guard.reject(step, problem)
                    if pretrain.on_bad_step == "roll_back":
                        checkpoints.resume(engine)
                elif math.isfinite(norm):  # in fp16 a gradient may overflow: then nothing was done
                    curve.add(losses, norm)
                    guard.accept(losses[0])
                live.advance()
                heartbeat.beat(step)
                speed.count(pretrain.batch_size)
                if is_logged:
                    live.show(step, "curve", curve.close_window(step, settings["lr"]))
                    live.show(step, "speed", speed.close_window())
                _validate(engine, plan, step, live, speed)
                if _is_due(step, pretrain.checkpoint_every_steps, pretrain):
                    with speed.spending("saving"):
                        state = {"curve": curve.state(), "guard": guard.state()}
                        checkpoints.save(engine, step, state)
    return curve


def _take_parts(batches: Iterator[Batch], step: int, pretrain: PretrainParams) -> list[Batch]:
    """Return this rank's batches of a step."""
    parts = list(islice(batches, pretrain.accumulation_steps))
    if len(parts) < pretrain.accumulation_steps:
        raise StageError(f"step {step}: the data ended; expected {pretrain.num_steps} steps")
    return parts


def _update(
    engine: Engine, parts: Sequence[Batch], guard: Guard, settings: Mapping[str, float]
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


def _validate(engine: Engine, plan: Plan, step: int, live: Live, speed: Speed) -> None:
    """Measure the health of the embeddings where it is due, and say what is wrong."""
    every_steps = plan.pretrain.validate_every_steps
    if plan.open_validation is None or every_steps is None:
        return
    if _is_due(step, every_steps, plan.pretrain):
        with speed.spending("validating"):
            health = measure_health(engine, plan.open_validation())
        live.show(step, "health", health)
        for problem in find_collapse(health, is_warm=step > plan.pretrain.warmup_steps):
            live.say(step, problem)


def derive_seed(seed: int, step: int) -> int:
    """Return the seed of everything random in a step of this rank."""
    text = f"{seed}/{step}/{torch.distributed.get_rank()}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())


def _is_due(step: int, every_steps: int, pretrain: PretrainParams) -> bool:
    return step % every_steps == 0 or step == pretrain.num_steps
