"""Bytes that training holds, counted in running processes, against the formulas of vatt/model.

Usage: python -m benchmarks.memory [CONFIG] [--clips]. Weights, gradients and moments of one of two
ranks under each ZeRO stage, with the network of a file in configs/; with --clips, what one clip of
the paper's size leaves for the backward pass. Nothing is timed: a busy machine makes no difference.
"""

import gc
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.model.networks import CONFIGS_DIR, VOCAB_SIZE, build_bench, draw_batch
from benchmarks.model.step import CLIP
from benchmarks.model.table import Row, print_table
from vatt.core.batch import Batch
from vatt.description import build_model
from vatt.model.cost import add_costs, count_weights, estimate_activations, estimate_state_bytes
from vatt.model.vatt import Vatt
from vatt.params import Params, load_params
from vatt.train.engine import Engine
from vatt.train.pretraining import Objective, build_optimizer

NUM_RANKS = 2


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of memory behind some tensors; what several share counts once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def list_tensors() -> list[Tensor]:
    """Return all tensors of this process that Python knows, and their gradients."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects warn when their class is asked for
        found = [each for each in gc.get_objects() if isinstance(each, Tensor)]
    return found + [each.grad for each in found if each.is_leaf and each.grad is not None]


def be_a_rank(config: str, zero_stage: int, path: Path) -> None:
    """Take two steps as one of two ranks; the first one writes the most bytes that it held."""
    params = shrink(load_params(CONFIGS_DIR / config), zero_stage)
    objective = Objective(Vatt(params.model, params.clip, VOCAB_SIZE), params.loss)
    optimizer = build_optimizer(objective.parameters(), params.pretrain)
    engine = Engine(objective, optimizer, params.pretrain, params.launch)
    batch, counts = draw_batch(params.clip, 1), list[int]()
    clips = count_bytes([batch.video, batch.audio, batch.text])
    optimizer.register_step_pre_hook(lambda *_: counts.append(count_bytes(list_tensors())))
    for _ in range(2):
        losses = engine.compute_losses(batch)
        counts.append(count_bytes(list_tensors()))
        engine.update(losses[0], [{"lr": 1e-4}])
    if torch.distributed.get_rank() == 0:
        path.write_text(json.dumps(max(counts) - clips))


def shrink(params: Params, zero_stage: int) -> Params:
    """Return the parameters for one small clip a rank."""
    launch = {
        "num_processes": NUM_RANKS,
        "threads_per_process": 1,
        "zero_stage": zero_stage,
        "offload": "none",
        "precision": "fp32",
        "recompute_activations": False,
    }
    pretrain = {"batch_size": NUM_RANKS, "accumulation_steps": 1}
    return params.model_copy(
        update={
            "clip": params.clip.model_copy(update=CLIP),
            "launch": params.launch.model_copy(update=launch),
            "pretrain": params.pretrain.model_copy(update=pretrain),
        }
    )


def run_ranks(config: str, zero_stage: int) -> float:
    """Return what the first of two ranks held at most."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bytes.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={NUM_RANKS}", "-m", "benchmarks.memory"]
        command += ["--rank", config, str(zero_stage), str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return float(path.read_text())


def measure_state(config: str) -> list[Row]:
    """Return what a rank holds of weights, gradients and moments, over the formula."""
    model = build_model(load_params(CONFIGS_DIR / config), VOCAB_SIZE)
    weights = add_costs(count_weights(model).values())
    rows = []
    for zero_stage in range(4):
        held = run_ranks(config, zero_stage)
        formula = estimate_state_bytes(weights, NUM_RANKS, zero_stage)
        detail = f"{held / 1e9:.3f} / {formula / 1e9:.3f} GB"
        rows.append(Row(f"ZeRO {zero_stage}, counted / formula", held / formula, "1", detail))
    return rows


def measure_clip(config: str) -> list[Row]:
    """Return what a clip of the paper's size leaves for the backward pass, over the formula."""
    params = load_params(CONFIGS_DIR / config)
    rows = []
    for title in ("kept", "computed again"):
        bench = build_bench(config, {}, batch_size=1)
        bench.set_dropout(0.0)  # else attention on CPUs keeps scores, which it does not on GPUs
        bench.set_recomputation(recomputes=title == "computed again")
        model = bench.objective.model
        formula = estimate_activations(model, params.clip, params.model.drop_token_rate, "fp32")
        kept = formula.kept if title == "kept" else formula.between
        counted = count_saved(model, bench.batch)
        detail = f"{counted / 1e6:.1f} / {kept / 1e6:.1f} MB"
        rows.append(Row(f"activations, {title}, counted / formula", counted / kept, "1", detail))
    return rows


def count_saved(model: Vatt, batch: Batch) -> int:
    """Return the bytes saved by a forward pass for the backward pass, besides weights and batch."""
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch)
    known = [*model.parameters(), *model.buffers(), batch.video, batch.audio, batch.text]
    return count_bytes([*saved, *known]) - count_bytes(known)


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--rank"]:
        be_a_rank(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
        return
    torch.set_num_threads(1)
    configs = [name for name in sys.argv[1:] if name != "--clips"] or ["bbs.yaml"]
    for config in configs:
        if "--clips" in sys.argv:
            print_table(f"{config}: a clip of the paper's size", measure_clip(config))
        else:
            print_table(f"{config}: one of {NUM_RANKS} ranks", measure_state(config))


if __name__ == "__main__":
    main()
