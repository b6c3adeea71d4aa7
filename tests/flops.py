"""Counts matrix products by torch's own counter."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count what is computed inside; the counter does not know oneDNN and fused attention."""
    with (
        warnings.catch_warnings(action="ignore"),  # torch warns of GPUs that are not used
        torch.backends.mkldnn.flags(enabled=False),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        yield counter
