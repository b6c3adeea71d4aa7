"""How fast a device multiplies in the precision of a run, and whether it emulates it."""

import time

import torch

from vatt.model.transformer import Dense
from vatt.train.engine import Engine

NUM_TRIES = 5
SIDES = (128, 256, 512, 1024, 2048, 4096, 8192)
ENOUGH_S = 0.005
"""The time of a product beyond which larger ones are no faster: 1024 on two cores, 8192 on a GPU.
Emulated types reach it at 256; there a product of 1024 takes seconds."""
INSTRUCTIONS = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""What torch calls the instructions of CPUs for a precision: two of Intel's and AMD's, one of
ARM's. AVX-512 alone has none: there oneDNN converts to float32 and back."""


def find_emulation(precision: str) -> str | None:
    """Return in words that this machine trains on a CPU without instructions for a precision.

    None where it has them, or a GPU.
    """
    needed = INSTRUCTIONS.get(precision, ())
    has = torch.cpu.get_capabilities()
    if not needed or torch.cuda.device_count() or any(has.get(name) for name in needed):
        return None
    return (
        f"launch.precision = {precision}: this CPU has no instructions for it "
        f"({' or '.join(needed)}): it is emulated, and a step may take minutes; "
        "launch.precision: fp32 is far faster here"
    )


def measure_peak(engine: Engine) -> float:
    """Return the FLOPs per second of the fastest matrix product on this device.

    The products are those of the model's own layer, forward and backward, and so by the same
    library, in the precision of the run, of growing sizes.
    """
    peak = 0.0
    for side in SIDES:
        layer = Dense(side, side, bias=False, device=engine.device)
        rows = torch.rand(side, side, device=engine.device, requires_grad=True)
        forward_s = backward_s = float("inf")
        for _ in range(NUM_TRIES):
            start_s = time.perf_counter()
            with engine.precision:
                product = layer(rows)
            float(product.detach()[0, 0])  # waits for a GPU
            multiplied_s = time.perf_counter()
            gradients = torch.autograd.grad(product, (rows, layer.weight), product)
            float(gradients[1][0, 0])
            forward_s = min(forward_s, multiplied_s - start_s)
            backward_s = min(backward_s, time.perf_counter() - multiplied_s)
        peak = max(peak, 2 * side**3 / forward_s, 4 * side**3 / backward_s)
        if forward_s > ENOUGH_S:
            break
    return peak
