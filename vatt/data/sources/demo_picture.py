"""The picture of a demo scene: a shape that moves before a textured wall, in light that beats."""

import numpy as np
from jaxtyping import Float, UInt8

from vatt.data.sources.demo_scenes import Scene, beat_strength

WIDTH_PX = 96
HEIGHT_PX = 96
FRAME_RATE_HZ = 20

TEXTURE_PERIOD_PX = {"metal": 9, "wood": 9, "glass": 10, "stone": 16, "rubber": 14, "water": 12}


def draw_scene(scene: Scene, frame_rate_hz: float) -> UInt8[np.ndarray, "T H W 3"]:
    """Draw the RGB frames of a scene, evenly spaced from its start."""
    rng = np.random.default_rng([scene.seed, 0])
    num_frames = round(scene.duration_s * frame_rate_hz)
    times_s = np.arange(num_frames, dtype=np.float32) / np.float32(frame_rate_hz)
    x_px, y_px, radius_px = (HEIGHT_PX / 2 * path for path in _move(scene.motion, times_s, rng))
    column = (_axis_px(WIDTH_PX) - x_px[:, None])[:, None, :] / radius_px[:, None, None]
    row = (_axis_px(HEIGHT_PX) - y_px[:, None])[:, :, None] / radius_px[:, None, None]
    edge_px = _inside(scene.shape, column, row) * radius_px[:, None, None]
    covered = np.clip(edge_px + 0.5, 0, 1)[..., None]
    wall = _draw_wall(scene.material, rng)
    colour = rng.choice([0.0, 0.7]) + rng.uniform(0, 0.3, 3).astype(np.float32)  # dark or bright
    frames = (wall * (1 - covered) + colour * covered).astype(np.float32)
    _add_spots(frames, times_s, rng)
    beat = beat_strength(scene, times_s)
    light = rng.uniform(0.65, 0.85) + 0.35 * (beat - beat.mean())
    frames *= light.astype(np.float32)[:, None, None, None]
    pixels: np.ndarray = np.clip(255 * frames, 0, 255).astype(np.uint8)
    return pixels


def _axis_px(size_px: int) -> Float[np.ndarray, " N"]:
    """Pixel centres, counted from the middle of the picture."""
    centres: np.ndarray = np.arange(size_px, dtype=np.float32) - np.float32((size_px - 1) / 2)
    return centres


def _move(
    motion: str, times_s: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y of the shape's centre and its radius at each time, in half heights of the picture."""
    x, y = rng.uniform(-0.4, 0.4, 2).astype(np.float32)
    radius = np.float32(rng.uniform(0.5, 0.65))
    turn = rng.random(dtype=np.float32)
    period_s = np.float32(rng.uniform(1.3, 1.9))
    angle = 2 * np.pi * (turn + times_s / period_s)
    still = np.zeros_like(times_s)
    moves = {
        "rise": (x + still, 1.3 - 2.6 * ((turn + times_s / (2 * period_s)) % 1.0)),
        "sink": (x + still, 2.6 * ((turn + times_s / (2 * period_s)) % 1.0) - 1.3),
        "sway": (x / 4 + 0.6 * np.sin(angle), y + still),
        "circle": (x / 4 + 0.5 * np.cos(angle), y / 4 + 0.5 * np.sin(angle)),
    }
    at_x, at_y = moves.get(motion, (x + still, y + still))
    if motion == "approach":
        return at_x, at_y, 0.25 + 0.7 * ((turn + times_s / period_s) % 1.0)
    return at_x, at_y, radius + still


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the signed distance to the edge, in radii, positive inside; u, v from the centre."""
    across, down = np.abs(u), np.abs(v)
    distance: np.ndarray
    match shape:
        case "ball":
            distance = 0.95 - np.sqrt(u * u + v * v)
        case "box":
            distance = 0.85 - np.maximum(across, down)
        case "triangle":
            distance = np.minimum(0.8 - v, 0.86 * (0.6 * (v + 1.0) - across))
        case "cross":
            upright = np.minimum(0.4 - across, 1.05 - down)
            distance = np.maximum(upright, np.minimum(1.05 - across, 0.4 - down))
        case "ring":
            distance = 0.32 - np.abs(np.sqrt(u * u + v * v) - 0.7)
        case _:  # star
            distance = 1.2 - (across**0.65 + down**0.65)
    return distance


def _draw_wall(material: str, rng: np.random.Generator) -> Float[np.ndarray, "H W 3"]:
    """Draw the wall behind: the texture of the material, shifted a little, with grain.

    The shift stays below a sixth of a period, so that a network can begin with the material, from
    which the others are found in minutes; with free shifts it takes hours.
    """
    step = 2 * np.pi / (TEXTURE_PERIOD_PX[material] * rng.uniform(0.98, 1.02))
    column = step * _axis_px(WIDTH_PX)[None, :] + rng.uniform(-1, 1)
    row = step * _axis_px(HEIGHT_PX)[:, None] + rng.uniform(-1, 1)
    match material:
        case "metal":  # fine lines across
            texture = np.sin(row + 0 * column)
        case "wood":  # upright grain
            texture = np.sin(column + 0 * row)
        case "glass":  # a slanting gleam
            texture = np.sin(column + row)
        case "stone":  # blocks
            texture = 1.5 * np.sin(column) * np.sin(row)
        case "rubber":  # dots
            texture = np.cos(column) + np.cos(row)
        case _:  # ripples of water
            texture = np.sin(np.sqrt(column * column + row * row))
    colour = rng.uniform(0.4, 0.6, 3)
    contrast = rng.uniform(0.2, 0.4, 3)
    wall = colour + contrast * np.clip(2 * texture, -1, 1)[..., None]
    wall = wall + rng.normal(0, 0.03, wall.shape)
    visible: np.ndarray = np.clip(wall, 0, 1).astype(np.float32)
    return visible


def _add_spots(
    frames: Float[np.ndarray, "T H W 3"], times_s: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw two plain spots that drift, in place: they mean nothing."""
    for _ in range(2):
        start_px, speed_px = rng.uniform(10, HEIGHT_PX - 10, 2), rng.uniform(-8, 8, 2)
        size, colour = int(rng.integers(6, 14)), rng.random(3, dtype=np.float32)
        for frame, time_s in zip(frames, times_s.tolist(), strict=True):
            left, upper = np.clip(start_px + speed_px * time_s, 0, HEIGHT_PX - size).astype(int)
            frame[upper : upper + size, left : left + size] = colour
