"""The picture of a demo scene: a textured shape that moves and flashes before a random background."""

import numpy as np
from jaxtyping import Float, UInt8

from vatt.data.sources.demo_scenes import Scene, beat_strength

WIDTH_PX = 112
HEIGHT_PX = 96
FRAME_RATE_HZ = 20

TEXTURE_PERIOD_PX = {"metal": 6, "wood": 10, "glass": 11, "stone": 12, "rubber": 11, "water": 9}


def draw_scene(scene: Scene, frame_rate_hz: float) -> UInt8[np.ndarray, "T H W 3"]:
    """Draw the RGB frames of a scene, evenly spaced from its start."""
    rng = np.random.default_rng([scene.seed, 0])
    num_frames = round(scene.duration_s * frame_rate_hz)
    times_s = np.arange(num_frames, dtype=np.float32) / np.float32(frame_rate_hz)
    beat = beat_strength(scene, times_s).astype(np.float32)
    x, y, radius = _move(scene.motion, times_s, rng)
    radius = radius * (1.0 + 0.12 * beat)
    column = _axis_px(WIDTH_PX)[None, None, :] - x[:, None, None] * (HEIGHT_PX / 2)
    row = _axis_px(HEIGHT_PX)[None, :, None] - y[:, None, None] * (HEIGHT_PX / 2)
    radius_px = radius[:, None, None] * (HEIGHT_PX / 2)
    mask = np.clip(
        _inside(scene.shape, column / radius_px, row / radius_px) * radius_px + 0.5, 0, 1
    )
    texture = np.clip(3.0 * _texture(scene.material, column, row), -1, 1)
    first, second = _contrasting_colours(rng)
    light = mask * (0.45 + 0.55 * beat[:, None, None])
    pattern = light * texture
    background = _background(times_s, rng)
    frames = np.empty((num_frames, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    uncovered = 255.0 - 255.0 * mask
    for channel in range(3):
        mean = 127.5 * (first[channel] + second[channel])
        contrast = 127.5 * (first[channel] - second[channel])
        frames[..., channel] = (
            background[..., channel] * uncovered + mean * light + contrast * pattern
        )
    return frames


def _axis_px(size_px: int) -> Float[np.ndarray, " N"]:
    """Pixel centres, counted from the middle of the picture."""
    centres: np.ndarray = np.arange(size_px, dtype=np.float32) - np.float32((size_px - 1) / 2)
    return centres


def _move(
    motion: str, times_s: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y of the shape's centre and its radius at each time, in half heights of the picture."""
    x, y = rng.uniform(-0.4, 0.4, 2).astype(np.float32)
    radius = np.float32(rng.uniform(0.42, 0.55))
    turn = rng.random(dtype=np.float32)
    period_s = np.float32(rng.uniform(1.8, 2.6))
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
        return at_x, at_y, 0.25 + 0.5 * ((turn + times_s / period_s) % 1.0)
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


def _texture(material: str, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the material's texture, about -1 to 1 with mean 0; it moves with the shape."""
    step = 2 * np.pi / TEXTURE_PERIOD_PX[material]
    texture: np.ndarray
    match material:
        case "metal":  # fine lines across
            texture = np.sin(step * row)
        case "wood":  # upright grain
            texture = np.sin(step * column)
        case "glass":  # a slanting gleam
            texture = np.sin(step * (column + row))
        case "stone":  # blocks
            texture = 1.5 * np.sin(step * column) * np.sin(step * row)
        case "rubber":  # dots
            texture = np.cos(step * column) + np.cos(step * row) - 0.15
        case _:  # ripples of water
            texture = np.sin(step * np.sqrt(column * column + row * row))
    return texture


def _contrasting_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw two colours in [0, 1] whose brightness differs by at least 0.35, in either order."""
    while True:
        first, second = rng.random((2, 3))
        if abs(float(first.mean() - second.mean())) > 0.35:
            return first, second


def _background(times_s: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "T H W 3"]:
    """Draw a colour gradient with grain and two plain spots that drift; in [0, 1]."""
    corners = rng.uniform(0.1, 0.9, (2, 2, 1, 1, 3)).astype(np.float32)
    across = np.linspace(0, 1, WIDTH_PX, dtype=np.float32)[None, :, None]
    down = np.linspace(0, 1, HEIGHT_PX, dtype=np.float32)[:, None, None]
    top = corners[0, 0] * (1 - across) + corners[0, 1] * across
    bottom = corners[1, 0] * (1 - across) + corners[1, 1] * across
    picture = top * (1 - down) + bottom * down
    picture = picture + rng.normal(0, 0.03, picture.shape).astype(np.float32)
    frames = np.repeat(picture[None], len(times_s), axis=0)
    for _ in range(2):
        start, speed = rng.uniform(10, HEIGHT_PX - 10, 2), rng.uniform(-8, 8, 2)
        size, colour = int(rng.integers(6, 14)), rng.random(3, dtype=np.float32)
        for frame, time_s in zip(frames, times_s.tolist(), strict=True):
            left, upper = np.clip(start + speed * time_s, 0, HEIGHT_PX - size).astype(int)
            frame[upper : upper + size, left : left + size] = colour
    np.clip(frames, 0, 1, out=frames)
    return frames
