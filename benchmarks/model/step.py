"""(a) A training step of BBS on small clips against what the machine's matrix products allow."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.model.clock import Clock
from benchmarks.model.networks import Bench, build_bench
from benchmarks.model.table import Row
from vatt.model.transformer import Dense

CLIP = {"num_frames": 8, "frame_size_px": 112, "num_samples": 19_200}
BATCH_SIZE = 4
NUM_ROUNDS = 5
SIDE = 2048
NUM_SQUARES = 4
PAPER_DROPOUT_RATE = 0.1
ORIGINAL_SHARE = 0.95
"""The share of the float32 bound that the original's step reached, measured on another day."""


def measure(clock: Clock) -> list[Row]:
    """Return the rows of the table."""
    bench = build_bench("bbs.yaml", CLIP, BATCH_SIZE)
    tasks: dict[str, Callable[[], object]] = {
        "mkl": partial(multiply_squares, torch.ones(SIDE, SIDE)),
        "fp32": partial(multiply_squares_by_onednn, Dense(SIDE, SIDE), torch.ones(SIDE, SIDE)),
        "bf16": partial(multiply_squares, torch.ones(SIDE, SIDE, dtype=torch.bfloat16)),
        "adam": bench.optimizer.step,
    }
    for precision in ("fp32", "bf16"):
        for rate in (PAPER_DROPOUT_RATE, 0.0):
            tasks[f"{precision} step {rate}"] = partial(take_step, bench, precision, rate)
    products = {dtype: list_products(bench, dtype) for dtype in (torch.float32, torch.bfloat16)}
    tasks["bf16 shapes"] = partial(multiply_all, products[torch.bfloat16])
    tasks["mkl shapes"] = partial(multiply_all, products[torch.float32])
    bench.step(bf16=False)
    seconds = clock.time_in_turn(tasks, NUM_ROUNDS)
    shaped_flops = sum(product.flops for product in products[torch.float32])
    squares_flops = NUM_SQUARES * 2 * SIDE**3
    rates = {name: squares_flops / seconds[name] for name in ("mkl", "fp32", "bf16")}
    rates |= {name: shaped_flops / seconds[name] for name in ("mkl shapes", "bf16 shapes")}
    rates |= {name: bench.flops / seconds[name] for name in tasks if "step" in name}
    return _compare(rates, bench.flops, seconds["adam"])


def _compare(rates: dict[str, float], flops: float, adam_s: float) -> list[Row]:
    """Return the rows from FLOP/s; `flops` are those of a step."""

    def row(name: str, upper: str, lower: str, target: str = "") -> Row:
        detail = f"{rates[upper] / 1e9:.0f} / {rates[lower] / 1e9:.0f} GFLOP/s"
        return Row(name, rates[upper] / rates[lower], target, detail)

    rows = []
    for rate in (PAPER_DROPOUT_RATE, 0.0):
        fp32, bf16, dropout = f"fp32 step {rate}", f"bf16 step {rate}", f"dropout {rate}"
        rows += [
            row(f"fp32 step / torch's own product (MKL), {dropout}", fp32, "mkl", ">= 0.80"),
            row(f"fp32 step / fastest fp32 product (oneDNN), {dropout}", fp32, "fp32"),
            row(f"bf16 step / bf16 product, {dropout}", bf16, "bf16", ">= 0.60"),
            row(f"bf16 step / bf16 products of its own shapes, {dropout}", bf16, "bf16 shapes"),
        ]
        for name, bound in (("MKL", "mkl"), ("oneDNN", "fp32")):
            original = ORIGINAL_SHARE * rates[bound]
            limit = f"{ORIGINAL_SHARE} x {rates[bound] / 1e9:.0f}"
            detail = f"{rates[bf16] / 1e9:.0f} / {limit} GFLOP/s"
            title = f"original's step at 0.95 of {name} fp32 / our bf16 step, {dropout}"
            rows.append(Row(title, rates[bf16] / original, ">= 1.5", detail))
    step_s = flops / rates[f"bf16 step {PAPER_DROPOUT_RATE}"]
    rows.append(Row("Adam / bf16 step", adam_s / step_s, "", f"{adam_s:.3f} / {step_s:.3f} s"))
    return rows


def take_step(bench: Bench, precision: str, dropout_rate: float) -> None:
    """Take a training step with another dropout."""
    bench.set_dropout(dropout_rate)
    bench.step(bf16=precision == "bf16")


def multiply_squares(matrix: Tensor) -> None:
    """Multiply a matrix by itself, some times, by torch's own product."""
    for _ in range(NUM_SQUARES):
        matrix @ matrix


def multiply_squares_by_onednn(layer: Dense, matrix: Tensor) -> None:
    """Multiply a matrix by one of the same size, as many times, as our layers do."""
    with torch.no_grad():
        for _ in range(NUM_SQUARES):
            layer(matrix)


class Product(NamedTuple):
    """The factors of a linear layer and of its backward pass."""

    values: Tensor
    weight: Tensor
    gradient: Tensor

    @property
    def flops(self) -> int:
        """The FLOPs of the three products."""
        return 6 * len(self.values) * self.weight.numel()


def list_products(bench: Bench, dtype: torch.dtype) -> list[Product]:
    """Return the products of all linear layers of a forward pass, with their own weights."""
    products = []

    def note(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        values, gradient = (
            tensor.detach().flatten(0, -2).to(dtype) for tensor in (*inputs, output)
        )
        products.append(Product(values, layer.weight.detach().to(dtype), gradient))

    layers = [layer for layer in bench.objective.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    bench.objective(bench.batch)
    for hook in hooks:
        hook.remove()
    return products


def multiply_all(products: list[Product]) -> None:
    """Multiply what a step multiplies in linear layers, forward and backward."""
    for values, weight, gradient in products:
        values @ weight.t()
        gradient @ weight
        gradient.t() @ values
