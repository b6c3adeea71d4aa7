"""The training loop: forward, loss, backward, update, until the last step (VATT section 4.2)."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from vatt.batch import Batch
from vatt.params import PretrainParams, StageError
from vatt.train.checkpoint import Checkpoints
from vatt.train.engine import Engine
from vatt.train.metrics import Curve, SpeedLog
from vatt.train.optimizer import adam_settings


@dataclass(frozen=True)
class Plan:
    """What a run does besides its model and its data.

    directory: its checkpoints and its speed log. curve_path: its loss curve.
    """

    seed: int
    pretrain: PretrainParams
    directory: Path
    curve_path: Path


def train(engine: Engine, open_batches: Callable[[int], Iterable[Batch]], plan: Plan) -> Curve:
    """Train to the last step, from the newest whole checkpoint if there is one.

    Everything random in a step comes from its number, so a run that was killed and started again
    computes what an uninterrupted one does. A finished run is left as it is.

    Args:
        engine: this rank's share of the module.
        open_batches: from the number of steps done, this rank's batches from there on.
        plan: how long, how fast, and where to write.

    Raises:
        StageError: a loss or gradient is not finite, or there are too few batches.
    """
    pretrain, first = plan.pretrain, torch.distributed.get_rank() == 0
    checkpoints = Checkpoints(plan.directory, pretrain.keep_checkpoints)
    start, state = checkpoints.resume(engine)
    curve = Curve(plan.curve_path if first else None, state)
    with _open_bar(start, pretrain.num_steps) as bar:
        speed_log = SpeedLog(plan.directory / "speed.jsonl", bar)
        batches = iter(open_batches(start)) if start < pretrain.num_steps else iter(())
        for step in range(start + 1, pretrain.num_steps + 1):
            with speed_log.waiting():
                batch = next(batches, None)
            if batch is None:
                raise StageError(
                    f"step {step}: the data ended; expected {pretrain.num_steps} steps"
                )
            torch.manual_seed(derive_seed(plan.seed, step))
            losses = engine.compute_losses(batch.to(engine.device))
            settings = adam_settings(step, pretrain)
            curve.add(step, losses, engine.update(losses[0], settings))
            bar.update()
            speed_log.count(pretrain.batch_size)
            if _is_due(step, pretrain.log_every_steps, pretrain):
                speed_log.tell(curve.close_window(step, settings["lr"]))
            if _is_due(step, pretrain.checkpoint_every_steps, pretrain):
                checkpoints.save(engine, step, curve.state())
    return curve


def derive_seed(seed: int, step: int) -> int:
    """Return the seed of everything random in a step of this rank."""
    text = f"{seed}/{step}/{torch.distributed.get_rank()}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())


def _is_due(step: int, every_steps: int, pretrain: PretrainParams) -> bool:
    return step % every_steps == 0 or step == pretrain.num_steps


def _open_bar(start: int, num_steps: int) -> "tqdm[NoReturn]":
    """Return the progress bar of the first rank; a log file gets a line now and then."""
    return tqdm(
        desc="pretrain",
        unit="step",
        initial=start,
        total=num_steps,
        disable=torch.distributed.get_rank() > 0,
        mininterval=1 if sys.stderr.isatty() else 15,
        dynamic_ncols=True,
    )
