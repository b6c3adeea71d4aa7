"""The only module that knows DeepSpeed: forward, backward, update and the state of one rank."""

import importlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]

from vatt.core.batch import Batch, LabelledBatch
from vatt.core.errors import StageError
from vatt.model.towers import collect_weights
from vatt.params import LaunchParams, TrainingParams

BUCKET_SIZE = 50_000_000
"""Elements that ranks exchange at once."""
SMALL_WEIGHT = 100_000
"""Weights of fewer elements stay whole on every rank, under ZeRO-3 too."""
ADAM_MOMENTS, SGD_MOMENTS = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)
"""What an optimizer keeps for each weight, as torch calls it."""
FIRST_LOSS_SCALE, GROWTH_STEPS = 2.0**16, 1000
"""The loss scale of fp16 halves when a gradient overflows, and doubles after so many steps that
did not."""


def build_config(training: TrainingParams, launch: LaunchParams) -> dict[str, Any]:
    """Return DeepSpeed's configuration; what it would default to is written out."""
    num_parts = launch.num_processes * training.accumulation_steps
    nowhere = {"device": "none"}
    to_cpu = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    exchanges = ("reduce", "allgather", "stage3_prefetch")
    return {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // num_parts,
        "gradient_accumulation_steps": training.accumulation_steps,
        "gradient_clipping": training.gradient_clip_norm,
        "prescale_gradients": False,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": launch.zero_stage,
            **dict.fromkeys(("contiguous_gradients", "reduce_scatter", "compute_grad_norm"), True),
            **dict.fromkeys(("overlap_comm", "round_robin_gradients"), False),
            **dict.fromkeys((f"{each}_bucket_size" for each in exchanges), BUCKET_SIZE),
            "stage3_max_live_parameters": 20 * BUCKET_SIZE,
            "stage3_max_reuse_distance": 20 * BUCKET_SIZE,
            "stage3_param_persistence_threshold": SMALL_WEIGHT,
            "sub_group_size": 20 * BUCKET_SIZE,
            "offload_optimizer": nowhere if launch.offload == "none" else to_cpu,
            "offload_param": to_cpu if launch.offload == "optimizer_and_parameters" else nowhere,
        },
        # torch's Adam on the CPU, too: DeepSpeed's own would be compiled first, for minutes.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,  # SGD, which our tests compare on every stage
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "dump_state": False,
    }


def join_processes(launch: LaunchParams) -> torch.device:
    """Join this process to the others of the run, once, and return its device.

    Each process has a GPU of its own where there are GPUs (nccl), else the CPU (gloo). torchrun
    names the rank in the environment; a run of one process needs no torchrun and opens no port.

    Raises:
        StageError: there are GPUs, but fewer than processes.
    """
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))  # DeepSpeed reads it
    torch.set_num_threads(launch.threads_per_process)
    device, backend = torch.device("cpu"), "gloo"
    # By default, several threads add the gradients of an indexed table in any order.
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    # Else every buffer that DeepSpeed allocates would be filled first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if torch.cuda.is_available():
        num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, on this node
        if num_here > torch.cuda.device_count():
            raise StageError(
                f"launch.num_processes = {launch.num_processes}, {num_here} on this machine: it "
                f"has {torch.cuda.device_count()} GPUs, and each process needs its own"
            )
        device, backend = torch.device("cuda", local_rank), "nccl"
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        alone: dict[str, Any] = {"store": HashStore(), "rank": 0, "world_size": 1}
        options = alone if launch.num_processes == 1 else {}
        torch.distributed.init_process_group(backend, **options)
    return device


class Engine:
    """One rank's share of a module in training, under DeepSpeed ZeRO.

    `module` maps a batch to its losses, a vector whose first element is the one to minimise. If it
    has a method `after_update`, that is called after every update that was done. `optimizer` is
    Adam, AdamW, or SGD with momentum. Weights, moments and exchanged gradients are float32; with
    bf16 and fp16, matrix products run in that type (autocast).
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        training: TrainingParams,
        launch: LaunchParams,
    ) -> None:
        self.device = join_processes(launch)
        deepspeed = _import_deepspeed(self.device)
        self._zero, self._tensors = deepspeed.zero, deepspeed.utils
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(launch.precision)
        self.precision = torch.autocast(self.device.type, dtype, enabled=dtype is not None)
        self._module, self._optimizer = module.to(self.device), optimizer
        self._is_adam = isinstance(optimizer, torch.optim.Adam)
        self._moments = ADAM_MOMENTS if self._is_adam else SGD_MOMENTS
        if launch.compile:
            self._module.compile()
        self._module.forward = self.precision(self._module.forward)
        self._engine, self._sharded, _, _ = deepspeed.initialize(
            model=self._module, optimizer=optimizer, config=build_config(training, launch)
        )
        self._engine.enable_backward_allreduce = launch.num_processes > 1 or launch.zero_stage > 0
        self._stage = launch.zero_stage
        self._after_update: Callable[[], None] = getattr(module, "after_update", lambda: None)
        self._trained = [each for each in module.named_parameters() if each[1].requires_grad]
        self._create_moments()
        self._statistics = [each for each in module.buffers() if each.is_floating_point()]
        self._statistics_before: list[Tensor] | None = None
        self.loss_scale = FIRST_LOSS_SCALE if launch.precision == "fp16" else None
        self._steps_at_scale, self._num_updates = 0, 0

    def compute_losses(self, batch: Batch | LabelledBatch) -> Float[Tensor, "K"]:
        """Return the losses of this rank's clips; their mean over the ranks is that of the step."""
        self._engine.train()
        # Each part of a batch moves the statistics; what they were before all of them is kept.
        if self._statistics_before is None:
            self._statistics_before = [each.clone() for each in self._statistics]
        losses: Tensor = self._engine(batch)
        return losses

    def accumulate(self, loss: Float[Tensor, ""]) -> None:
        """Add the gradient of one part of a batch; `update` takes the last one."""
        scale = self.loss_scale or 1.0
        if self._stage == 0:
            loss = loss * scale
        else:
            self._sharded.override_loss_scale(scale)
        self._engine.backward(loss)  # divides by the number of parts
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def update(self, loss: Float[Tensor, ""], settings: Sequence[Mapping[str, float]]) -> float:
        """Step the weights along the mean gradient of all ranks and parts.

        `settings` are those of each group of the optimizer for this step, such as `lr`. A gradient
        that is not finite is not followed: weights, moments and statistics stay what they were.

        Returns the norm of that gradient over all weights, before clipping; infinite if not finite.

        Raises:
            StageError: in fp16, gradients overflow at every scale.
        """
        self.accumulate(loss)
        norm = self._finish_gradients() if self._stage == 0 else math.inf
        for group, changed in zip(self._engine.optimizer.param_groups, settings, strict=True):
            group.update(changed)
        self._engine.step()
        if self._stage > 0 and not self._sharded.overflow:
            norm = float(self._engine.get_global_grad_norm())
        if math.isfinite(norm):
            self._num_updates += 1
            self._after_update()
        else:
            for now, before in zip(self._statistics, self._statistics_before or [], strict=True):
                now.copy_(before)
        self._statistics_before = None
        if self.loss_scale is not None:
            self._adapt_loss_scale(overflow=not math.isfinite(norm))
        return norm if math.isfinite(norm) else math.inf

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Yield the module in evaluation mode, without gradients; every rank must use it alike."""
        self._engine.eval()
        with torch.no_grad(), self.precision:
            yield self._module

    def gather_weights(self) -> dict[str, Tensor]:
        """Return all weights and buffers of the module, on the CPU; every rank must call it.

        With ZeRO stage 3 only rank 0 receives them, the others an empty dictionary.
        """
        if self._stage == 3:
            weights = self._engine._zero3_consolidated_16bit_state_dict()  # noqa: SLF001 - float32 here
        else:
            weights = self._module.state_dict()
        names = collect_weights(self._module) if weights else {}
        return {name: weights[name].detach().cpu() for name in names}

    def gather_state(self) -> dict[str, Tensor]:
        """Return a copy of weights and moments on the CPU; every rank must call it.

        Whole tensors under names that hold for any number of ranks and any ZeRO stage: what one run
        gathered, another restores. Only rank 0 receives them, the others an empty dictionary.
        """
        first = torch.distributed.get_rank() == 0
        weights = self.gather_weights() if first or self._stage == 3 else {}
        state = {f"weights/{name}": weight.clone() for name, weight in weights.items() if first}
        for name, parameter in self._trained:
            for moment in self._moments:
                if self._stage == 0:
                    whole = self._optimizer.state[parameter][moment]
                else:
                    whole = self._tensors.safe_get_full_optimizer_state(parameter, moment)
                if first:
                    state[f"{moment}/{name}"] = whole.to("cpu", copy=True)
        return state

    def restore_state(self, state: Mapping[str, Tensor], counts: Mapping[str, float]) -> None:
        """Load what `gather_state` and `counts` returned; every rank must call it.

        `state` is read on rank 0 only. Raise KeyError for that of another module.
        """
        for name, weight in collect_weights(self._module).items():
            # Under ZeRO-3 each rank has a part of a weight; otherwise nothing happens here.
            with self._zero.GatheredParameters([weight], modifier_rank=0):
                weight.data.copy_(self._receive(state, f"weights/{name}", weight))
        if self._stage > 0:
            self._sharded.refresh_fp32_params()
        for name, parameter in self._trained:
            for moment in self._moments:
                whole = self._receive(state, f"{moment}/{name}", parameter)
                if self._stage == 0:
                    self._optimizer.state[parameter][moment].copy_(whole)
                else:
                    self._tensors.safe_set_full_optimizer_state(parameter, whole, moment)
        self._num_updates = int(counts["num_updates"])
        for kept in self._optimizer.state.values():
            if self._is_adam:
                kept["step"].fill_(self._num_updates)
        if self.loss_scale is not None:
            self.loss_scale = counts["loss_scale"]
            self._steps_at_scale = int(counts["steps_at_scale"])

    def counts(self) -> dict[str, float]:
        """Return the numbers beside the tensors: updates done and, in fp16, the loss scale."""
        counts = {"num_updates": float(self._num_updates)}
        if self.loss_scale is not None:
            counts |= {"loss_scale": self.loss_scale, "steps_at_scale": self._steps_at_scale}
        return counts

    def _create_moments(self) -> None:
        """Create the state of the optimizer before its first update, so that it can be restored.

        SGD would begin with the gradient itself, which is what momentum makes of a zero.
        """
        flat = [parameter for _, parameter in self._trained]
        if self._stage in (1, 2):
            flat = self._sharded.single_partition_of_fp32_groups
        elif self._stage == 3:
            flat = self._sharded.fp32_partitioned_groups_flat
        for weights in flat:
            state = {moment: torch.zeros_like(weights) for moment in self._moments}
            if self._is_adam:
                counted_on = weights.device if self._optimizer.defaults["fused"] else "cpu"
                state["step"] = torch.zeros((), device=counted_on)
            self._optimizer.state[weights] = state
        if self._stage in (1, 2):
            self._sharded._lazy_init_hp_params_optimizer_state()  # noqa: SLF001 - links parts to weights

    def _receive(self, state: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
        """Return a tensor of rank 0's `state` on this rank."""
        shape = getattr(like, "ds_shape", like.shape)  # a ZeRO-3 weight is empty itself
        whole = torch.empty(shape, dtype=like.dtype, device=self.device)
        if torch.distributed.get_rank() == 0:
            whole.copy_(state[name])
        torch.distributed.broadcast(whole, src=0)
        return whole

    def _finish_gradients(self) -> float:
        """Unscale gradients without ZeRO and return their norm; drop them if it is not finite."""
        gradients = [each.grad for _, each in self._trained if each.grad is not None]
        if self.loss_scale is not None:
            for gradient in gradients:
                gradient.div_(self.loss_scale)
        norm = float(nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            for _, parameter in self._trained:
                parameter.grad = None  # which Adam leaves out
        return norm

    def _adapt_loss_scale(self, *, overflow: bool) -> None:
        assert self.loss_scale is not None
        self._steps_at_scale = 0 if overflow else self._steps_at_scale + 1
        if overflow:
            self.loss_scale /= 2
        elif self._steps_at_scale == GROWTH_STEPS:
            self.loss_scale, self._steps_at_scale = self.loss_scale * 2, 0
        if self.loss_scale < 1:
            raise StageError(
                "launch.precision = fp16: gradients overflow at every loss scale; use bf16"
            )


def preload() -> None:
    """Import what an engine imports when it starts, seconds of work, for processes to be forked.

    On a machine with GPUs this does nothing: a process that has looked for them cannot be forked.
    """
    if torch.cuda.device_count() == 0:
        _import_deepspeed(torch.device("cpu"))
        for name in ("deepspeed.compile.inductor", "torch.utils.tensorboard"):
            importlib.import_module(name)


def _import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for this device, silent, and without its compiled extensions."""
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # On a CPU it would compile an operator for a minute, and leave a lock when killed.
    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed
