"""How a process of a run joins the others: its device, its threads, its process group."""

import os

import torch
import torch.utils.deterministic
from torch.distributed import HashStore  # type: ignore[attr-defined]

from vatt.params import LaunchParams, StageError


def join_processes(launch: LaunchParams) -> torch.device:
    """Join this process to the others of the run, once, and return its device.

    A GPU for each process where there are GPUs (nccl), else the CPU (gloo). torchrun says in the
    environment which rank this is; a run of one process needs no torchrun and opens no port.

    Raises:
        StageError: there are GPUs, but fewer than processes.
    """
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))  # DeepSpeed asks for it
    torch.set_num_threads(launch.threads_per_process)
    device = torch.device("cpu")
    # Several threads add the gradients of an indexed table in any order, unless told not to.
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    # Else every buffer that DeepSpeed allocates would be filled first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if torch.cuda.is_available():
        num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun: on this node
        if num_here > torch.cuda.device_count():
            raise StageError(
                f"launch.num_processes = {launch.num_processes}, {num_here} on this machine: it "
                f"has {torch.cuda.device_count()} GPUs, and each process needs its own"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        backend = "gloo" if device.type == "cpu" else "nccl"
        if launch.num_processes == 1:
            torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        else:
            torch.distributed.init_process_group(backend)
    return device
