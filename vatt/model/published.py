"""The sizes and FLOPs that the VATT paper published, each beside ours for the same model.

They stand in sections 4.2 and A.1, and in the tables of DropToken and of video classifiers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from vatt.model.cost import Cost, add_costs, count_clip, count_head, count_signal_tower
from vatt.model.towers import Tower, build_tower, describe_towers
from vatt.model.transformer import Dense
from vatt.model.vatt import Vatt
from vatt.params import ClipParams, ModelParams
from vatt.params.model import SizeName

PAPER_CLIP = ClipParams(
    num_frames=32, frame_size_px=224, num_samples=153_600, num_tokens=16, num_candidates=5
)
PAPER_VOCAB_SIZE = 65_536
PAPER_MODEL = ModelParams(
    shared_encoder=False,
    post_projection_width=1024,
    video="medium",
    audio="base",
    text="small",
    video_patch=(4, 16, 16),
    audio_input="waveform",
    audio_patch=128,
    spectrogram_patch=(16, 5),
    text_style="t5",
    text_buckets=32,
    text_max_distance=64,
    word_width=300,
    train_word_table=False,
    space_kind="fac",
    batch_norm_everywhere=False,
    space_va_width=512,
    space_vt_width=256,
    dropout_rate=0.1,
    drop_token_rate=0.5,
    drop_token_draw="clip",  # noqa: S106 - no password
)
"""MBS as released; the paper's other networks differ in the sizes of towers only."""

NUM_CLASSES = 600
"""Kinetics-600: with its classifier on top the published sizes of towers come out."""
VIEWS = 12
"""4 clips x 3 crops of a video, in the TFLOPs of the table of classifiers."""

TOWERS: dict[SizeName, float] = {"base": 87.9, "medium": 155.0, "large": 306.1}
TEXT_TOWER = 20.9
NETWORKS: dict[SizeName, float] = {"base": 197.0, "medium": 264.0, "large": 415.0}
"""Millions of weights: of video towers, of the small text tower, and of BBS, MBS and LBS, by the
size of their video tower; audio is base, text small."""
CLASSIFIERS: dict[tuple[int, int, float], float] = {
    (32, 224, 0.0): 548.1,
    (64, 224, 0.0): 1222.1,
    (32, 320, 0.0): 1252.3,
    (32, 320, 0.25): 898.9,
    (32, 320, 0.5): 572.5,
    (32, 320, 0.75): 279.8,
}
"""GFLOPs of the Medium video tower by frames, their size in pixels, and drop rate."""
MBS: dict[float, float] = {0.0: 784.8, 0.25: 574.2, 0.5: 375.4, 0.75: 188.1}
"""GFLOPs of all three towers by drop rate, 32 frames of 224 px."""
TWELVE_VIEWS: dict[SizeName, float] = {"base": 9.09, "medium": 15.02, "large": 29.80}
"""TFLOPs of a video by 12 views of 32 frames of 320 px."""


class Size(NamedTuple):
    """Weights that are trained: the paper's number in millions, and ours."""

    name: str
    paper_millions: float
    ours: int
    note: str


class Flops(NamedTuple):
    """A forward pass: the paper's GFLOPs, and what ours costs by both conventions."""

    name: str
    paper_gflops: float
    ours: Cost


def compare_sizes() -> Iterator[Size]:
    """Yield each published number of weights beside ours."""
    note = f"with the classifier of {NUM_CLASSES} classes"
    for size, paper in TOWERS.items():
        ours = sum(map(_count_trained, _build_classifier(size, 32, 224)))
        yield Size(f"{size.capitalize()} video tower", paper, ours, note)
    text = build_paper_network("medium").text
    note = "not reproduced; the paper does not say with which head"
    yield Size("Small text tower", TEXT_TOWER, _count_trained(text), note)
    note = "ours: all that is pre-trained; paper: its three towers, sound as Base video"
    for size, paper in NETWORKS.items():
        ours = _count_trained(build_paper_network(size))
        yield Size(f"{size[0].upper()}BS network", paper, ours, note)


def compare_flops() -> Iterator[Flops]:
    """Yield each published number of FLOPs beside ours, all within 1 %."""
    for (num_frames, size_px, rate), paper in CLASSIFIERS.items():
        name = f"Medium video, {num_frames} x {size_px} x {size_px}, drop {rate:.0%}"
        yield Flops(name, paper, _count_classifier("medium", num_frames, size_px, rate))
    network = build_paper_network("medium")
    for rate, paper in MBS.items():
        cost = add_costs(count_clip(network, PAPER_CLIP, rate).values())
        yield Flops(f"MBS, 32 x 224 x 224, 5 captions, drop {rate:.0%}", paper, cost)
    for size, paper_tflops in TWELVE_VIEWS.items():
        cost = add_costs(VIEWS * [_count_classifier(size, 32, 320, 0.0)])
        name = f"{size.capitalize()} video, {VIEWS} views of 32 x 320 x 320"
        yield Flops(name, 1000 * paper_tflops, cost)


def build_paper_network(video: SizeName) -> Vatt:
    """Return a network of the paper with one encoder each, without memory for its weights."""
    params = PAPER_MODEL.model_copy(update={"video": video})
    with torch.device("meta"):
        return Vatt(params, PAPER_CLIP, PAPER_VOCAB_SIZE)


def _build_classifier(size: SizeName, num_frames: int, size_px: int) -> tuple[Tower, Dense]:
    clip = PAPER_CLIP.model_copy(update={"num_frames": num_frames, "frame_size_px": size_px})
    params = describe_towers(PAPER_MODEL.model_copy(update={"video": size}))["video"]
    with torch.device("meta"):
        tower = build_tower(params.fit(clip))
        return tower, Dense(tower.width, NUM_CLASSES)


def _count_classifier(size: SizeName, num_frames: int, size_px: int, rate: float) -> Cost:
    tower, head = _build_classifier(size, num_frames, size_px)
    return add_costs([count_signal_tower(tower, PAPER_CLIP, rate), count_head(head)])


def _count_trained(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
