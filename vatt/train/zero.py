"""The configuration of DeepSpeed."""

from typing import Any

import torch

from vatt.params import LaunchParams, TrainingParams

BUCKET_SIZE = 50_000_000
"""Elements that ranks exchange at once."""
EXCHANGES = ("reduce", "allgather", "stage3_prefetch")
SMALL_WEIGHT = 100_000
"""Weights of fewer elements stay whole on every rank, under ZeRO-3 too."""


def build_config(training: TrainingParams, launch: LaunchParams) -> dict[str, Any]:
    """Return DeepSpeed's configuration; what it would default to is written out."""
    parts = launch.num_processes * training.accumulation_steps
    to_cpu = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    to_nowhere = {"device": "none"}
    return {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // parts,
        "gradient_accumulation_steps": training.accumulation_steps,
        "gradient_clipping": training.gradient_clip_norm,
        "prescale_gradients": False,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": launch.zero_stage,
            **dict.fromkeys(("contiguous_gradients", "reduce_scatter", "compute_grad_norm"), True),
            **dict.fromkeys(("overlap_comm", "round_robin_gradients"), False),
            **dict.fromkeys((f"{what}_bucket_size" for what in EXCHANGES), BUCKET_SIZE),
            "stage3_max_live_parameters": 20 * BUCKET_SIZE,
            "stage3_max_reuse_distance": 20 * BUCKET_SIZE,
            "stage3_param_persistence_threshold": SMALL_WEIGHT,
            "sub_group_size": 20 * BUCKET_SIZE,
            "offload_optimizer": to_nowhere if launch.offload == "none" else to_cpu,
            "offload_param": to_cpu if launch.offload == "optimizer_and_parameters" else to_nowhere,
        },
        # torch's also for weights on the CPU: DeepSpeed's own Adam would be compiled first, for minutes.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,  # SGD, which our tests compare on every stage
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "dump_state": False,
    }
