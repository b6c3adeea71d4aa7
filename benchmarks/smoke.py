"""Print the loss of a fixed seed to full precision: a refactor must not change it."""

from pathlib import Path

import torch

from vatt.core.batch import Batch
from vatt.model.losses import contrastive_loss
from vatt.model.vatt import Vatt
from vatt.params import ClipParams, load_params

VOCAB_SIZE = 100
BATCH_SIZE = 4
NUM_STEPS = 3


def draw_batch(clip: ClipParams) -> Batch:
    """Return noise in the shape of a batch; one clip has no sound, one lacks two captions."""
    size = clip.frame_size_px
    text_mask = torch.ones(BATCH_SIZE, clip.num_candidates, dtype=torch.bool)
    text_mask[1, -2:] = False
    return Batch(
        video=torch.rand(BATCH_SIZE, clip.num_frames, size, size, 3) * 2 - 1,
        audio=torch.rand(BATCH_SIZE, clip.num_samples) * 2 - 1,
        text=torch.randint(1, VOCAB_SIZE, (BATCH_SIZE, clip.num_candidates, clip.num_tokens)),
        audio_mask=torch.tensor([False, True, True, True]),
        text_mask=text_mask,
    )


def main() -> None:
    """Train a network of the sizes in params.yaml for three steps and print each loss."""
    params = load_params(Path("params.yaml"))
    torch.set_num_threads(1)
    torch.manual_seed(params.run.seed)
    model = Vatt(params.model, params.clip, VOCAB_SIZE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=params.pretrain.adam_epsilon)
    batch = draw_batch(params.clip)
    for step in range(NUM_STEPS):
        losses = contrastive_loss(model(batch), batch.audio_mask, batch.text_mask, params.loss)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        print(
            f"step {step}  loss {losses.total.item():.17g}"
            f"  video-audio {losses.video_audio.item():.17g}"
            f"  video-text {losses.video_text.item():.17g}"
        )


if __name__ == "__main__":
    main()
