"""The whole model: sizes of the paper, shapes, bf16, and two ranks against one process."""

import pytest
import torch
from torch import Tensor, nn

from tests.ranks import Ranks
from tests.tiny import TINY_MODEL
from vatt.batch import Batch
from vatt.losses.contrastive import contrastive_loss
from vatt.models.vatt import Vatt
from vatt.params import ClipParams, LossParams, ModelParams, TowerSize

PAPER_CLIP = ClipParams(
    num_frames=32, frame_size_px=224, num_samples=153_600, num_tokens=16, num_candidates=5
)
PAPER_MODEL = TINY_MODEL.model_copy(
    update={
        "video": "base",
        "audio": "base",
        "text": "small",
        "video_patch": (4, 16, 16),
        "audio_patch": 128,
        "word_width": 300,
        "train_word_table": False,
        "space_va_width": 512,
        "space_vt_width": 256,
        "post_projection_width": 1024,
    }
)
TOWER = TowerSize(num_layers=2, width=32, mlp_width=64, num_heads=4, head_width=8)
CLIP = ClipParams(num_frames=4, frame_size_px=16, num_samples=96, num_tokens=6, num_candidates=3)
MODEL = PAPER_MODEL.model_copy(
    update={
        "video": TOWER,
        "audio": TOWER,
        "text": TOWER,
        "video_patch": (2, 8, 8),
        "audio_patch": 8,
        "word_width": 12,
        "train_word_table": True,
        "space_va_width": 20,
        "space_vt_width": 10,
        "dropout_rate": 0.0,
        "drop_token_rate": 0.0,
    }
)
LOSS = LossParams(temperature=0.07, weight_va=1.0, weight_vt=1.0, valid_mean="global")


def count_trainable(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters() if tensor.requires_grad)


@pytest.mark.parametrize(
    ("video", "audio", "num_video", "num_audio", "num_total"),
    [
        ("base", "base", 87_446_016, 86_078_976, 193_877_292),
        ("medium", "base", 154_343_424, 86_078_976, 260_905_772),
        ("large", "base", 305_498_112, 86_078_976, 412_060_460),
        ("base", "medium", 87_446_016, 152_520_704, None),
        ("base", "large", 87_446_016, 303_675_392, None),
    ],
)
def test_number_of_weights_of_the_papers_models(
    video: str, audio: str, num_video: int, num_audio: int, num_total: int | None
) -> None:
    params = PAPER_MODEL.model_copy(update={"video": video, "audio": audio})
    with torch.device("meta"):
        model = Vatt(params, PAPER_CLIP, vocab_size=65_536)
    assert count_trainable(model.video) == num_video
    assert count_trainable(model.audio) == num_audio
    assert count_trainable(model.text) == 19_038_252
    assert model.words.weight.numel() == 19_660_800
    if num_total is not None:
        assert count_trainable(model) == num_total


def build_model(params: ModelParams = MODEL) -> Vatt:
    torch.manual_seed(0)
    return Vatt(params, CLIP, vocab_size=50)


def build_batch(num_clips: int) -> Batch:
    generator = torch.Generator().manual_seed(7)
    text_mask = torch.rand(num_clips, 3, generator=generator) < 0.6
    audio_mask = torch.rand(num_clips, generator=generator) < 0.8
    return Batch(
        video=torch.rand(num_clips, 4, 16, 16, 3, generator=generator) * 2 - 1,
        audio=torch.rand(num_clips, 96, generator=generator) * 2 - 1,
        text=torch.randint(0, 50, (num_clips, 3, 6), generator=generator),
        audio_mask=audio_mask,
        text_mask=text_mask,
    )


def test_shapes_and_gradients() -> None:
    params = MODEL.model_copy(update={"dropout_rate": 0.1, "drop_token_rate": 0.5})
    model, batch = build_model(params).train(), build_batch(5)
    embeddings = model(batch)
    assert embeddings.video_va.shape == embeddings.audio_va.shape == (5, 20)
    assert embeddings.video_vt.shape == (5, 10)
    assert embeddings.text_vt.shape == (5, 3, 10)
    contrastive_loss(embeddings, batch.audio_mask, batch.text_mask, LOSS).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_clip_below_one_patch_is_refused() -> None:
    model = build_model().eval()
    with pytest.raises(ValueError, match="less than a patch"):
        model.encode_video(torch.zeros(1, 1, 16, 16, 3))
    with pytest.raises(ValueError, match="less than a patch"):
        model.encode_audio(torch.zeros(1, 7))


def test_bf16_weights_give_nearly_the_same_features() -> None:
    model, batch = build_model().eval(), build_batch(5)
    exact = model(batch)
    rounded = model.bfloat16()(batch)
    for name in ("video_va", "audio_va", "video_vt", "text_vt"):
        cosine = torch.cosine_similarity(
            getattr(exact, name), getattr(rounded, name).float(), dim=-1
        )
        assert cosine.min() > 0.99, name


def train_step(batch: Batch) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    model = build_model().train()
    loss = contrastive_loss(model(batch), batch.audio_mask, batch.text_mask, LOSS).total
    loss.backward()
    gradients = {
        name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None
    }
    return loss.item(), gradients, dict(model.named_buffers())


def train_step_on_rank() -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    rank, whole = torch.distributed.get_rank(), build_batch(8)
    own = slice(4 * rank, 4 * rank + 4)
    return train_step(
        Batch(
            whole.video[own],
            whole.audio[own],
            whole.text[own],
            whole.audio_mask[own],
            whole.text_mask[own],
        )
    )


def test_mean_of_two_ranks_is_one_process_with_all_clips(two_ranks: Ranks) -> None:
    (loss_0, gradients_0, statistics_0), (loss_1, gradients_1, statistics_1) = two_ranks.run(
        train_step_on_rank
    )
    loss, gradients, statistics = train_step(build_batch(8))
    assert (loss_0 + loss_1) / 2 == pytest.approx(loss, rel=1e-5)
    assert gradients.keys() == gradients_0.keys() == dict(build_model().named_parameters()).keys()
    for name, gradient in gradients.items():
        mean = (gradients_0[name] + gradients_1[name]) / 2
        largest = gradient.abs().max().item()
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-5 + 1e-4 * largest, msg=name)
    for name, value in statistics.items():
        assert torch.equal(statistics_0[name], statistics_1[name]), name
        torch.testing.assert_close(statistics_0[name], value, rtol=1e-5, atol=1e-6, msg=name)
