"""Shapes in signatures are checked while tests run; a second rank is a real process."""

import signal
from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from tests.ranks import Ranks

CHECKED = [
    *("vatt.core.batch", "vatt.core.distributed", "vatt.corpus.tokenizer", "vatt.model"),
    *("vatt.loading.augmentation", "vatt.loading.clips", "vatt.preprocess"),
    *("vatt.media.audio", "vatt.media.video"),
]

pytest_plugins = ["tests.known_corpus"]

jaxtyping.install_import_hook(CHECKED, "beartype.beartype")
torch.set_num_threads(1)
# A shell starts background jobs with SIGINT ignored, and so would be all processes of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks
