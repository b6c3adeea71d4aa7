"""What happens in a demo video: scenes with latent factors shared by picture, sound and text.

A scene has a shape (seen), a motion (seen, and heard as a whistle that follows it), a material
(seen as a wall, heard as a timbre) and a rhythm (seen in the lamps, heard as beats); all four are
named in the narration. Everything else (colours, brightness, positions, sizes, phases, gains,
noise) is drawn at random and tells nothing.
The narration is like real speech transcripts: varied, off the topic, out of step.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vatt.corpus.manifest import Split
from vatt.media.captions import Caption

SCENE_S = 4.0
"""The last scene of a video may be shorter."""
RHYTHMS_HZ = {"slow": 0.6, "steady": 1.1, "brisk": 1.9, "quick": 3.2}
"""Beats per second."""
BEAT_DECAY_S = 0.2
TASKS = {"image": "shape", "action": "motion", "audio_event": "material", "rhythm": "rhythm"}
"""The factor of the scene for each task of the annotations."""

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "shape": {
        "ball": ("ball", "disc", "globe"),
        "box": ("box", "square", "crate"),
        "triangle": ("triangle", "wedge", "pyramid"),
        "cross": ("cross", "plus sign"),
        "ring": ("ring", "hoop", "donut"),
        "star": ("star", "sparkle"),
    },
    "motion": {
        "rise": ("rises", "climbs", "floats up"),
        "sink": ("sinks", "drops", "falls down"),
        "sway": ("sways", "swings", "slides sideways"),
        "circle": ("circles", "orbits", "travels round"),
        "rest": ("rests", "waits", "stays put"),
        "approach": ("approaches", "zooms in", "comes closer"),
    },
    "material": {
        "metal": ("metal", "steel", "iron"),
        "wood": ("wood", "oak", "timber"),
        "glass": ("glass", "crystal"),
        "stone": ("stone", "rock", "granite"),
        "rubber": ("rubber", "latex"),
        "water": ("water", "ocean", "river"),
        "brick": ("brick", "clay"),
        "cloth": ("cloth", "cotton", "linen"),
    },
    "rhythm": {
        "slow": ("slow", "lazy", "sleepy"),
        "steady": ("steady", "regular", "calm"),
        "brisk": ("brisk", "lively", "cheerful"),
        "quick": ("quick", "rapid", "frantic"),
    },
}
"""The values of each factor, and the words for each value."""


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
        """The length of the scene."""
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
        """The length of the video."""
        return self.scenes[-1].end_s


def plan_videos(num_videos: int, seed: int) -> list[VideoPlan]:
    """Plan the corpus: 18 % of the videos for the test, 7 % for validation, the rest for training.

    There is at least one video in each split; `num_videos` is at least 3.
    """
    order = np.random.default_rng([seed, 0]).permutation(num_videos)
    num_test = max(1, round(0.18 * num_videos))
    num_validation = max(1, round(0.07 * num_videos))
    splits: dict[int, Split] = dict.fromkeys(range(num_videos), "train")
    splits |= dict.fromkeys(order[: num_test + num_validation].tolist(), "validation")
    splits |= dict.fromkeys(order[:num_test].tolist(), "test")
    return [_plan_video(number, split, seed) for number, split in splits.items()]


def beat_strength(scene: Scene, times_s: np.ndarray) -> np.ndarray:
    """Return the beat's strength in [0, 1]: it strikes, and dies away as fast at every rate."""
    since_s = (scene.beat_phase + scene.beat_rate_hz * times_s) % 1.0 / scene.beat_rate_hz
    strength: np.ndarray = np.minimum(since_s / 0.01, 1.0) * np.exp(-since_s / BEAT_DECAY_S)
    return strength


class Course(NamedTuple):
    """Where the shape is at each time, in half heights of the picture from its middle."""

    x: Float[np.ndarray, " N"]
    y: Float[np.ndarray, " N"]
    """Down is positive."""
    radius: Float[np.ndarray, " N"]


def move_shape(scene: Scene, times_s: np.ndarray) -> Course:
    """Return the course of a scene's shape at times since the start of the scene.

    What rises, sinks and approaches does so once in a scene, so that every window of a second or
    two shows it; what sways and circles comes back within that time.
    """
    rng = np.random.default_rng([scene.seed, 4])
    x, y = rng.uniform(-0.35, 0.35), rng.uniform(-0.45, 0.05)
    radius, late = rng.uniform(0.36, 0.44), rng.uniform(-0.1, 0.1)
    turns = rng.random() + times_s / rng.uniform(1.1, 1.6)
    progress, still = times_s / SCENE_S, np.zeros_like(times_s)
    angle = 2 * np.pi * turns
    match scene.motion:
        case "rise":
            return Course(x + still, 0.55 + late - 1.5 * progress, radius + still)
        case "sink":
            return Course(x + still, -0.95 + late + 1.5 * progress, radius + still)
        case "sway":
            return Course(x / 4 + 0.6 * np.sin(angle), y + still, radius + still)
        case "circle":
            across, down = 0.5 * np.cos(angle), 0.45 * np.sin(angle)
            return Course(x / 4 + across, y / 4 - 0.15 + down, radius + still)
        case "approach":
            return Course(x + still, y + still, 0.2 + 0.6 * (progress + late / 2))
        case _:  # rest
            return Course(x + still, y + still, radius + still)


def _plan_video(number: int, split: Split, seed: int) -> VideoPlan:
    rng = np.random.default_rng([seed, 1, number])
    num_scenes = int(rng.choice([2, 3, 4, 5], p=[0.05, 0.1, 0.2, 0.65]))
    last_s = float(rng.integers(25, 41)) / 10.0  # a whole number of frames, 2.5 to 4 s
    starts_s = [SCENE_S * index for index in range(num_scenes)]
    scenes = []
    for start_s, end_s in pairwise([*starts_s, starts_s[-1] + last_s]):
        rhythm, shape, motion, material = (
            str(rng.choice(list(WORDS[factor])))
            for factor in ("rhythm", "shape", "motion", "material")
        )
        rate_hz = RHYTHMS_HZ[rhythm] * float(rng.uniform(0.93, 1.07))
        phase, scene_seed = float(rng.random()), int(rng.integers(2**32))
        factors = (shape, motion, material, rhythm)
        scenes.append(Scene(start_s, end_s, *factors, rate_hz, phase, scene_seed))
    return VideoPlan(
        name=f"demo_{number:05d}",
        split=split,
        scenes=tuple(scenes),
        has_sound=bool(rng.random() >= 0.03),
        has_narration=bool(rng.random() >= 0.05),
        seed=int(rng.integers(2**32)),
    )


BEAT_WORDS = ("beat", "pulse", "rhythm", "tempo")

OPENINGS = (
    *("", "", "", "okay so", "now", "and", "you see", "um", "look", "well", "here"),
    "right so",
)
THINGS = ("thing", "one", "object")
ABOUT_SCENE = (
    "{opening} the {shape} {motion} before the {material} wall",
    "{opening} this {shape} {motion} at a {rhythm} {beat}",
    "{opening} the {shape} {motion} and the {beat} is {rhythm}",
    "{opening} the {shape} on {material} {motion} and is {rhythm}",
    "{opening} that {shape} {motion} near the {material}",
    "{opening} a {shape} and a {rhythm} {material} sound",
    "{opening} my {shape} on {material} with a {rhythm} {beat}",
    "{opening} a {shape} {motion} by the {material} with a {rhythm} {beat}",
)
OFF_TOPIC = (
    "thank you so much for watching",
    "do not forget to subscribe",
    "i will show you another day",
    "my neighbour asked me about this",
    "we had lunch before we filmed that",
    "let me know what you think",
    "it took us about two weeks",
    "anyway where was i",
    "the weather was nice that day",
    "as i said in my last video",
    "my sister gave me this idea",
    "just give it a moment",
)
DESCRIPTIONS = (
    "a {shape} {motion} before a {material} wall with a {rhythm} {beat}",
    "the {shape} {motion} on {material} at a {rhythm} {beat}",
)


def describe_scene(scene: Scene) -> str:
    """Return one clean sentence that names all four factors."""
    rng = np.random.default_rng([scene.seed, 2])
    return _fill(str(rng.choice(DESCRIPTIONS)), scene, rng)


def narrate(plan: VideoPlan) -> list[Caption]:
    """Return the video's captions in order of time, none if it has no narration.

    A fifth of them are off the topic. The others describe what is seen up to some seconds before
    or after: the speaker is early or late by the same few seconds all through the video, and a
    little more or less with each sentence.
    """
    if not plan.has_narration:
        return []
    rng = np.random.default_rng([plan.seed, 3])
    lag_s = rng.uniform(-1.5, 1.5)
    captions: list[Caption] = []
    start_s = float(rng.uniform(0.0, 1.0))
    while start_s < plan.duration_s - 1.0:
        end_s = min(start_s + float(rng.uniform(1.2, 2.0)), plan.duration_s)
        about_s = (start_s + end_s) / 2 - lag_s + rng.normal(0, 0.5)
        if rng.random() < 0.2:
            text = str(rng.choice(OFF_TOPIC))
        else:
            # Beyond the ends of the video, its first or last scene is described.
            earlier = [scene for scene in plan.scenes if scene.start_s <= about_s]
            scene = earlier[-1] if earlier else plan.scenes[0]
            text = _fill(str(rng.choice(ABOUT_SCENE)), scene, rng)
        captions.append(Caption(round(start_s, 3), round(end_s, 3), text))
        start_s = end_s + float(rng.uniform(0.0, 0.4))
    return captions


def _fill(sentence: str, scene: Scene, rng: np.random.Generator) -> str:
    """Put words for the scene's factors into a sentence."""
    filled = sentence.format(
        opening=rng.choice(OPENINGS),
        thing=rng.choice(THINGS),
        beat=rng.choice(BEAT_WORDS),
        **{name: rng.choice(words[getattr(scene, name)]) for name, words in WORDS.items()},
    )
    return filled.strip()
