"""Whether a node has the memory that its ranks will need, said before they train."""

import os
import socket
from pathlib import Path

import psutil
import torch

from vatt.models.accounting import Weights, count_weights
from vatt.models.memory import FLOAT_BYTES, estimate_activations, estimate_state_bytes
from vatt.models.vatt import Vatt
from vatt.params import ClipParams, LaunchParams, PretrainParams, StageError

CONTAINER = Path("/sys/fs/cgroup")
"""As a process in a container sees its own control group (version 2)."""
GIB = 2**30


def require_memory(
    model: Vatt,
    clip: ClipParams,
    drop_token_rate: float,
    pretrain: PretrainParams,
    launch: LaunchParams,
) -> None:
    """Compare what this rank will hold, by formula, with what is free on its GPU or on its node.

    `model` has its weights already. The formula is that of a GPU without what is small, so that
    what it refuses would have failed; on CPUs the first rank of a node answers for all there.

    Raises:
        StageError: there is too little; the message names node, need and what is free.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    has_gpus = torch.cuda.is_available()
    if not has_gpus and local_rank > 0:
        return
    weights = Weights(*(sum(column) for column in zip(*count_weights(model).values(), strict=True)))
    state = estimate_state_bytes(weights, launch.num_processes, launch.zero_stage)
    num_clips = pretrain.batch_size // (launch.num_processes * pretrain.accumulation_steps)
    left = estimate_activations(model, clip, drop_token_rate, launch.precision)
    again = left.between + left.again
    one_clip = left.clip + (again if launch.recompute_activations else left.kept)
    if has_gpus:
        state -= _count_offloaded(weights, launch)
        free, where = torch.cuda.mem_get_info(local_rank)[0], f"GPU {local_rank}"
        num_here = 1
    else:
        state -= FLOAT_BYTES * sum(weights)  # these are there already
        free, where = _find_free_bytes(), "the machine"
    need = num_here * (state + num_clips * one_clip)
    if need > free:
        raise StageError(
            f"{socket.gethostname()}: too little memory: {num_here} processes there need "
            f"{need / GIB:.1f} GiB ({num_here * state / GIB:.1f} for weights, gradients and Adam, "
            f"{num_here * num_clips * one_clip / GIB:.1f} for {num_clips} clips each, by "
            f"docs/scaling.md), and {where} has {free / GIB:.1f} GiB free. More processes, "
            "launch.zero_stage, launch.offload or launch.recompute_activations need less"
        )


def _count_offloaded(weights: Weights, launch: LaunchParams) -> float:
    """Return the bytes of the state that lie in the memory of the CPU while a GPU trains."""
    if launch.offload == "none":
        return 0.0
    optimizer = FLOAT_BYTES * weights.trainable * 3 / launch.num_processes
    whole = launch.offload == "optimizer_and_parameters"
    return optimizer + whole * FLOAT_BYTES * sum(weights) / launch.num_processes


def _find_free_bytes() -> int:
    """Return the memory that processes can still get here, in a container within its limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used, details = (
            (CONTAINER / f"memory.{name}").read_text(encoding="utf-8")
            for name in ("max", "current", "stat")
        )
    except OSError:
        return free
    if not limit.strip().isdigit():  # "max"
        return free
    # Pages of files that nobody has read of late are given back when memory is asked for.
    pages = dict(line.split() for line in details.splitlines())
    return min(free, int(limit) - int(used) + int(pages.get("inactive_file", 0)))
