"""The demo corpus: videos with sound and narration, generated from a seed, always the same bytes.

In the picture a shape moves before a wall, above a row of lamps in its form that flash at each
beat. The sound is beats, whose timbre is the material and whose rate is the rhythm, and a whistle
that follows the shape: higher where it is higher, louder where it is nearer. Colours come from few
palettes, the same for all scenes: were they drawn freely, a network would know each scene by its
colours instead of by what happens in it.
"""

import os
from functools import partial
from pathlib import Path

import av
import numpy as np
import pysubs2
from jaxtyping import Float, UInt8
from tqdm import tqdm

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.core.pool import run_in_workers
from vatt.corpus.manifest import Annotation, ManifestEntry
from vatt.download.collection import describe_captions
from vatt.download.demo_scenes import (
    TASKS,
    Scene,
    VideoPlan,
    beat_strength,
    describe_scene,
    move_shape,
    narrate,
    plan_videos,
)
from vatt.params import AUDIO_RATE_HZ

WIDTH_PX = HEIGHT_PX = 96
FRAME_RATE_HZ = 10

TEXTURE_PERIOD_PX = {
    **dict.fromkeys(("metal", "wood", "cloth"), 8),
    **dict.fromkeys(("glass", "rubber", "brick"), 12),
    **dict.fromkeys(("stone", "water"), 24),
}
LAMP_PX = 24
"""The side of a lamp; their row is the lowest part of the picture."""
LAMP_DIM, LAMP_FLASH = 0.15, 0.85
"""The light of a lamp between two beats, and what a beat adds to it."""
MEAN_COLOURS = np.array([[0.4, 0.32, 0.24], [0.24, 0.4, 0.32], [0.32, 0.24, 0.4]], np.float32)
SHAPE_COLOURS = np.array(
    [[1.0, 0.75, 0.75], [0.75, 1.0, 0.75], [0.75, 0.75, 1.0], [0.95, 0.95, 0.7]], np.float32
)
"""All brighter than any wall: where the shape is, a network sees at once."""


def draw_scene(scene: Scene, frame_rate_hz: float) -> UInt8[np.ndarray, "T H W 3"]:
    """Draw the RGB frames of a scene, evenly spaced from its start."""
    rng = np.random.default_rng([scene.seed, 0])
    num_frames = round(scene.duration_s * frame_rate_hz)
    times_s = np.arange(num_frames, dtype=np.float32) / np.float32(frame_rate_hz)
    x_px, y_px, radius_px = (
        (HEIGHT_PX / 2 * way).astype(np.float32) for way in move_shape(scene, times_s)
    )
    column = (_axis_px(WIDTH_PX) - x_px[:, None])[:, None, :] / radius_px[:, None, None]
    row = (_axis_px(HEIGHT_PX) - y_px[:, None])[:, :, None] / radius_px[:, None, None]
    edge_px = _inside(scene.shape, column, row) * radius_px[:, None, None]
    covered = np.clip(edge_px + 0.5, 0, 1)[..., None]
    frames = np.repeat(_draw_wall(scene.material, rng)[None], num_frames, axis=0)
    light = LAMP_DIM + LAMP_FLASH * beat_strength(scene, times_s).astype(np.float32)
    frames[:, -LAMP_PX:] = _draw_lamps(scene.shape, rng) * light[:, None, None, None] + 0.1
    frames = frames * (1 - covered) + rng.choice(SHAPE_COLOURS) * covered
    # Neither the size of the shape nor the texture nor the lamps show in the mean colour.
    frames += rng.choice(MEAN_COLOURS) - frames.mean((1, 2), keepdims=True)
    frames *= np.float32(rng.uniform(0.8, 1.1))
    pixels: np.ndarray = np.clip(255 * frames, 0, 255).astype(np.uint8)
    return pixels


def _axis_px(size_px: int) -> Float[np.ndarray, " N"]:
    """Return the centres of pixels, counted from the middle of the picture."""
    return np.arange(size_px, dtype=np.float32) - np.float32((size_px - 1) / 2)


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
    textures = {
        "metal": np.sin(row + 0 * column),  # fine lines across
        "wood": np.sin(column + 0 * row),  # upright grain
        "glass": np.sin(column + row),  # a slanting gleam
        "stone": 1.5 * np.sin(column) * np.sin(row),  # blocks
        "brick": np.sin(column - row),  # a slant the other way
        "cloth": 2 * np.sin(column) * np.sin(row),  # a fine weave
        "rubber": np.cos(column) + np.cos(row),  # dots
        "water": np.sin(2 * row + 2 * np.sin(column)),  # waves
    }
    texture = textures[material]
    grain = rng.normal(0, 0.03, (HEIGHT_PX, WIDTH_PX, 3))
    wall: np.ndarray = 0.25 * np.clip(2 * texture, -1, 1)[..., None] + 0.4 + grain
    return wall.astype(np.float32)


def _draw_lamps(shape: str, rng: np.random.Generator) -> Float[np.ndarray, "H W 1"]:
    """Draw a row of lamps in the form of the shape, 0 beside them and 1 on them, with grain."""
    column, row = (
        (np.arange(length_px) + rng.uniform(-1.5, 1.5)) % LAMP_PX - LAMP_PX / 2
        for length_px in (WIDTH_PX, LAMP_PX)
    )
    radius_px = 0.46 * LAMP_PX
    edge_px = _inside(shape, column[None, :] / radius_px, row[:, None] / radius_px) * radius_px
    lit = np.clip(edge_px + 0.5, 0, 1) + rng.normal(0, 0.03, edge_px.shape)
    lamps: np.ndarray = lit[..., None].astype(np.float32)
    return lamps


PARTIALS_HZ = {
    "metal": (2100.0, 3350.0, 5250.0),
    "wood": (420.0, 610.0),
    "glass": (7400.0, 9300.0),
    "rubber": (140.0, 210.0),
}
NOISE_BANDS_HZ = {
    "stone": (200.0, 12000.0),
    "water": (900.0, 1700.0),
    "brick": (150.0, 500.0),
    "cloth": (4500.0, 8500.0),
}


def play_scene(scene: Scene) -> Float[np.ndarray, " S"]:
    """Play the scene: mono at 48 kHz in [-1, 1], of random loudness, over random noise."""
    rng = np.random.default_rng([scene.seed, 1])
    times_s = np.arange(round(scene.duration_s * AUDIO_RATE_HZ)) / AUDIO_RATE_HZ
    if band_hz := NOISE_BANDS_HZ.get(scene.material):
        # No high peaks, which would be clipped.
        timbre = np.tanh(1.5 * _band_noise(len(times_s), band_hz, rng))
    else:
        partials_hz, pitch = PARTIALS_HZ[scene.material], rng.uniform(0.9, 1.1)
        phases = rng.uniform(0, 2 * np.pi, len(partials_hz))
        tones = [
            np.sin(2 * np.pi * pitch * partial_hz * times_s + phase)
            for partial_hz, phase in zip(partials_hz, phases, strict=True)
        ]
        timbre = np.sum(tones, axis=0)
    beats = _unit_power(timbre) * (0.25 + 1.5 * beat_strength(scene, times_s))
    course = move_shape(scene, times_s)
    whistle_hz = 800 * 2 ** (0.5 * course.x - 1.3 * (course.y + 0.2))
    whistle = np.sin(2 * np.pi * (rng.random() + np.cumsum(whistle_hz) / AUDIO_RATE_HZ))
    sound = beats + 1.3 * (course.radius / 0.4) ** 2 * whistle
    sound += rng.uniform(0.1, 0.3) * _band_noise(len(times_s), (50.0, 6000.0), rng)
    fade = np.clip(np.minimum(times_s, times_s[::-1]) / 0.02, 0, 1)
    loudness = 10 ** rng.uniform(-0.9, -0.6)
    return np.tanh(loudness * _unit_power(sound * fade)).astype(np.float32)


def _band_noise(
    num_samples: int, band_hz: tuple[float, float], rng: np.random.Generator
) -> Float[np.ndarray, " S"]:
    """Return Gaussian noise of unit power between two frequencies."""
    spectrum = np.fft.rfft(rng.normal(size=num_samples))
    frequency_hz = np.fft.rfftfreq(num_samples, 1 / AUDIO_RATE_HZ)
    spectrum[(frequency_hz < band_hz[0]) | (frequency_hz > band_hz[1])] = 0
    return _unit_power(np.fft.irfft(spectrum, num_samples))


def _unit_power(sound: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = sound / np.sqrt(np.mean(sound**2))
    return scaled


def generate_demo(
    out_dir: Path, num_videos: int, seed: int, num_workers: int | None = None
) -> list[ManifestEntry]:
    """Write the demo corpus to `out_dir`, in place of what stands there; return its manifest rows.

    The folder appears when it is complete. Its bytes depend on `num_videos` and `seed` only, not on
    the number of worker processes (default: one for each core).

    Raises:
        StageError: a worker process was killed, for lack of memory, say.
    """
    plans = plan_videos(num_videos, seed)
    workers = num_workers or len(os.sched_getaffinity(0))
    with atomic_path(out_dir) as folder:
        folder.mkdir()
        written = run_in_workers(partial(write_video, folder), plans, workers)
        for name in tqdm(written, total=num_videos, desc="demo videos", unit="video"):
            if name is None:
                raise StageError(f"{out_dir}: a process that wrote a demo video was killed")
    return [_manifest_entry(plan, out_dir.name) for plan in plans]


def write_video(folder: Path, plan: VideoPlan) -> str:
    """Write one video as MP4, and its narration, if any, as WebVTT beside it; return its name.

    H.264 and AAC are encoded in one thread, without versions and dates: always the same bytes.
    """
    if plan.has_narration:
        subtitles = pysubs2.SSAFile()
        subtitles.events = [
            pysubs2.SSAEvent(round(1000 * said.start_s), round(1000 * said.end_s), said.text)
            for said in narrate(plan)
        ]
        (folder / f"{plan.name}.vtt").write_text(subtitles.to_string("vtt"), encoding="utf-8")
    path = folder / f"{plan.name}.mp4"
    with av.open(path, "w", container_options={"fflags": "+bitexact"}) as container:
        picture = container.add_stream(
            "libx264", FRAME_RATE_HZ, {"preset": "ultrafast", "crf": "20", "threads": "1"}
        )
        picture.width, picture.height, picture.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        picture.codec_context.flags |= av.codec.context.Flags.bitexact
        if plan.has_sound:
            sound = container.add_stream("aac", AUDIO_RATE_HZ, {"aac_coder": "fast"})
            sound.layout, sound.bit_rate = "mono", 96_000
            sound.codec_context.flags |= av.codec.context.Flags.bitexact
        number = 0
        for scene in plan.scenes:
            for pixels in draw_scene(scene, FRAME_RATE_HZ):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number
                number += 1
                container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if plan.has_sound:
            samples = np.concatenate([play_scene(scene) for scene in plan.scenes])
            chunk = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            chunk.sample_rate, chunk.pts = AUDIO_RATE_HZ, 0
            container.mux(sound.encode(chunk))
            container.mux(sound.encode(None))
    return plan.name


def _manifest_entry(plan: VideoPlan, source: str) -> ManifestEntry:
    """Describe a video to the later stages; its scenes' factors are the labels."""
    notes: list[Annotation] = []
    for scene in plan.scenes:
        times_s = (scene.start_s, scene.end_s)
        notes += [
            Annotation(task, getattr(scene, factor), *times_s) for task, factor in TASKS.items()
        ]
        notes.append(Annotation("caption", None, *times_s, describe_scene(scene)))
    captions = describe_captions(source, f"{plan.name}.vtt") if plan.has_narration else {}
    name = f"{plan.name}.mp4"
    return ManifestEntry(
        source, name, plan.split, path=f"{source}/{name}", annotations=tuple(notes), **captions
    )
