"""Settings in combination: what is accepted runs through every stage, the rest is refused by name.

All choices of the model, the loss and both kinds of training that one CPU can run are drawn so that
each pair of values meets at least once.
"""

import itertools
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import vatt
from tests.preprocess.runs import PARAMS as PREPROCESS
from tests.stages.conftest import EXPORTED, LETTER, ROOT
from tests.train.corpus import LAUNCH
from vatt.__main__ import run_stage
from vatt.core.errors import StageError
from vatt.params import TASKS, ParamsError, load_params, read_settings
from vatt.weights.inference import load_classifier

CHOICES: dict[str, tuple[Any, ...]] = {
    "model.shared_encoder": (False, True),
    "model.text_style": ("t5", "bert", "linear"),
    "model.audio_input": ("waveform", "spectrogram"),
    "model.space_kind": ("fac", "joint", "mmv_shared", "mmv_disjoint"),
    "model.batch_norm_everywhere": (False, True),
    "model.drop_token_draw": ("clip", "batch"),
    "model.train_word_table": (True, False),
    "loss.form": ("asymmetric", "symmetric"),
    "loss.positives": ("twice", "once"),
    "loss.valid_mean": ("global", "replica"),
    "loss.rows_per_chunk": (None, 1),
    "pretrain.schedule": ("paper", "released"),
    "pretrain.on_bad_step": ("stop", "skip", "roll_back"),
    "pretrain.accumulation_steps": (1, 2),
    "launch.zero_stage": (0, 1, 2, 3),
    "launch.offload": ("none", "optimizer", "optimizer_and_parameters"),
    "launch.precision": ("fp32", "bf16", "fp16"),
    "launch.recompute_activations": (False, True),
    "launch.loader_workers": (0, 1),
    "finetune.schedule.shape": ("cosine", "linear", "constant"),
    "finetune.schedule.optimizer": ("sgd", "adamw"),
    "finetune.schedule.mixup_alpha": (0.0, 0.5),
    "finetune.schedule.layer_decay": (1.0, 0.5),
    "finetune.multi_label": (False, True),
    "finetune.fusion": ("concatenation", "tensor", "bilinear", "attention"),
    "finetune.freeze": ("none", "tower", 1),
    "finetune.ema_decay": (None, 0.9),
    "finetune.on_bad_step": ("stop", "skip", "roll_back"),
    "finetune.compare_with_scratch": (False, True),
}
FORBIDDEN = {
    frozenset([("model.shared_encoder", True), ("model.text_style", style)]): "shared_encoder"
    for style in ("t5", "linear")
} | {
    frozenset([("launch.offload", offload), ("launch.zero_stage", stage)]): "launch.offload"
    for offload, stages in (("optimizer", [0]), ("optimizer_and_parameters", [0, 1, 2]))
    for stage in stages
}
FORBIDDEN[frozenset([("finetune.ema_decay", 0.9), ("launch.zero_stage", 3)])] = "ema_decay"
FORBIDDEN[
    frozenset([("finetune.ema_decay", 0.9), ("launch.offload", "optimizer_and_parameters")])
] = "ema_decay"  # which no ZeRO stage allows
"""Pairs that cannot be, and what the refusal names."""
NUM_SHORT = 6
"""Combinations that `make test` runs; `make test-slow` runs all others."""
Combination = dict[str, Any]


def pairs_of(combination: Combination) -> set[frozenset[tuple[str, Any]]]:
    return set(map(frozenset, itertools.combinations(combination.items(), 2)))


@cache
def draw_pairs() -> tuple[Combination, ...]:
    """Return combinations in which all pairs meet: each takes what meets most of those left."""
    left = {
        frozenset([(one, a), (two, b)])
        for one, two in itertools.combinations(CHOICES, 2)
        for a, b in itertools.product(CHOICES[one], CHOICES[two])
    } - FORBIDDEN.keys()
    # The stage of ZeRO, on which most depends, is chosen first.
    names = sorted(CHOICES, key=lambda name: ("zero" not in name, -len(CHOICES[name]), name))
    drawn = []
    while left:
        combination: Combination = dict(sorted(min(left, key=lambda pair: sorted(map(repr, pair)))))
        for name in (name for name in names if name not in combination):
            possible = [{**combination, name: value} for value in CHOICES[name]]
            possible = [more for more in possible if not pairs_of(more) & FORBIDDEN.keys()]
            combination = max(possible, key=lambda more: len(pairs_of(more) & left))
        left -= pairs_of(combination)
        drawn.append(combination)
    return tuple(drawn)


def write_params(combination: Combination) -> Path:
    """Write a tiny params.yaml with a combination, whose spaces and sizes fit together."""
    settings = read_settings(ROOT / "params.yaml")
    # In fp16 the first steps only find the scale of the gradients.
    num_steps = 12 if combination["launch.precision"] == "fp16" else 2
    short = {
        "num_steps": num_steps,
        "batch_size": 4,
        "warmup_steps": 1,
        "validate_every_steps": num_steps,
    }
    short |= {"checkpoint_every_steps": 1, "log_every_steps": 1, "validation_clips": 4}
    settings["preprocess"] = PREPROCESS.model_dump(mode="json")
    settings["clip"] |= EXPORTED.clip.model_dump(mode="json")
    settings["model"] = EXPORTED.model.model_dump(mode="json")
    if combination["model.space_kind"] in ("joint", "mmv_shared"):
        settings["model"]["space_vt_width"] = settings["model"]["space_va_width"]
    settings["pretrain"] |= short
    settings["launch"] |= LAUNCH.model_dump(mode="json")
    for task in TASKS:
        own = LETTER.model_dump(mode="json") | short
        own.pop("warmup_steps")
        own["schedule"] |= {"warmup_steps": 1, "learning_rate": 1e-3, "label_smoothing": 0.0}
        settings["finetune"][task] = own
    for name, value in combination.items():
        section, *keys, last = name.split(".")
        places = [settings[section]]
        if section == "finetune":
            places = [settings["finetune"][task] for task in TASKS]
            if last == "fusion":
                places = [settings["finetune"]["audio_visual"]]
        for place in places:
            reduce(getitem, keys, place)[last] = value
    settings["tune"]["space"] = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    settings["tune"]["task_space"] = {}
    settings["evaluate"] |= {"num_windows": 2, "lrc_steps": 2}
    Path("params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Path("params.yaml")


def test_all_pairs_that_can_be_meet() -> None:
    met = set[frozenset[tuple[str, Any]]]().union(*map(pairs_of, draw_pairs()))
    possible = {
        frozenset([(one, a), (two, b)])
        for one, two in itertools.combinations(CHOICES, 2)
        for a, b in itertools.product(CHOICES[one], CHOICES[two])
    }
    assert met == possible - FORBIDDEN.keys()


@pytest.mark.parametrize("pair", FORBIDDEN, ids=str)
def test_what_cannot_be_is_refused_by_name(project: Path, pair: frozenset[Any]) -> None:
    combination = {name: values[0] for name, values in CHOICES.items()} | dict(pair)
    if dict(pair).keys() == {"finetune.ema_decay", "launch.offload"}:
        combination["launch.zero_stage"] = 3
    with pytest.raises(ParamsError, match=FORBIDDEN[pair]):
        load_params(write_params(combination))


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=[] if place < NUM_SHORT else pytest.mark.slow)
        for place in range(len(draw_pairs()))
    ],
)
def test_a_combination_runs_through_every_stage(project: Path, place: int) -> None:
    params = load_params(write_params(draw_pairs()[place]))
    num_steps = params.pretrain.num_steps
    last_step = run_stage("pretrain", None, params)["step"]
    # The curve ends with the last step that updated weights; in fp16 the last ones may overflow.
    assert last_step == num_steps or (params.launch.precision == "fp16" and last_step > 0)
    exported = vatt.load("data/pretrain")
    clip = params.clip
    video = torch.zeros(1, clip.num_frames, clip.frame_size_px, clip.frame_size_px, 3)
    assert exported.embed_video(video).va.isfinite().all()
    assert exported.embed_text(["it begins"]).isfinite().all()
    for task in TASKS:
        metrics = run_stage("finetune", task, params)
        assert metrics["validation_model"]["step"] == num_steps
        assert load_classifier(Path("data/finetune") / task / "model").params.label == "letter"
    metrics = run_stage("evaluate", None, params)
    assert 0 <= metrics["text_to_video_r1"] <= 1
    assert {name.split(",")[0] for name in metrics["finetuned"]} == set(TASKS)


def test_a_run_in_which_no_step_does_anything_is_an_error(project: Path) -> None:
    combination = {name: values[0] for name, values in CHOICES.items()}
    path = write_params(combination | {"launch.precision": "fp16", "pretrain.num_steps": 2})
    with pytest.raises(StageError, match="none of the 2 steps updated a weight: gradients overfl"):
        run_stage("pretrain", None, load_params(path))
