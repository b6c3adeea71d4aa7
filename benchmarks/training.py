"""Training in ratios: our loop, two processes, optimizer state, waiting for data, checkpoints.

Usage: python -m benchmarks.training [PREPROCESS_DIR]. The sizes are those of params.yaml. What is
compared is measured in turn, in this run; ratios are of medians. Without a corpus (data/preprocess)
the rows that need one are left out.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from benchmarks.smoke import VOCAB_SIZE, draw_batch
from vatt.core.batch import Batch
from vatt.corpus.tokenizer import open_tokenizer
from vatt.model.vatt import Vatt
from vatt.params import Params, load_params
from vatt.train.engine import ADAM_MOMENTS, Engine
from vatt.train.loop import Setup, train
from vatt.train.pretraining import PARTS, Objective, adam_settings, build_optimizer
from vatt.train.recipe import Job, PretrainRecipe
from vatt.train.worker import run_job

NUM_STEPS = 4
NUM_ROUNDS = 8
NUM_COPIES = 16
"""The batch of the smoke test, so many times over."""
WINDOW_STEPS = 30
"""Steps of the demo, with one checkpoint; the first window holds the start of the engine."""
NUM_WINDOWS = 3


def repeat_clips(batch: Batch, copies: int) -> Batch:
    """Return a batch of so many times as many clips."""
    return Batch(*(torch.cat([field] * copies) for field in vars(batch).values()))


def load_short() -> Params:
    """Return params.yaml for a few steps of NUM_COPIES batches, without checkpoints in between."""
    params = load_params(Path("params.yaml"))
    updates = {
        "num_steps": NUM_STEPS + 1,
        "warmup_steps": 1,
        "checkpoint_every_steps": 1000,
        "batch_size": 4 * NUM_COPIES,
        "spike_factor": None,
    }
    return params.model_copy(update={"pretrain": params.pretrain.model_copy(update=updates)})


def open_run(params: Params, **launch: Any) -> tuple[Engine, Params, Setup]:
    """Return what `train_once` takes, with the network of params.yaml launched in another way."""
    objective = Objective(Vatt(params.model, params.clip, VOCAB_SIZE), params.loss)
    setup = Setup(
        objective=objective,
        parts=PARTS,
        optimizer=build_optimizer(objective.parameters(), params.pretrain),
        settings=lambda step: [adam_settings(step, params.pretrain)],
        open_batches=lambda _order: (),
        validation=None,
    )
    chosen = params.launch.model_copy(update=launch)
    engine = Engine(objective, setup.optimizer, params.pretrain, chosen)
    return engine, params.model_copy(update={"launch": chosen}), setup


def train_once(engine: Engine, params: Params, setup: Setup, batches: Iterator[Batch]) -> None:
    """Train on some batches, in a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        job = build_job(params, Path(folder), Path(folder), VOCAB_SIZE)
        train(engine, job, replace(setup, open_batches=lambda _order: batches))


def build_job(params: Params, preprocess_dir: Path, folder: Path, vocab_size: int) -> Job:
    """Return a job of pre-training whose run and curve are in `folder`."""
    recipe = PretrainRecipe(
        run=params.run,
        clip=params.clip,
        model=params.model,
        loss=params.loss,
        pretrain=params.pretrain,
        launch=params.launch,
        vocab_size=vocab_size,
        index_digest="",
        tokenizer_digest="",
    )
    return Job(
        recipe=recipe,
        initial_weights=None,
        preprocess_dir=preprocess_dir,
        directory=folder,
        curve_path=folder / "curve.jsonl",
    )


def time_loop_steps(run: tuple[Engine, Params, Setup], batch: Batch) -> float:
    """Return the seconds that a step takes in the loop, from its first batch to its last update."""
    times_s: list[float] = []

    def yield_batches() -> Iterator[Batch]:
        for same in repeat(batch):
            times_s.append(time.perf_counter())
            yield same

    train_once(*run, yield_batches())
    return (times_s[-1] - times_s[0]) / (len(times_s) - 1)


def measure_overhead() -> float:
    """Return the CPU time of a step in our loop over that of a bare one; they take turns.

    With one thread, so that nothing is hidden behind another one; wall time would hold what other
    programs do.
    """
    params = load_short()
    batch = repeat_clips(draw_batch(params.clip), NUM_COPIES)
    bare = Objective(Vatt(params.model, params.clip, VOCAB_SIZE), params.loss)
    optimizer = build_optimizer(bare.parameters(), params.pretrain)
    bare_s: list[float] = []
    loop_s: list[float] = []

    def yield_batches() -> Iterator[Batch]:
        for same in repeat(batch):
            start_s = time.process_time()
            optimizer.zero_grad()
            bare(batch)[0].backward()
            optimizer.step()
            bare_s.append(time.process_time() - start_s)
            start_s = time.process_time()
            yield same
            loop_s.append(time.process_time() - start_s)

    updates = {"num_steps": NUM_STEPS * NUM_ROUNDS}
    pretrain = params.pretrain.model_copy(update=updates)
    longer = params.model_copy(update={"pretrain": pretrain})
    # ZeRO 0: as the stage does for one process.
    run = open_run(longer, num_processes=1, zero_stage=0, threads_per_process=1)
    train_once(*run, yield_batches())
    return statistics.median(loop_s[2:]) / statistics.median(bare_s[2:])


def be_a_rank(num_processes: int, path: Path) -> None:
    """Train as one of some ranks with 2 threads among them; the first one writes what it saw."""
    params = load_short()
    run = open_run(
        params,
        num_processes=num_processes,
        threads_per_process=2 // num_processes,
        zero_stage=1,
        offload="none",
    )
    batch = repeat_clips(draw_batch(params.clip), NUM_COPIES // num_processes)
    step_s = statistics.median(time_loop_steps(run, batch) for _ in range(NUM_ROUNDS))
    if torch.distributed.get_rank() == 0:
        states = run[2].optimizer.state.values()
        bytes_ = sum(kept[name].nbytes for kept in states for name in ADAM_MOMENTS)
        path.write_text(json.dumps({"step_s": step_s, "optimizer_bytes": bytes_}))


def run_ranks(num_processes: int) -> dict[str, float]:
    """Return what the first of some ranks saw."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seen.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={num_processes}", "-m", "benchmarks.training"]
        command += ["--rank", str(num_processes), str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen: dict[str, float] = json.loads(path.read_text())
        return seen


def measure_demo(preprocess_dir: Path) -> dict[str, float]:
    """Return the shares of time that training on a corpus waits for data and for checkpoints."""
    params = load_params(Path("params.yaml"))
    updates = {
        "num_steps": WINDOW_STEPS * (NUM_WINDOWS + 1),
        "warmup_steps": 1,
        "checkpoint_every_steps": WINDOW_STEPS,
        "log_every_steps": WINDOW_STEPS,
        "validate_every_steps": None,
        "spike_factor": None,
    }
    sections = {
        "pretrain": params.pretrain.model_copy(update=updates),
        "launch": params.launch.model_copy(update={"num_processes": 1}),
    }
    short, vocab_size = (
        params.model_copy(update=sections),
        open_tokenizer(preprocess_dir).vocab_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        run_job(build_job(short, preprocess_dir, Path(folder), vocab_size))
        lines = (Path(folder) / "speed.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[1 : 1 + NUM_WINDOWS]]
    waiting, saving = (
        statistics.median(row[name] for row in rows) for name in ("waiting_rate", "saving_rate")
    )
    # As many checkpoints as in the run of params.yaml, not as many as here.
    fewer = WINDOW_STEPS / params.pretrain.checkpoint_every_steps
    return {"waiting": waiting, "saving": saving * fewer}


def main() -> None:
    """Print the table."""
    if os.environ.get("OMP_WAIT_POLICY") != "passive":  # as the stages do, before torch starts
        os.environ["OMP_WAIT_POLICY"] = "passive"
        subprocess.run([sys.executable, "-m", "benchmarks.training", *sys.argv[1:]], check=True)
        return
    if sys.argv[1:2] == ["--rank"]:
        be_a_rank(int(sys.argv[2]), Path(sys.argv[3]))
        return
    one, two = run_ranks(1), run_ranks(2)
    state, faster = two["optimizer_bytes"] / one["optimizer_bytes"], one["step_s"] / two["step_s"]
    rows = [
        f"| optimizer state of one of two ranks, ZeRO-1 | {state:.3f} of it | 0.475 to 0.525 |",
        f"| two ranks of one thread over one of two | {faster:.2f} | >= 0.85 |",
        f"| our loop over a bare step, CPU time | {measure_overhead():.3f} | < 1.03 |",
    ]
    preprocess_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "data/preprocess")
    if (preprocess_dir / "index.parquet").exists():
        demo = measure_demo(preprocess_dir)
        rows += [
            f"| waiting for data, share of the time | {demo['waiting']:.1%} | < 5 % |",
            f"| pause for checkpoints, share of the time | {demo['saving']:.2%} | < 10 % |",
        ]
    print("\n".join(["| what | measured | target |", "|---|---|---|", *rows]))


if __name__ == "__main__":
    main()
