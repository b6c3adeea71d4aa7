"""A small evaluated world made of numbers: clips with labels, a network that knows them, one that does not."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tests.tiny import TINY_MODEL
from vatt.evaluate.clips import Clips
from vatt.evaluate.comparison import Comparison, Split, compare_networks, summarise
from vatt.evaluate.examples import pick_examples
from vatt.evaluate.figures import draw_figures
from vatt.evaluate.finetuned import TaskEntry
from vatt.evaluate.networks import Arrays
from vatt.evaluate.probes import Skipped
from vatt.evaluate.report import Report
from vatt.evaluate.tables import Study, Trial
from vatt.model.vatt import Vatt
from vatt.params import ClipParams

CLIP = ClipParams(
    num_frames=8, frame_size_px=64, num_samples=51_200, num_tokens=16, num_candidates=5
)
COLOURS = ["amber", "blue", "green", "red"]
MOTIONS = ["falling <b>fast</b>", "rising", "turning"]
PUBLISHED = {
    "data_set": "kinetics400",
    "task": "video",
    "model": "VATT-Base",
    "measure": "accuracy",
    "value": 0.796,
}


def make_split(name: str, num_clips: int, seed: int) -> Split:
    """Every fifth clip is silent, every seventh has no text, every ninth no label."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, len(COLOURS), num_clips)
    motions = generator.integers(0, len(MOTIONS), num_clips)
    factors = np.concatenate([np.eye(4)[colours], np.eye(3)[motions]], axis=1)
    numbers = np.arange(num_clips)
    labels = [
        {"colour": [COLOURS[colour]], "action": [MOTIONS[motion]]} if number % 9 else {}
        for number, colour, motion in zip(numbers, colours, motions, strict=True)
    ]
    texts = [
        (f"something {COLOURS[colour]} is {MOTIONS[motion]}",) if number % 7 else ()
        for number, colour, motion in zip(numbers, colours, motions, strict=True)
    ]
    clips = make_clips(
        digest=name,
        names=[f"demo/{name} {number}.mp4, 0.0 to 4.0 s" for number in numbers],
        labels=labels,
        texts=texts,
        has_audio=numbers % 5 > 0,
    )
    return Split(clips, see(factors, 0.4, seed + 1), see(factors, 5.0, seed + 2))


def make_clips(
    names: Sequence[str],
    labels: Sequence[dict[str, list[str]]],
    texts: Sequence[tuple[str, ...]],
    digest: str = "",
    has_audio: np.ndarray | None = None,
    places: tuple[float, ...] = (0.5,),
) -> Clips:
    """Every clip has a picture and narration, lasts 10 s and is of the file that its name says first.

    The name says when it begins, too: "a.mp4, 10 s"; or else it is a file of its own.
    """
    size = len(names)
    starts = [re.search(r", ([\d.]+)", name) for name in names]
    starts_s = np.array([float(start[1]) if start else 0.0 for start in starts])
    return Clips(
        digest=digest,
        names=names,
        videos=[name.partition(",")[0] for name in names],
        starts_s=starts_s,
        ends_s=starts_s + 10,
        labels=labels,
        texts=texts,
        is_described=np.zeros(size, dtype=bool),
        has_video=np.ones(size, dtype=bool),
        has_audio=np.ones(size, dtype=bool) if has_audio is None else has_audio,
        places=places,
    )


def see(factors: np.ndarray, noise: float, seed: int) -> Arrays:
    """Each clip by one window, and a text for each clip that has one."""
    generator = np.random.default_rng(seed)
    own = generator.normal(size=factors.shape) * 0.2  # what only this clip has, in all modalities
    arrays = {
        name: (factors + own + generator.normal(size=factors.shape) * noise).astype(np.float32)
        for name in ("video", "audio", "video_va", "audio_va", "video_vt", "text_vt")
    }
    has_text = np.arange(len(factors)) % 7 > 0
    windows = {name: values[:, None] for name, values in arrays.items() if name != "text_vt"}
    return {**windows, "text_vt": arrays["text_vt"][has_text]}


def make_splits(num_test: int = 60) -> dict[str, Split]:
    sizes = {"train": 150, "validation": 40, "test": num_test}
    return {name: make_split(name, size, size) for name, size in sizes.items()}


def make_index() -> pd.DataFrame:
    rows = [
        {
            "source": "demo",
            "split": split,
            "video_id": f"{split} {number // 2}",
            "start_s": 0.0,
            "end_s": 4.0,
            "has_audio": number % 5 > 0,
            "num_captions": number % 7,
            "descriptions": "[]",
        }
        for split, size in (("train", 150), ("validation", 40), ("test", 60))
        for number in range(size)
    ]
    return pd.DataFrame(rows)


def read_frames(number: int) -> np.ndarray:
    """A square that moves over a ground whose colour is the clip's number."""
    frames = np.full((8, 64, 64, 3), (40 + 3 * number, 90, 160), dtype=np.uint8)
    for time, frame in enumerate(frames):
        frame[20:44, 6 * time : 6 * time + 20] = (250, 220, 80)
    return frames


def make_metrics(comparison: Comparison) -> dict[str, Any]:
    return {**summarise(comparison), "published": [], "test_data": "a1" * 32, "export": "b2" * 32}


def make_entries(clips: Clips) -> dict[str, TaskEntry | Skipped]:
    """Networks that know a little more or less of the colours, and a task without labels."""
    generator = np.random.default_rng(5)
    own = [row["colour"][0] if row else None for row in clips.labels]
    right = np.array([[float(name == colour) for colour in COLOURS] for name in own])
    logits = {
        name: (right.reshape(-1, 4) + generator.normal(size=(len(own), 4)) * noise)[:, None]
        for name, noise in (("model", 0.4), ("scratch", 1.0), ("untrained", 10.0))
    }
    entry = TaskEntry("video", "colour", "video", False, COLOURS, logits, "this network")
    return {"video": entry, "audio": Skipped("no segment has a label")}


def make_study() -> Study:
    trials = [Trial(0, "complete", "0.4000", ["0.001"]), Trial(1, "pruned", "", ["0.02"])]
    return Study(
        task="video",
        name="video-0123",
        keys=["learning_rate"],
        own=["0.001"],
        best=["0.003"],
        own_value="0.4000",
        best_value="0.4500",
        best_trial=2,
        trials=[*trials, Trial(2, "complete", "0.4500", ["0.003"])],
        figures={"history": "<svg><text>Value of each trial</text></svg>"},
    )


def make_report(splits: dict[str, Split]) -> Report:
    comparison = compare_networks(splits, make_entries(splits["test"].clips))
    curve = [
        {
            "step": step,
            "loss": 8 * 0.99**step + 1,
            "loss_va": 4 * 0.99**step,
            "loss_vt": None,
            "accuracy": 1 - 0.9**step,
            "learning_rate": min(step, 50) / 50,
            "gradient_norm": 1 + 1 / (1 + step),
        }
        for step in range(0, 300, 10)
    ]
    rule = {"description": "Durations agree.", "severity": "critical", "observed": 0.99}
    return Report(
        metrics={**make_metrics(comparison), "published": [PUBLISHED]},
        figures=draw_figures(comparison, {"pretrain": curve, "video": curve}),
        studies=[
            make_study(),
            Study("audio", skipped="no segment has a label of <i>that</i> task"),
        ],
        examples=pick_examples(
            splits["test"].clips, comparison.retrieval["text_to_video"], read_frames
        ),
        index=make_index(),
        quarantine=[{"source": "inbox", "video_id": "<i>odd</i>.mp4", "reason": "no video stream"}],
        verdict={"passed": True, "expectations": [{**rule, "threshold": 0.9, "success": True}]},
        parameters={"clip": {"num_frames": 8, "frame_size_px": 64}, "model": {"video": "tiny"}},
        model=Vatt(TINY_MODEL, CLIP, vocab_size=400),
        clip=CLIP,
        code_version="c0de-dirty",
    )
