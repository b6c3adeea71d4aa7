"""What each kind of training brings to the engine and to the loop."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vatt.batch import Batch, LabelledBatch
from vatt.data.loading.order import TrainingOrder
from vatt.data.loading.stores import RangeCache, RemoteShards
from vatt.models.accounting import Cost
from vatt.params import LaunchParams
from vatt.train.loop import Validation

SHARD_CACHE_DIR = Path(".cache/shards")


@dataclass(frozen=True)
class Setup:
    """All but the engine and the loop.

    objective: maps a batch to its losses, as many as there are names in `parts`; the first one is
    minimised. settings: from the number of an update, counted from 1, those of each group of the
    optimizer. select_weights: of all weights of the objective those that are the result, by their
    names there. cost: of one clip in training, None where it is not counted.
    """

    objective: nn.Module
    parts: tuple[str, ...]
    optimizer: torch.optim.Optimizer
    settings: Callable[[int], Sequence[Mapping[str, float]]]
    open_batches: Callable[[TrainingOrder], Iterable[Batch | LabelledBatch]]
    validation: Validation | None
    select_weights: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    cost: Cost | None = None


def open_shards(launch: LaunchParams, index_digest: str) -> RemoteShards | None:
    """Return where the shards of an index are; None is the folder of the corpus."""
    if launch.shards_url is None:
        return None
    cache = RangeCache(SHARD_CACHE_DIR, int(launch.shard_cache_gib * 2**30))
    return RemoteShards(launch.shards_url, cache, index_digest)
