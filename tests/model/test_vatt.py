"""The whole model: sizes of the paper, shapes, bf16, and two ranks against one process."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.flops import counting
from tests.model import original
from tests.model.original import CLIP, take_share
from tests.ranks import Ranks
from tests.tiny import LOSS
from vatt.core.batch import Batch
from vatt.model import published
from vatt.model.losses import contrastive_loss
from vatt.model.published import PAPER_CLIP
from vatt.model.towers import (
    build_text_tower,
    build_tower,
    collect_weights,
    describe_towers,
    restore_weights,
)
from vatt.model.vatt import Vatt
from vatt.params import ModelParams

PAPER_MODEL = published.PAPER_MODEL.model_copy(update={"video": "base"})
MODEL = original.MODEL.model_copy(update={"video_patch": (2, 8, 8), "train_word_table": True})
SHARED = {"shared_encoder": True, "text_style": "bert"}
MEDIUM = {"video": "medium", "audio": "medium", "text": "medium"}


def count_trainable(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters() if tensor.requires_grad)


@pytest.mark.parametrize(
    ("video", "audio", "num_video", "num_audio"),
    [
        ("base", "base", 87_446_016, 86_078_976),
        ("medium", "base", 154_343_424, 86_078_976),
        ("large", "base", 305_498_112, 86_078_976),
        ("base", "medium", 87_446_016, 152_520_704),
        ("base", "large", 87_446_016, 303_675_392),
    ],
)
def test_number_of_weights_of_the_papers_models(
    video: str, audio: str, num_video: int, num_audio: int
) -> None:
    """Those of whole networks are in test_cost."""
    params = PAPER_MODEL.model_copy(update={"video": video, "audio": audio})
    with torch.device("meta"):
        model = Vatt(params, PAPER_CLIP, vocab_size=65_536)
    counts = [count_trainable(tower) for tower in (model.video, model.audio, model.text)]
    assert counts == [num_video, num_audio, 19_038_252]
    assert model.words.weight.numel() == 19_660_800


def test_number_of_weights_with_one_encoder() -> None:
    with torch.device("meta"):
        model = Vatt(PAPER_MODEL.model_copy(update=SHARED | MEDIUM), PAPER_CLIP, vocab_size=65_536)
    projections = (model.video_projection, model.audio_projection, model.text_projection)
    num_total = count_trainable(model)
    assert num_total == 162_990_336
    assert num_total - sum(count_trainable(module) for module in projections) == 161_283_072


SPECTROGRAM = {"audio_input": "spectrogram", "spectrogram_patch": (16, 5)}


@pytest.mark.parametrize(
    ("modality", "update", "num_weights"),
    [
        ("video", {"video": "xlarge"}, 533_695_488),
        ("video", {"video": "small"}, 20_508_672),
        ("audio", {"audio": "base"} | SPECTROGRAM, 85_056_768),
        ("audio", {"audio": "medium"} | SPECTROGRAM, 151_157_760),
        ("text", {"text": "base", "text_style": "t5"}, 85_194_156),
        # The original's small one, by mistake, has a second AGG token (300) and no last norm.
        ("text", {"text": "small", "text_style": "bert"}, 19_077_932 - 300 + 2 * 512),
        ("text", {"text": "base", "text_style": "bert"}, 85_300_992),
        ("text", {"text": "small", "text_style": "linear"}, 300 * 2048 + 2048),
    ],
)
def test_number_of_weights_of_other_towers(
    modality: str, update: dict[str, object], num_weights: int
) -> None:
    params = PAPER_MODEL.model_copy(update=update)
    with torch.device("meta"):
        if modality == "text":
            tower: nn.Module = build_text_tower(params, PAPER_CLIP, 65_536)
        else:
            tower = build_tower(describe_towers(params)[modality].fit(PAPER_CLIP))
    assert count_trainable(tower) == num_weights


def build_model(params: ModelParams = MODEL) -> Vatt:
    torch.manual_seed(0)
    return Vatt(params, CLIP, vocab_size=50)


def build_batch(num_clips: int) -> Batch:
    generator = torch.Generator().manual_seed(7)
    text_mask = torch.rand(num_clips, 3, generator=generator) < 0.6
    audio_mask = torch.rand(num_clips, generator=generator) < 0.8
    video = torch.rand(num_clips, 4, 16, 16, 3, generator=generator) * 2 - 1
    audio = torch.rand(num_clips, 96, generator=generator) * 2 - 1
    text = torch.randint(0, 50, (num_clips, 3, 6), generator=generator)
    return Batch(video, audio, text, audio_mask, text_mask)


def embed_one_by_one(model: Vatt, batch: Batch) -> list[Tensor]:
    text = model.text_projection(model.encode_text(batch.text.flatten(0, 1)))
    video_va, video_vt = model.video_projection(model.encode_video(batch.video))
    audio_va = model.audio_projection(model.encode_audio(batch.audio))
    return [video_va, audio_va, video_vt, text.unflatten(0, batch.text.shape[:2])]


def embed_packed(model: Vatt, batch: Batch) -> list[Tensor]:
    return list(vars(model(batch)).values())


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("drop_token_rate", [0.0, 0.5])
def test_one_packed_pass_is_three_passes(drop_token_rate: float, recomputes: bool) -> None:
    """In value and gradient, text of padding only among them, with the same tokens dropped."""
    params = MODEL.model_copy(update=SHARED | {"drop_token_rate": drop_token_rate})
    model, batch = build_model(params).train().double(), build_batch(5)
    model.video.encoder.recomputes = recomputes
    batch.text[2, 1] = 0
    batch = replace(batch, video=batch.video.double(), audio=batch.audio.double())
    results = []
    for embed in (embed_packed, embed_one_by_one):
        torch.manual_seed(1)
        # Text comes last in the packed pass; it draws nothing.
        embeddings = embed(model, batch)
        model.zero_grad()
        torch.stack([embedding.square().sum() for embedding in embeddings]).sum().backward()
        gradients = [weight.grad for weight in model.parameters()]
        results.append([*embeddings, *gradients])
    assert len(results[0]) == 4 + len(list(model.parameters()))
    assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


def test_the_packed_pass_computes_nothing_for_padding() -> None:
    model, batch = build_model(MODEL.model_copy(update=SHARED)).eval(), build_batch(5)
    with counting() as packed:
        embed_packed(model, batch)
    with counting() as one_by_one:
        embed_one_by_one(model, batch)
    assert packed.get_total_flops() == one_by_one.get_total_flops()


@pytest.mark.parametrize(
    "update",
    [
        {"dropout_rate": 0.1},
        SHARED,
        {"audio_input": "spectrogram", "spectrogram_patch": (1, 8)},
        {"text_style": "bert"},
        {"text_style": "linear"},
        {"space_kind": "mmv_disjoint", "batch_norm_everywhere": True},
        {"drop_token_draw": "batch"},
    ],
)
def test_every_kind_trains_all_its_weights(update: dict[str, object]) -> None:
    model = build_model(MODEL.model_copy(update={"drop_token_rate": 0.5} | update)).train()
    batch = build_batch(5)
    embeddings = model(batch)
    assert embeddings.video_va.shape == embeddings.audio_va.shape == (5, 20)
    assert embeddings.video_vt.shape == (5, 10)
    assert embeddings.text_vt.shape == (5, 3, 10)
    contrastive_loss(embeddings, batch.audio_mask, batch.text_mask, LOSS).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    model.eval()
    one_by_one, together = embed_one_by_one(model, batch), embed_packed(model, batch)
    assert_close(one_by_one, together, rtol=1e-5, atol=1e-6)


def test_weights_of_a_shared_encoder_are_collected_once() -> None:
    params = MODEL.model_copy(update=SHARED)
    model, other = build_model(params), Vatt(params, CLIP, vocab_size=50)
    weights = collect_weights(model)
    tensors = [*model.parameters(), *model.buffers()]
    assert sum(map(Tensor.numel, weights.values())) == sum(map(Tensor.numel, tensors))
    restore_weights(other, weights)
    assert other.audio.encoder is other.video.encoder
    assert_close(dict(other.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    del weights["video.encoder.norm.bias"]
    with pytest.raises(KeyError, match=r"video\.encoder\.norm\.bias"):
        restore_weights(other, weights)


def test_a_clip_below_one_patch_is_refused() -> None:
    model = build_model().eval()
    with pytest.raises(ValueError, match="less than a patch"):
        model.encode_video(torch.zeros(1, 1, 16, 16, 3))
    with pytest.raises(ValueError, match="less than a patch"):
        model.encode_audio(torch.zeros(1, 7))


def test_bf16_weights_give_nearly_the_same_features() -> None:
    model, batch = build_model().eval(), build_batch(5)
    exact = embed_packed(model, batch)
    rounded = embed_packed(model.bfloat16(), batch)
    for one, other in zip(exact, rounded, strict=True):
        assert torch.cosine_similarity(one, other.float(), dim=-1).min() > 0.99


def train_step(batch: Batch) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    model = build_model().train()
    loss = contrastive_loss(model(batch), batch.audio_mask, batch.text_mask, LOSS).total
    loss.backward()
    named = model.named_parameters()
    gradients = {name: tensor.grad for name, tensor in named if tensor.grad is not None}
    return loss.item(), gradients, dict(model.named_buffers())


def train_step_on_rank() -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    return train_step(take_share(build_batch(8), 2))


def test_mean_of_two_ranks_is_one_process_with_all_clips(two_ranks: Ranks) -> None:
    steps = *two_ranks.run(train_step_on_rank), train_step(build_batch(8))
    losses, gradients, statistics = zip(*steps, strict=True)
    assert (losses[0] + losses[1]) / 2 == pytest.approx(losses[2], rel=1e-5)
    assert (
        gradients[2].keys() == gradients[0].keys() == dict(build_model().named_parameters()).keys()
    )
    for name, gradient in gradients[2].items():
        mean = (gradients[0][name] + gradients[1][name]) / 2
        largest = gradient.abs().max().item()
        assert_close(mean, gradient, rtol=1e-4, atol=1e-5 + 1e-4 * largest, msg=name)
    assert_close(statistics[0], statistics[1], rtol=0, atol=0)
    assert_close(statistics[0], statistics[2], rtol=1e-5, atol=1e-6)
