"""The demo corpus: videos with sound and narration, generated from a seed, the same bytes every time."""

import os
from functools import partial
from pathlib import Path

import av
import numpy as np
import pysubs2
from tqdm import tqdm

from vatt.atomic import atomic_path
from vatt.data.manifest import Annotation, ManifestEntry
from vatt.data.preprocessing.workers import run_in_workers
from vatt.data.sources.demo_narration import describe_scene, narrate
from vatt.data.sources.demo_picture import FRAME_RATE_HZ, HEIGHT_PX, WIDTH_PX, draw_scene
from vatt.data.sources.demo_scenes import TASKS, Scene, VideoPlan, plan_videos
from vatt.data.sources.demo_sound import play_scene
from vatt.params import AUDIO_RATE_HZ, StageError


def generate_demo(
    out_dir: Path, num_videos: int, seed: int, num_workers: int | None = None
) -> list[ManifestEntry]:
    """Write the demo corpus to `out_dir`, in place of what stands there, and return its manifest rows.

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
    """Write one video as MP4, and its narration, if any, as WebVTT beside it; returns its name."""
    _write_mp4(folder / f"{plan.name}.mp4", plan)
    if plan.has_narration:
        subtitles = pysubs2.SSAFile()
        subtitles.events = [
            pysubs2.SSAEvent(round(1000 * start_s), round(1000 * end_s), text)
            for start_s, end_s, text in narrate(plan)
        ]
        (folder / f"{plan.name}.vtt").write_text(subtitles.to_string("vtt"), encoding="utf-8")
    return plan.name


def _write_mp4(path: Path, plan: VideoPlan) -> None:
    """Encode H.264 and AAC. One thread and no version strings or dates: the same bytes every time."""
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


def _manifest_entry(plan: VideoPlan, source: str) -> ManifestEntry:
    """Describe a video to the later stages; its scenes' factors are the labels."""
    captions = f"{source}/{plan.name}.vtt" if plan.has_narration else None
    return ManifestEntry(
        source=source,
        video_id=f"{plan.name}.mp4",
        path=f"{source}/{plan.name}.mp4",
        captions_path=captions,
        captions_format="vtt" if captions else None,
        split=plan.split,
        annotations=tuple(annotation for scene in plan.scenes for annotation in _annotate(scene)),
    )


def _annotate(scene: Scene) -> list[Annotation]:
    labels = [
        Annotation(task, getattr(scene, factor), scene.start_s, scene.end_s)
        for task, factor in TASKS.items()
    ]
    text = describe_scene(scene)
    return [*labels, Annotation("caption", None, scene.start_s, scene.end_s, text)]
