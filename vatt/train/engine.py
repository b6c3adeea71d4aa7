"""The only module that knows DeepSpeed: forward, backward, update and the state of one rank."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]

from vatt.batch import Batch
from vatt.models.tower import collect_weights
from vatt.params import LaunchParams, PretrainParams, StageError

BUCKET_SIZE = 50_000_000
"""Elements that ranks exchange at once."""


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
        if launch.num_processes > torch.cuda.device_count():
            raise StageError(
                f"launch.num_processes = {launch.num_processes}: this machine has "
                f"{torch.cuda.device_count()} GPUs, and each process needs its own"
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


class Engine:
    """One rank's share of a module in training, under DeepSpeed ZeRO.

    `module` maps a batch to its losses, a vector whose first element is the one to minimise.
    Weights are float32; with bf16, matrix products run in bfloat16 (autocast).
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        pretrain: PretrainParams,
        launch: LaunchParams,
    ) -> None:
        self.device = join_processes(launch)
        deepspeed = _import_deepspeed(self.device)
        self._num_processes = launch.num_processes
        self._engine, _, _, _ = deepspeed.initialize(
            model=module.to(self.device),
            optimizer=optimizer,
            config=_build_config(pretrain, launch),
        )

    def compute_losses(self, batch: Batch) -> Float[Tensor, "K"]:
        """Return the losses of this rank's clips; their mean over the ranks is that of the step."""
        self._engine.train()
        losses: Tensor = self._engine(batch)
        return losses

    def update(self, loss: Float[Tensor, ""], settings: Mapping[str, float]) -> Float[Tensor, ""]:
        """Step the weights along the mean gradient of all ranks.

        `settings` are those of the optimizer for this step, such as `lr`.

        Returns:
            The norm of that gradient over all weights, before clipping.
        """
        self._engine.backward(loss)
        norm = self._own_gradient_norm() if self._engine.zero_optimization_stage() == 0 else None
        for group in self._engine.optimizer.param_groups:
            group.update(settings)
        self._engine.step()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.device)

    def save(self, directory: Path, tag: str, state: dict[str, Any]) -> None:
        """Write weights, optimizer and `state` below `directory/tag`; every rank must call it."""
        self._engine.save_checkpoint(
            str(directory), tag=tag, client_state={"state": state}, save_latest=False
        )

    def load(self, directory: Path, tag: str) -> dict[str, Any]:
        """Read what `save` wrote and return its `state`; every rank must call it.

        The files are pickles: only ever read what this run wrote.
        """
        _, content = self._engine.load_checkpoint(str(directory), tag=tag)
        state: dict[str, Any] = content["state"]
        return state

    def gather_weights(self) -> dict[str, Tensor]:
        """Return all weights and buffers of the module, on the CPU; every rank must call it.

        With ZeRO stage 3 only rank 0 receives them, the others an empty dictionary.
        """
        if self._engine.zero_optimization_stage() == 3:
            weights = self._engine._zero3_consolidated_16bit_state_dict()  # noqa: SLF001 - float32 here
        else:
            weights = self._engine.module.state_dict()
        names = collect_weights(self._engine.module)
        return {name: weights[name].detach().cpu() for name in names} if weights else {}

    def _own_gradient_norm(self) -> Tensor:
        """Return the norm that DeepSpeed leaves out without ZeRO and clipping."""
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)


def _import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for this device, silent, and without its compiled extensions."""
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # On a CPU it would compile an operator for shared memory, which takes a minute and leaves a
    # stale lock when killed; without it, it uses gloo.
    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def _build_config(pretrain: PretrainParams, launch: LaunchParams) -> dict[str, Any]:
    """Return DeepSpeed's configuration; what it would default to is written out."""
    return {
        "train_batch_size": pretrain.batch_size,
        "train_micro_batch_size_per_gpu": pretrain.batch_size // launch.num_processes,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": pretrain.gradient_clip_norm,
        "prescale_gradients": False,
        "zero_optimization": {
            "stage": launch.zero_stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": BUCKET_SIZE,
            "allgather_bucket_size": BUCKET_SIZE,
        },
        "zero_allow_untested_optimizer": False,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": launch.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "dump_state": False,
    }
