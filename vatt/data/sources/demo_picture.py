"""The picture of a demo scene: a shape moves before a wall and its frieze, in light that beats.

Colours come from few palettes, the same for all scenes: were they drawn freely, a network would
learn to know each scene by its colours instead of by what happens in it.
"""

import numpy as np
from jaxtyping import Float, UInt8

from vatt.data.sources.demo_scenes import Scene, beat_strength

WIDTH_PX = 96
HEIGHT_PX = 96
FRAME_RATE_HZ = 20

TEXTURE_PERIOD_PX = {
    "metal": 8,
    "wood": 8,
    "glass": 12,
    "stone": 24,
    "rubber": 12,
    "water": 24,
    "brick": 12,
    "cloth": 8,
}
TILE_PX = 24
"""Distance of the small shapes in the frieze."""
MEAN_COLOURS = np.array([[0.5, 0.4, 0.3], [0.3, 0.5, 0.4], [0.4, 0.3, 0.5]], np.float32)
SHAPE_COLOURS = np.array(
    [[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.2]], np.float32
)


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
    _draw_frieze(wall, scene.shape, rng)
    frames = wall[None] * (1 - covered) + rng.choice(SHAPE_COLOURS) * covered
    # Neither the size of the shape nor the texture shows in the mean colour.
    frames += rng.choice(MEAN_COLOURS) - frames.mean((1, 2), keepdims=True)
    beat = beat_strength(scene, times_s)
    light = 0.9 + 0.4 * (beat - beat.mean())
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

    The shift stays below a sixth of a period: that is what a network sees first, and from there it
    finds the rest in minutes.
    """
    step = 2 * np.pi / TEXTURE_PERIOD_PX[material]
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
        case "brick":  # a slant the other way
            texture = np.sin(column - row)
        case "cloth":  # a fine weave
            texture = 2 * np.sin(column) * np.sin(row)
        case "rubber":  # dots
            texture = np.cos(column) + np.cos(row)
        case _:  # waves
            texture = np.sin(2 * row + 2 * np.sin(column))
    grain = rng.normal(0, 0.03, (HEIGHT_PX, WIDTH_PX, 3))
    wall: np.ndarray = 0.25 * np.clip(2 * texture, -1, 1)[..., None] + 0.4 + grain
    return wall.astype(np.float32)


def _draw_frieze(wall: Float[np.ndarray, "H W 3"], shape: str, rng: np.random.Generator) -> None:
    """Cover the lower half of a wall with small copies of the shape, in place."""
    top_px = HEIGHT_PX // 2
    column, row = (
        (np.arange(start_px, stop_px) + rng.uniform(-1.5, 1.5)) % TILE_PX - TILE_PX / 2
        for start_px, stop_px in ((0, WIDTH_PX), (top_px, HEIGHT_PX))
    )
    radius_px = 0.46 * TILE_PX
    edge_px = _inside(shape, column[None, :] / radius_px, row[:, None] / radius_px) * radius_px
    covered = np.clip(edge_px + 0.5, 0, 1)[..., None]
    wall[top_px:] = 0.1 + 0.8 * covered + rng.normal(0, 0.03, wall[top_px:].shape)
