"""Overhead of our training loop over a bare forward, backward and step of the same model.

Both run in this process, in turn, on the sizes of params.yaml; the ratio of their medians counts.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import torch

from benchmarks.smoke import VOCAB_SIZE, draw_batch
from vatt.batch import Batch
from vatt.models.vatt import Vatt
from vatt.params import Params, load_params
from vatt.train.engine import Engine
from vatt.train.loop import Plan, train
from vatt.train.objective import Objective
from vatt.train.optimizer import build_optimizer

NUM_STEPS = 8
NUM_ROUNDS = 4
NUM_COPIES = 16
"""The batch of the smoke test, so many times over."""


def repeat_clips(batch: Batch) -> Batch:
    """Return a batch of NUM_COPIES times as many clips."""
    fields = (batch.video, batch.audio, batch.text, batch.audio_mask, batch.text_mask)
    return Batch(*(torch.cat([field] * NUM_COPIES) for field in fields))


def time_bare_steps(objective: Objective, params: Params, batch: Batch) -> float:
    """Return the seconds that a step takes without engine and loop."""
    optimizer = build_optimizer(objective.parameters(), params.pretrain)
    start_s = time.perf_counter()
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        objective(batch)[0].backward()
        optimizer.step()
    return (time.perf_counter() - start_s) / NUM_STEPS


def time_loop_steps(engine: Engine, params: Params, batch: Batch) -> float:
    """Return the seconds that a step takes in the loop, from its first batch to its last update."""
    times_s: list[float] = []

    def open_batches(_start_step: int) -> Iterator[Batch]:
        for same in repeat(batch):
            times_s.append(time.perf_counter())
            yield same

    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(0, params.pretrain, Path(folder), Path(folder) / "curve.jsonl")
        train(engine, open_batches, plan)
    return (times_s[-1] - times_s[0]) / (len(times_s) - 1)


def main() -> None:
    """Print the medians of both and their ratio."""
    params = load_params(Path("params.yaml"))
    updates = {"num_steps": NUM_STEPS + 1, "warmup_steps": 1, "checkpoint_every_steps": 1000}
    batch = repeat_clips(draw_batch(params.clip))
    updates["batch_size"] = len(batch.video)
    pretrain = params.pretrain.model_copy(update=updates)
    params = params.model_copy(update={"pretrain": pretrain})
    objective = Objective(Vatt(params.model, params.clip, VOCAB_SIZE), params.loss)
    copy = Objective(Vatt(params.model, params.clip, VOCAB_SIZE), params.loss)
    optimizer = build_optimizer(copy.parameters(), pretrain)
    engine = Engine(copy, optimizer, pretrain, params.launch)
    bare, loop = [], []
    for _ in range(NUM_ROUNDS):
        bare.append(time_bare_steps(objective, params, batch))
        loop.append(time_loop_steps(engine, params, batch))
    bare_s, loop_s = statistics.median(bare), statistics.median(loop)
    print(f"bare {bare_s * 1000:.1f} ms, loop {loop_s * 1000:.1f} ms, ratio {loop_s / bare_s:.3f}")


if __name__ == "__main__":
    main()
