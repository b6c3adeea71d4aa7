"""Clips compared chunk by chunk: the same loss and gradient, and memory that falls with the chunk."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.tiny import LOSS
from vatt.model.losses import nce_loss
from vatt.params import LossParams

NUM_CLIPS, NUM_CANDIDATES = 256, 2
SCORE_BYTES = 4 * NUM_CLIPS * NUM_CANDIDATES
"""Of the scores of one clip with the candidates of all clips."""

FORMS = [
    LOSS,
    LOSS.model_copy(update={"positives": "once"}),
    LOSS.model_copy(update={"form": "symmetric"}),
]
every_form = pytest.mark.parametrize("params", FORMS, ids=["twice", "once", "symmetric"])


class PeakMemory(TorchDispatchMode):
    """Measures the most bytes of tensors made inside that lived at one time, backward pass included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes: int = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        _types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in self._live:
                storage = tensor.untyped_storage()
                self._live[id(storage)] = storage.nbytes()
                weakref.finalize(storage, self._live.pop, id(storage))
        self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))
        return result


def draw(num_clips: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(num_clips, 4, generator=generator)
    candidates = torch.randn(num_clips, NUM_CANDIDATES, 4, generator=generator)
    mask = torch.rand(num_clips, NUM_CANDIDATES, generator=generator) < 0.7
    return video.requires_grad_(), candidates.requires_grad_(), mask


def measure(params: LossParams) -> int:
    video, candidates, mask = draw(NUM_CLIPS)
    memory = PeakMemory()
    with memory:
        nce_loss(video, candidates, mask, params).backward()
    return memory.peak_bytes


@every_form
@pytest.mark.parametrize("rows_per_chunk", [1, 4, 6, 100])
def test_equals_all_at_once_in_value_and_gradient(params: LossParams, rows_per_chunk: int) -> None:
    video, candidates, mask = draw(12)
    chunked = params.model_copy(update={"rows_per_chunk": rows_per_chunk})
    expected, loss = (nce_loss(video, candidates, mask, each) for each in (params, chunked))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for gradient, whole in zip(
        torch.autograd.grad(loss, [video, candidates]),
        torch.autograd.grad(expected, [video, candidates]),
        strict=True,
    ):
        torch.testing.assert_close(gradient, whole, rtol=1e-5, atol=1e-7)


@every_form
def test_peak_memory_falls_with_the_chunk(params: LossParams) -> None:
    all_at_once = measure(params)
    assert all_at_once > 2 * NUM_CLIPS * SCORE_BYTES  # both directions
    for rows in (64, 16):
        peak_bytes = measure(params.model_copy(update={"rows_per_chunk": rows}))
        # Both directions, their exponentials and gradients; and the embeddings of all clips.
        assert peak_bytes < 6 * (rows + 8) * SCORE_BYTES
