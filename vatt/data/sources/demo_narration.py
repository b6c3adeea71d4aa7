"""The narration of a demo video, like real speech transcripts: varied, off the topic, out of step."""

from typing import NamedTuple

import numpy as np

from vatt.data.sources.demo_scenes import Scene, VideoPlan

SHAPE_WORDS = {
    "ball": ("ball", "disc", "globe"),
    "box": ("box", "square", "crate"),
    "triangle": ("triangle", "wedge", "pyramid"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop", "donut"),
    "star": ("star", "sparkle"),
}
MOTION_WORDS = {
    "rise": ("rises", "climbs", "floats up"),
    "sink": ("sinks", "drops", "falls down"),
    "sway": ("sways", "swings", "slides sideways"),
    "circle": ("circles", "orbits", "travels round"),
    "rest": ("rests", "waits", "stays put"),
    "approach": ("approaches", "zooms in", "comes closer"),
}
MATERIAL_WORDS = {
    "metal": ("metal", "steel", "iron"),
    "wood": ("wood", "oak", "timber"),
    "glass": ("glass", "crystal"),
    "stone": ("stone", "rock", "granite"),
    "rubber": ("rubber", "latex"),
    "water": ("water", "ocean", "river"),
    "brick": ("brick", "clay"),
    "cloth": ("cloth", "cotton", "linen"),
}
RHYTHM_WORDS = {
    "slow": ("slow", "lazy", "sleepy"),
    "steady": ("steady", "regular", "calm"),
    "brisk": ("brisk", "lively", "cheerful"),
    "quick": ("quick", "rapid", "frantic"),
}
BEAT_WORDS = ("beat", "pulse", "rhythm", "tempo")

OPENINGS = (
    "",
    "",
    "",
    "okay so",
    "now",
    "and",
    "you see",
    "um",
    "look",
    "well",
    "here",
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


class Caption(NamedTuple):
    """One line of narration; times in seconds from the start of the video."""

    start_s: float
    end_s: float
    text: str


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
            text = _fill(str(rng.choice(ABOUT_SCENE)), _scene_at(plan, about_s), rng)
        captions.append(Caption(round(start_s, 3), round(end_s, 3), text))
        start_s = end_s + float(rng.uniform(0.0, 0.4))
    return captions


def _scene_at(plan: VideoPlan, time_s: float) -> Scene:
    """Return the scene at a time; the first or last one beyond the ends of the video."""
    earlier = [scene for scene in plan.scenes if scene.start_s <= time_s]
    return earlier[-1] if earlier else plan.scenes[0]


def _fill(sentence: str, scene: Scene, rng: np.random.Generator) -> str:
    """Put words for the scene's factors into a sentence."""
    filled = sentence.format(
        opening=rng.choice(OPENINGS),
        thing=rng.choice(THINGS),
        beat=rng.choice(BEAT_WORDS),
        shape=rng.choice(SHAPE_WORDS[scene.shape]),
        motion=rng.choice(MOTION_WORDS[scene.motion]),
        material=rng.choice(MATERIAL_WORDS[scene.material]),
        rhythm=rng.choice(RHYTHM_WORDS[scene.rhythm]),
    )
    return filled.strip()
