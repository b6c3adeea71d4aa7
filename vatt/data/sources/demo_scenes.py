"""What happens in a demo video: scenes with latent factors shared by picture, sound and text.

A scene has a shape (seen), a motion (seen), a material (seen as a wall, heard as a timbre) and
a rhythm (seen in the light, heard as beats); all four are named in the narration. Everything else
(colours, brightness, positions, sizes, phases, gains, noise) is drawn at random and tells nothing.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

SCENE_S = 4.0
"""The last scene of a video may be shorter."""

SHAPES = ("ball", "box", "triangle", "cross", "ring", "star")
MOTIONS = ("rise", "sink", "sway", "circle", "rest", "approach")
MATERIALS = ("metal", "wood", "glass", "stone", "rubber", "water", "brick", "cloth")
RHYTHMS = {"slow": 0.7, "steady": 1.1, "brisk": 1.7, "quick": 2.5}
"""Beats per second."""
BEAT_DECAY_S = 0.2

TASKS = {"image": "shape", "action": "motion", "audio_event": "material", "rhythm": "rhythm"}
"""Task of the annotations -> factor of the scene."""

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Scene:
    """One scene: its four factors, and a seed for all that is left to chance."""

    start_s: float
    end_s: float
    shape: str
    motion: str
    material: str
    rhythm: str
    beat_rate_hz: float
    beat_phase: float
    """Phase of the beat at the start of the scene, in cycles."""
    seed: int

    @property
    def duration_s(self) -> float:
        """Length of the scene in seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class VideoPlan:
    """A demo video before it is drawn, played and narrated."""

    name: str
    split: Split
    scenes: tuple[Scene, ...]
    has_sound: bool
    has_narration: bool
    seed: int

    @property
    def duration_s(self) -> float:
        """Length of the video in seconds."""
        return self.scenes[-1].end_s


def plan_videos(num_videos: int, seed: int) -> list[VideoPlan]:
    """Plan the corpus: 18 % of the videos for the test, 7 % for validation, the rest for training.

    There is at least one video in each split; `num_videos` is at least 3.
    """
    order = np.random.default_rng([seed, 0]).permutation(num_videos)
    num_test = max(1, round(0.18 * num_videos))
    num_validation = max(1, round(0.07 * num_videos))
    splits: dict[int, Split] = {}
    for place, number in enumerate(order.tolist()):
        if place < num_test:
            splits[number] = "test"
        else:
            splits[number] = "validation" if place < num_test + num_validation else "train"
    return [_plan_video(number, splits[number], seed) for number in range(num_videos)]


def beat_strength(scene: Scene, times_s: np.ndarray) -> np.ndarray:
    """Strength in [0, 1] of the beat: it strikes, then dies away, at the same speed at every rate."""
    since_s = (scene.beat_phase + scene.beat_rate_hz * times_s) % 1.0 / scene.beat_rate_hz
    strength: np.ndarray = np.minimum(since_s / 0.01, 1.0) * np.exp(-since_s / BEAT_DECAY_S)
    return strength


def _plan_video(number: int, split: Split, seed: int) -> VideoPlan:
    rng = np.random.default_rng([seed, 1, number])
    num_scenes = int(rng.choice([2, 3, 4, 5], p=[0.05, 0.1, 0.2, 0.65]))
    last_s = float(rng.integers(50, 81)) / 20.0  # a whole number of frames, 2.5 to 4 s
    starts_s = [SCENE_S * index for index in range(num_scenes)]
    ends_s = [*starts_s[1:], starts_s[-1] + last_s]
    return VideoPlan(
        name=f"demo_{number:05d}",
        split=split,
        scenes=tuple(
            _plan_scene(start_s, end_s, rng)
            for start_s, end_s in zip(starts_s, ends_s, strict=True)
        ),
        has_sound=bool(rng.random() >= 0.03),
        has_narration=bool(rng.random() >= 0.05),
        seed=int(rng.integers(2**32)),
    )


def _plan_scene(start_s: float, end_s: float, rng: np.random.Generator) -> Scene:
    rhythm = str(rng.choice(list(RHYTHMS)))
    return Scene(
        start_s=start_s,
        end_s=end_s,
        shape=str(rng.choice(SHAPES)),
        motion=str(rng.choice(MOTIONS)),
        material=str(rng.choice(MATERIALS)),
        rhythm=rhythm,
        beat_rate_hz=RHYTHMS[rhythm] * float(rng.uniform(0.93, 1.07)),
        beat_phase=float(rng.random()),
        seed=int(rng.integers(2**32)),
    )
