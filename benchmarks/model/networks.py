"""The paper's networks on inputs that a CPU can bear, and their training step without an engine."""

from dataclasses import dataclass
from pathlib import Path

import torch

from vatt.core.batch import Batch
from vatt.model.cost import add_costs, count_clip
from vatt.model.transformer import Attention, Dropout, Encoder
from vatt.model.vatt import Vatt
from vatt.params import ClipParams, load_params
from vatt.train.pretraining import Objective, build_optimizer

CONFIGS_DIR = Path(__file__).parents[2] / "configs"
VOCAB_SIZE = 65_536


@dataclass(frozen=True)
class Bench:
    """A network with its optimizer and a batch of noise."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    batch: Batch
    flops: int
    """The matrix products of a step, forward and backward."""

    def step(self, *, bf16: bool) -> None:
        """Take one training step; with bf16, matrix products run in bfloat16 as in the engine."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = self.objective(self.batch)[0]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def set_dropout(self, rate: float) -> None:
        """Change the rate of all dropout."""
        for module in self.objective.modules():
            if isinstance(module, Dropout):
                module.p = rate
            elif isinstance(module, Attention):
                module.dropout_rate = rate

    def set_recomputation(self, *, recomputes: bool) -> None:
        """Change whether encoders compute activations again in the backward pass."""
        for module in self.objective.modules():
            if isinstance(module, Encoder):
                module.recomputes = recomputes

    def set_drop_token(self, rate: float) -> None:
        """Change the share of tokens that is dropped."""
        model = self.objective.model
        for tower in (model.video, model.audio):
            tower.stem.drop_token.rate = rate


def build_bench(config: str, clip: dict[str, int], batch_size: int) -> Bench:
    """Build the network of a file in configs/ for clips of other sizes, with Adam."""
    torch.manual_seed(0)
    params = load_params(CONFIGS_DIR / config)
    clip_params = params.clip.model_copy(update=clip)
    objective = Objective(Vatt(params.model, clip_params, VOCAB_SIZE), params.loss).train()
    optimizer = build_optimizer(objective.parameters(), params.pretrain)
    batch = draw_batch(clip_params, batch_size)
    cost = count_clip(objective.model, clip_params, params.model.drop_token_rate)
    return Bench(objective, optimizer, batch, batch_size * add_costs(cost.values()).training)


def draw_batch(clip: ClipParams, batch_size: int) -> Batch:
    """Return noise in the shape of a batch, with sound and captions everywhere."""
    size = clip.frame_size_px
    texts = (batch_size, clip.num_candidates)
    return Batch(
        video=torch.rand(batch_size, clip.num_frames, size, size, 3) * 2 - 1,
        audio=torch.rand(batch_size, clip.num_samples) * 2 - 1,
        text=torch.randint(1, VOCAB_SIZE, (*texts, clip.num_tokens)),
        audio_mask=torch.ones(batch_size, dtype=torch.bool),
        text_mask=torch.ones(texts, dtype=torch.bool),
    )
