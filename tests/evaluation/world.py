"""A small evaluated world made of numbers: clips with labels, a network that knows them, one that does not."""

import numpy as np
import pandas as pd

from tests.tiny import TINY_MODEL
from vatt.evaluation.comparison import Comparison, Split, compare_networks, summarise
from vatt.evaluation.reading.features import Clips, Features
from vatt.evaluation.report.examples import pick_examples
from vatt.evaluation.report.figures import draw_figures
from vatt.evaluation.report.page import Report
from vatt.models.vatt import Vatt
from vatt.params import ClipParams

CLIP = ClipParams(
    num_frames=8, frame_size_px=64, num_samples=51_200, num_tokens=16, num_candidates=5
)
COLOURS = ["amber", "blue", "green", "red"]
MOTIONS = ["falling <b>fast</b>", "rising", "turning"]


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
        f"something {COLOURS[colour]} is {MOTIONS[motion]}" if number % 7 else None
        for number, colour, motion in zip(numbers, colours, motions, strict=True)
    ]
    clips = Clips(
        digest=name,
        names=[f"demo/{name} {number}.mp4, 0.0 to 4.0 s" for number in numbers],
        labels=labels,
        texts=texts,
        has_video=np.ones(num_clips, dtype=bool),
        has_audio=numbers % 5 > 0,
    )
    return Split(clips, see(factors, 0.4, seed + 1), see(factors, 5.0, seed + 2))


def see(factors: np.ndarray, noise: float, seed: int) -> Features:
    generator = np.random.default_rng(seed)
    own = generator.normal(size=factors.shape) * 0.2  # what only this clip has, in all modalities
    return Features._make(
        (factors + own + generator.normal(size=factors.shape) * noise).astype(np.float32)
        for _ in Features._fields
    )


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


def make_metrics(comparison: Comparison) -> dict[str, object]:
    return {**summarise(comparison), "test_data": "a1" * 32, "export": "b2" * 32}


def make_report(splits: dict[str, Split]) -> Report:
    comparison = compare_networks(splits)
    curve = [
        {
            "step": step,
            "loss": 8 * 0.99**step + 1,
            "loss_va": 4 * 0.99**step,
            "loss_vt": None,
            "learning_rate": min(step, 50) / 50,
            "gradient_norm": 1 + 1 / (1 + step),
        }
        for step in range(0, 300, 10)
    ]
    rule = {"description": "Durations agree.", "severity": "critical", "observed": 0.99}
    return Report(
        metrics=make_metrics(comparison),
        figures=draw_figures(comparison, curve),
        examples=pick_examples(splits["test"].clips, splits["test"].trained, read_frames),
        index=make_index(),
        quarantine=[{"source": "inbox", "video_id": "<i>odd</i>.mp4", "reason": "no video stream"}],
        verdict={"passed": True, "expectations": [{**rule, "threshold": 0.9, "success": True}]},
        parameters={"clip": {"num_frames": 8, "frame_size_px": 64}, "model": {"video": "tiny"}},
        model=Vatt(TINY_MODEL, CLIP, vocab_size=400),
        clip=CLIP,
    )
