"""The model with its loss (VATT sections 3.3 and 3.4): what is trained."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vatt.batch import Batch
from vatt.losses.contrastive import contrastive_loss
from vatt.models.vatt import Vatt
from vatt.params import LossParams

PARTS = ("loss", "loss_va", "loss_vt")
"""What the objective returns."""


class Objective(nn.Module):
    """Maps a batch to its losses."""

    def __init__(self, model: Vatt, loss: LossParams) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch) -> Float[Tensor, "3"]:
        """Return the loss to minimise, its video-audio and its video-text part."""
        losses = contrastive_loss(self.model(batch), batch.audio_mask, batch.text_mask, self._loss)
        return torch.stack([losses.total, losses.video_audio, losses.video_text])
