"""The demo corpus: the same bytes always, in real media, with its captions and labels."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pysubs2
import pytest

from vatt.corpus.manifest import ManifestEntry, read_manifest, write_manifest
from vatt.download.demo import (
    FRAME_RATE_HZ,
    HEIGHT_PX,
    WIDTH_PX,
    draw_scene,
    generate_demo,
    play_scene,
    write_video,
)
from vatt.download.demo_scenes import describe_scene, narrate, plan_videos

GENERATE = """
import sys
from pathlib import Path
from vatt.download.demo import generate_demo
if __name__ == "__main__":
    generate_demo(Path(sys.argv[1]), 30, 7, 1)
"""

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ManifestEntry]]:
    folder = tmp_path_factory.mktemp("download")
    return folder, generate_demo(folder / "demo", 5, 7, num_workers=2)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(
    corpus: tuple[Path, list[ManifestEntry]], tmp_path: Path
) -> None:
    folder, entries = corpus
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "stale.mp4").write_text("of another corpus")
    assert generate_demo(tmp_path / "demo", 5, 7, num_workers=1) == entries
    assert digests(tmp_path / "demo") == digests(folder / "demo")


def test_another_seed_gives_another_corpus(corpus: tuple[Path, list[ManifestEntry]]) -> None:
    _, entries = corpus
    assert plan_videos(5, 7) != plan_videos(5, 8)
    assert plan_videos(5, 7)[0].name == Path(entries[0].video_id).stem


def test_a_killed_run_can_be_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    killed = subprocess.Popen([sys.executable, "-c", GENERATE, str(folder)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("demo.partial/*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert list(tmp_path.glob("demo.partial/*.mp4"))
    assert not folder.exists()
    plans = plan_videos(3, 7)
    generate_demo(folder, 3, 7, num_workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert {path.stem for path in folder.iterdir()} == {plan.name for plan in plans}


def test_files_are_h264_and_aac_of_the_planned_length(
    corpus: tuple[Path, list[ManifestEntry]],
) -> None:
    folder, entries = corpus
    for entry, plan in zip(entries, plan_videos(5, 7), strict=True):
        assert entry.path is not None
        with av.open(folder / entry.path) as container:
            picture = container.streams.video[0]
            assert picture.codec_context.name == "h264"
            assert picture.codec_context.pix_fmt == "yuv420p"
            assert (picture.width, picture.height) == (WIDTH_PX, HEIGHT_PX)
            frames = sum(1 for _ in container.decode(picture))
            assert frames / FRAME_RATE_HZ == pytest.approx(plan.duration_s)
            assert 6.0 <= plan.duration_s <= 20.0
        with av.open(folder / entry.path) as container:
            assert len(container.streams.audio) == plan.has_sound
            if plan.has_sound:
                sound = container.streams.audio[0]
                assert (sound.codec_context.name, sound.rate) == ("aac", 48_000)
                chunks = [frame.to_ndarray() for frame in container.decode(sound)]
                seconds = sum(chunk.shape[1] for chunk in chunks) / 48_000
                assert seconds == pytest.approx(plan.duration_s, abs=0.05)


def test_media_hold_what_was_drawn_and_played_at_the_same_time(tmp_path: Path) -> None:
    plan = dataclasses.replace(plan_videos(3, 1)[0], has_sound=True)
    write_video(tmp_path, plan)
    with av.open(tmp_path / f"{plan.name}.mp4") as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    with av.open(tmp_path / f"{plan.name}.mp4") as container:
        chunks = [f.to_ndarray() for f in container.decode(audio=0) if f.pts is not None]
    drawn = np.concatenate([draw_scene(scene, FRAME_RATE_HZ) for scene in plan.scenes])
    difference = np.abs(frames - drawn.astype(np.float64))
    assert difference.mean() < 8  # colour at half resolution, and quantisation
    played = np.concatenate([play_scene(scene) for scene in plan.scenes])
    heard = np.concatenate(chunks, axis=1)[0][: len(played)]
    assert np.corrcoef(heard, played[: len(heard)])[0, 1] > 0.9


def test_narration_file_holds_the_captions(corpus: tuple[Path, list[ManifestEntry]]) -> None:
    folder, entries = corpus
    for entry, plan in zip(entries, plan_videos(5, 7), strict=True):
        assert (entry.captions_path is not None) == plan.has_narration
        if entry.captions_path:
            events = pysubs2.load(str(folder / entry.captions_path)).events
            captions = narrate(plan)
            assert [event.text for event in events] == [caption.text for caption in captions]
            assert [event.start / 1000 for event in events] == [c.start_s for c in captions]


def test_manifest_rows_label_every_scene(
    corpus: tuple[Path, list[ManifestEntry]], tmp_path: Path
) -> None:
    folder, entries = corpus
    write_manifest(folder, entries)
    assert read_manifest(folder) == entries
    for entry, plan in zip(entries, plan_videos(5, 7), strict=True):
        for scene in plan.scenes:
            here = {a.task: a for a in entry.annotations if a.start_s == scene.start_s}
            assert {task: a.label for task, a in here.items()} == {
                "image": scene.shape,
                "action": scene.motion,
                "audio_event": scene.material,
                "rhythm": scene.rhythm,
                "caption": None,
            }
            assert {a.end_s for a in here.values()} == {scene.end_s}
            assert here["caption"].text == describe_scene(scene)


def test_splits_are_by_video_and_large_enough() -> None:
    plans = plan_videos(300, 2021)
    segments = Counter[str]()
    for plan in plans:
        segments[plan.split] += len(plan.scenes)
    assert segments["test"] >= 200
    assert segments["validation"] >= 80
    assert segments["train"] >= 700
    assert {plan.split for plan in plan_videos(3, 0)} == {"train", "validation", "test"}
    scenes = [scene for plan in plans for scene in plan.scenes]
    assert len({(s.shape, s.motion, s.material, s.rhythm) for s in scenes}) > 400
    assert 0 < sum(not plan.has_sound for plan in plans) < 20
    assert 0 < sum(not plan.has_narration for plan in plans) < 30
