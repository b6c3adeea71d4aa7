"""Shapes in signatures are checked while tests run; a second rank is a real process."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from tests.ranks import Ranks

CHECKED = [
    *("vatt.batch", "vatt.models", "vatt.losses", "vatt.distributed", "vatt.data.preprocessing"),
    *(f"vatt.data.{name}" for name in ("audio", "augment", "clips", "tokenizer", "video")),
]

jaxtyping.install_import_hook(CHECKED, "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks
