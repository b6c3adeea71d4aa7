"""A small evaluated world made of numbers: a network that knows the labels of clips, and others."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tests.tiny import TINY_MODEL
from vatt.evaluate.comparison import Comparison, compare_networks, summarise
from vatt.evaluate.features import Clips, Seen
from vatt.evaluate.figures import draw_figures, pick_examples
from vatt.evaluate.finetuned import TaskEntry
from vatt.evaluate.linear_evaluation import Skipped
from vatt.evaluate.networks import Arrays
from vatt.evaluate.paper_results import Published
from vatt.evaluate.report import Report, Study
from vatt.model.vatt import Vatt
from vatt.params import ClipParams

CLIP = ClipParams(
    num_frames=8, frame_size_px=64, num_samples=51_200, num_tokens=16, num_candidates=5
)
COLOURS = ["amber", "blue", "green", "red"]
MOTIONS = ["falling <b>fast</b>", "rising", "turning"]
SIZES = {"train": 150, "validation": 40, "test": 60}
PUBLISHED = Published("kinetics400", "video", "VATT-Base", "accuracy", 0.796)


def make_clips(
    names: Sequence[str],
    labels: Sequence[dict[str, list[str]]],
    texts: Sequence[tuple[str, ...]],
    places: tuple[float, ...] = (0.5,),
    **columns: Any,
) -> Clips:
    """Every clip has a picture, sound and narration and lasts 10 s, but for what `columns` say.

    The name says the file and when the clip begins: "source/a.mp4, 10 s", or less.
    """
    files = [name.partition(",")[0].rpartition("/") for name in names]
    starts = [re.search(r", ([\d.]+)", name) for name in names]
    starts_s = np.array([float(start[1]) if start else 0.0 for start in starts])
    content = {
        "source": [source or "demo" for source, _, _ in files],
        "video_id": [video_id for _, _, video_id in files],
        "start_s": starts_s,
        "end_s": starts_s + 10,
        "labels": [json.dumps(row) for row in labels],
        "descriptions": "[]",
        "has_video": True,
        "has_audio": True,
    }
    return Clips(pd.DataFrame({**content, **columns}, index=range(len(names))), texts, places, "")


def describe(clips: Clips, **columns: Any) -> Clips:
    """Return the clips with their texts as descriptions, and with other `columns`."""
    texts = [json.dumps(texts) for texts in clips.texts]
    rows = clips.rows.assign(**{"descriptions": texts, **columns})
    return Clips(rows, clips.texts, clips.places, clips.digest)


def make_split(name: str, num_clips: int) -> tuple[Seen, Seen]:
    """Every fifth clip is silent, every seventh has no text, every ninth no label."""
    generator, numbers = np.random.default_rng(num_clips), np.arange(num_clips)
    colours = generator.integers(0, len(COLOURS), num_clips)
    motions = generator.integers(0, len(MOTIONS), num_clips)
    factors = np.concatenate([np.eye(4)[colours], np.eye(3)[motions]], axis=1)
    facts = [
        (COLOURS[colour], MOTIONS[motion]) for colour, motion in zip(colours, motions, strict=True)
    ]
    clips = make_clips(
        [f"demo/{name} {number}.mp4" for number in numbers],
        [
            {"colour": [colour], "action": [motion]} if number % 9 else {}
            for number, (colour, motion) in enumerate(facts)
        ],
        [
            (f"something {colour} is {motion}",) if number % 7 else ()
            for number, (colour, motion) in enumerate(facts)
        ],
        has_audio=numbers % 5 > 0,
    )
    trained, untrained = see(factors, 0.4, num_clips + 1), see(factors, 5.0, num_clips + 2)
    return Seen(clips, trained), Seen(clips, untrained)


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


def make_splits(num_test: int = SIZES["test"]) -> tuple[dict[str, Seen], dict[str, Seen]]:
    """All splits as the trained network sees them, and as the untrained does."""
    pairs = {name: make_split(name, size) for name, size in {**SIZES, "test": num_test}.items()}
    trained, untrained = ({k: pair[n] for k, pair in pairs.items()} for n in (0, 1))
    return trained, untrained


def compare_alike(trained: Seen, untrained: Seen | None = None) -> Comparison:
    """Compare networks to which all splits are the same."""
    ours, theirs = (dict.fromkeys(SIZES, seen) for seen in (trained, untrained or trained))
    return compare_networks(ours, theirs)


def make_index() -> pd.DataFrame:
    """Every video has two clips; every fifth clip is silent, every seventh has no text."""
    pairs = [(split, number) for split, size in SIZES.items() for number in range(size)]
    rows = [(split, f"{split} {n // 2}", n % 5 > 0, n % 7) for split, n in pairs]
    index = pd.DataFrame(rows, columns=["split", "video_id", "has_audio", "num_captions"])
    return index.assign(source="demo", start_s=0.0, end_s=4.0, descriptions="[]")


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
    entry = TaskEntry("video", "colour", False, COLOURS, logits, "this network")
    return {"video": entry, "audio": Skipped("no segment has a label")}


def make_studies() -> list[Study]:
    """A study of three trials, and a task that was left out."""
    trials = [
        {"state": state, "trial": number, "value": value, "schedule": {"learning_rate": rate}}
        for number, (state, value, rate) in enumerate(
            [("complete", 0.4, 0.001), ("pruned", None, 0.02), ("complete", 0.45, 0.003)]
        )
    ]
    best = {"schedule": {"learning_rate": 0.003}, "value": 0.45, "trial": 2, "study": "video-0123"}
    figures = ["<svg><text>Value of each trial</text></svg>"]
    left_out = {"reason": "no segment has a label of <i>that</i> task"}
    return [
        {"task": "video", "skipped": None, "best": best, "trials": {"trials": trials}}
        | {"figures": figures},
        {"task": "audio", "skipped": left_out, "best": None, "figures": []},
    ]


def make_report(num_test: int = SIZES["test"]) -> Report:
    trained, untrained = make_splits(num_test)
    clips = trained["test"].clips
    comparison = compare_networks(trained, untrained, make_entries(clips))
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
        metrics={**make_metrics(comparison), "published": [PUBLISHED._asdict()]},
        figures=draw_figures(comparison, {"pretrain": curve, "video": curve}),
        studies=make_studies(),
        examples=pick_examples(clips, comparison.retrieval["text_to_video"], read_frames),
        index=make_index(),
        quarantine=[{"source": "inbox", "video_id": "<i>odd</i>.mp4", "reason": "no video stream"}],
        verdict={"passed": True, "expectations": [{**rule, "threshold": 0.9, "success": True}]},
        parameters={"clip": {"num_frames": 8, "frame_size_px": 64}, "model": {"video": "tiny"}},
        model=Vatt(TINY_MODEL, CLIP, vocab_size=400),
        clip=CLIP,
        code_version="c0de-dirty",
    )
