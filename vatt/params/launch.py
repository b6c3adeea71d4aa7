"""Parameters of how training is launched: on which machines, and what becomes of a failure."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from vatt.params.section import Section

NAME = r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$"
"""Of an object in Kubernetes."""


class SupervisionParams(Section):
    """When an attempt to train counts as failed, and how often there is another one."""

    max_restarts: int = Field(default=3, ge=0)
    start_timeout_s: float = Field(default=900.0, gt=0)
    """From the start of the processes to the first step of each."""
    step_timeout_s: float = Field(default=300.0, gt=0)
    """Of a process without a new step; longer than a checkpoint takes."""
    link_timeout_s: float = Field(default=30.0, gt=0)
    """Silence after which a node counts as lost, and after which a node ends its processes."""


class SshParams(Section):
    """Nodes that this machine reaches by ssh without a password, with this folder at the same path."""

    hostfile: Path = Path("configs/hostfile")
    """A line `host slots=N` for each node: at most N processes run there."""
    config: Path | None = None
    """A file for `ssh -F`; null uses that of the user."""


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
    """True: kubectl creates the job and it is waited for; false: the manifest is written only."""


class LaunchParams(Section):
    """How training runs, apart from what it computes."""

    num_processes: int = Field(ge=1)
    """Over all nodes; above 1 they are started by torchrun."""
    threads_per_process: int = Field(ge=1)
    loader_workers: int = Field(ge=0)
    """Processes that decode clips, for each training process."""
    shards_url: str | None = None
    """Where the shards of the corpus are: any address that fsspec knows; null: data/preprocess/shards."""
    shard_cache_gib: float = Field(default=50.0, gt=0)
    """Of what was read from `shards_url`, the most that is kept on the disk of a machine."""
    zero_stage: Literal[0, 1, 2, 3]
    offload: Literal["none", "optimizer", "optimizer_and_parameters"]
    """What lies in the memory of the CPU while a GPU trains."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Of matrix products; fp16 with a loss scale that adapts. Weights are float32."""
    compile: bool
    """Compile the network with torch.compile."""
    recompute_activations: bool
    """Keep only what enters each block, and compute the rest again in the backward pass."""
    ray_address: str | None
    """The Ray cluster that preprocesses: host:port, or auto for the one that this machine belongs to;
    null uses all cores of this machine."""
    launcher: Literal["local", "ssh", "slurm", "kubernetes"] = "local"
    """Where the processes run: on this machine, or on the nodes of a section below."""
    port: int | None = Field(default=None, ge=1024, le=65535)
    """On the first node, where the processes meet; null takes a free one."""
    supervision: SupervisionParams = SupervisionParams()
    ssh: SshParams = SshParams()
    slurm: SlurmParams = SlurmParams()
    kubernetes: KubernetesParams = KubernetesParams()
