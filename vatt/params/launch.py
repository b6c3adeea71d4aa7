"""Parameters of how training is launched: on which machines, and what follows a failure."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from vatt.params.section import Section

NAME = r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$"
"""The names that Kubernetes takes for its objects."""


class SupervisionParams(Section):
    """When an attempt to train counts as failed, and how often there is another one."""

    max_restarts: int = Field(default=3, ge=0)
    start_timeout_s: float = Field(default=900.0, gt=0)
    """The time from the start of the processes to the first step of each."""
    step_timeout_s: float = Field(default=300.0, gt=0)
    """The time that a process may take for a step, a checkpoint included."""
    link_timeout_s: float = Field(default=30.0, gt=0)
    """The silence after which a node counts as lost, and after which it ends its own processes."""


class SshParams(Section):
    """Nodes that are reached by ssh without a password and have this folder at the same path."""

    hostfile: Path = Path("configs/hostfile")
    """A line `host slots=N` for each node: at most N processes run there."""
    config: Path | None = None
    """A file for `ssh -F`; null uses the user's own."""


class SlurmParams(Section):
    """A job of Slurm."""

    num_nodes: int = Field(default=1, ge=1)
    partition: str | None = None
    time_limit: str = Field(default="1-00:00:00", pattern=r"^(\d+-)?\d+(:\d+){0,2}$")
    gpus_per_node: int = Field(default=0, ge=0)
    cpus_per_node: int = Field(default=1, ge=1)
    options: tuple[str, ...] = ()
    """Further options of sbatch, such as `--account=speech`."""


class KubernetesParams(Section):
    """An Indexed Job of one pod for each node."""

    num_nodes: int = Field(default=1, ge=1)
    namespace: str = Field(default="default", pattern=NAME)
    image: str = "vatt:latest"
    """Built with the Dockerfile of this project; the folder /app/data may be empty in it."""
    volume_claim: str = Field(default="vatt", pattern=NAME)
    """A ReadWriteMany claim that holds this folder, mounted in every pod as its current folder."""
    gpus_per_pod: int = Field(default=0, ge=0)
    cpus_per_pod: int = Field(default=4, ge=1)
    memory_gib: int = Field(default=16, ge=1)
    apply: bool = False
    """Whether kubectl creates the job and waits for it; otherwise only the manifest is written."""


class LaunchParams(Section):
    """Where and how training, evaluation and preprocessing run.

    Only `precision` and `compile` can change more of a number than its last digits. A new key that
    cannot belongs into `SUMS_ONLY` or `NO_EFFECT` of vatt/train/recipe.py, else it gives every run
    another name.
    """

    num_processes: int = Field(ge=1)
    """The processes on all nodes together; torchrun starts them where there is more than one."""
    threads_per_process: int = Field(ge=1)
    loader_workers: int = Field(ge=0)
    """The processes that decode clips for each training process."""
    shards_url: str | None = None
    """The place of the shards, any address that fsspec knows; null is data/preprocess/shards."""
    shard_cache_gib: float = Field(default=50.0, gt=0)
    """The most that a machine keeps on its disk of what it read from `shards_url`."""
    zero_stage: Literal[0, 1, 2, 3]
    offload: Literal["none", "optimizer", "optimizer_and_parameters"]
    """What is kept in the memory of the CPU while a GPU trains."""
    precision: Literal["fp32", "bf16", "fp16"]
    """The type of matrix products; fp16 has a loss scale that adapts. Weights are always
    float32."""
    compile: bool
    """Whether torch.compile compiles the network."""
    recompute_activations: bool
    """Whether to keep only what enters each block, and compute the rest again in the backward
    pass."""
    ray_address: str | None
    """The Ray cluster that preprocesses: host:port, or auto for the one that this machine is part
    of; null uses all cores of this machine."""
    launcher: Literal["local", "ssh", "slurm", "kubernetes"] = "local"
    """Where the processes run: on this machine, or on the nodes of a section below."""
    port: int | None = Field(default=None, ge=1024, le=65535)
    """The port of the first node at which the processes meet; null takes a free one."""
    supervision: SupervisionParams = SupervisionParams()
    ssh: SshParams = SshParams()
    slurm: SlurmParams = SlurmParams()
    kubernetes: KubernetesParams = KubernetesParams()
