"""The demo corpus: the same bytes always, real media, and factors that are where they should be."""

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
from sklearn.ensemble import RandomForestClassifier

from vatt.data.manifest import ManifestEntry, read_manifest, write_manifest
from vatt.data.sources.demo import generate_demo, write_video
from vatt.data.sources.demo_narration import (
    MATERIAL_WORDS,
    MOTION_WORDS,
    RHYTHM_WORDS,
    SHAPE_WORDS,
    describe_scene,
    narrate,
)
from vatt.data.sources.demo_picture import HEIGHT_PX, TEXTURE_PERIOD_PX, WIDTH_PX, draw_scene
from vatt.data.sources.demo_scenes import (
    MATERIALS,
    MOTIONS,
    RHYTHMS,
    SHAPES,
    Scene,
    plan_videos,
)
from vatt.data.sources.demo_sound import NOISE_BANDS_HZ, PARTIALS_HZ, play_scene

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "shape": dict(SHAPE_WORDS),
    "motion": dict(MOTION_WORDS),
    "material": dict(MATERIAL_WORDS),
    "rhythm": dict(RHYTHM_WORDS),
}
GENERATE = """
import sys
from pathlib import Path
from vatt.data.sources.demo import generate_demo
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


def scene_of(seed: int, duration_s: float = 4.0, **factors: str) -> Scene:
    """A scene with the given factors; what is not given is drawn from the seed."""
    rng = np.random.default_rng(seed)
    drawn = {
        "shape": str(rng.choice(SHAPES)),
        "motion": str(rng.choice(MOTIONS)),
        "material": str(rng.choice(MATERIALS)),
        "rhythm": str(rng.choice(list(RHYTHMS))),
    } | factors
    return Scene(
        start_s=0.0,
        end_s=duration_s,
        shape=drawn["shape"],
        motion=drawn["motion"],
        material=drawn["material"],
        rhythm=drawn["rhythm"],
        beat_rate_hz=RHYTHMS[drawn["rhythm"]] * float(rng.uniform(0.93, 1.07)),
        beat_phase=float(rng.random()),
        seed=seed,
    )


def strongest_rate_hz(signal_of_time: Floats, sample_rate_hz: float) -> float:
    """The frequency between 0.3 and 3 Hz at which a signal is strongest."""
    centred = (signal_of_time - signal_of_time.mean()) * np.hanning(len(signal_of_time))
    times_s = np.arange(len(centred)) / sample_rate_hz
    rates_hz = np.arange(0.3, 3.0, 0.01)
    strength = np.abs(np.exp(-2j * np.pi * rates_hz[:, None] * times_s) @ centred)
    return float(rates_hz[strength.argmax()])


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
            assert frames / 20 == pytest.approx(plan.duration_s)
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
    drawn = np.concatenate([draw_scene(scene, 20) for scene in plan.scenes]).astype(np.float64)
    assert np.abs(frames - drawn).mean() < 8  # colour at half resolution, and quantisation
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


def test_one_frames_colour_and_the_loudness_tell_nothing() -> None:
    scenes = [scene_of(seed, duration_s=1.0) for seed in range(600)]
    rng = np.random.default_rng(0)
    rows = []
    for scene in scenes:
        frame = draw_scene(scene, 5)[rng.integers(5)] / 255.0
        sound = play_scene(scene)
        rows.append([*frame.mean((0, 1)), frame.mean(), np.log(np.mean(sound**2))])
    for factor, labels_and_words in WORDS.items():
        labels = np.array([getattr(scene, factor) for scene in scenes])
        forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=0)
        forest.fit(rows[:400], labels[:400])
        chance = 1 / len(labels_and_words)
        margin = 3 * np.sqrt(chance * (1 - chance) / 200)
        assert forest.score(rows[400:], labels[400:]) < chance + margin, factor


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_rhythm_is_the_same_in_picture_and_sound(rhythm: str) -> None:
    scene = scene_of(1, 16.0, rhythm=rhythm, motion="rest")
    seen = draw_scene(scene, 20).mean(axis=(1, 2, 3))
    heard = np.sqrt(np.square(play_scene(scene), dtype=np.float64).reshape(-1, 2400).mean(axis=1))
    assert strongest_rate_hz(seen, 20) == pytest.approx(scene.beat_rate_hz, abs=0.03)
    assert strongest_rate_hz(heard, 20) == pytest.approx(scene.beat_rate_hz, abs=0.03)
    assert np.corrcoef(seen, heard)[0, 1] > 0.6


@pytest.mark.parametrize("material", MATERIALS)
def test_material_is_heard_in_its_own_band(material: str) -> None:
    low_hz, high_hz = NOISE_BANDS_HZ.get(material) or (
        0.95 * PARTIALS_HZ[material][0],
        1.05 * PARTIALS_HZ[material][-1],
    )
    for seed in range(3):
        power = np.abs(np.fft.rfft(play_scene(scene_of(seed, 2.0, material=material)))) ** 2
        frequency_hz = np.fft.rfftfreq(96_000, 1 / 48_000)
        inside = (frequency_hz > 0.95 * low_hz) & (frequency_hz < 1.05 * high_hz)
        assert power[inside].sum() > 0.85 * power.sum()


@pytest.mark.parametrize(
    ("material", "direction"),
    [("metal", (1, 0)), ("wood", (0, 1)), ("glass", (1, 1)), ("stone", (1, 1))],
)
def test_material_is_seen_as_a_texture(material: str, direction: tuple[int, int]) -> None:
    for seed in range(3):
        scene = scene_of(seed, 1.0, material=material, motion="rest")
        frame = draw_scene(scene, 10).astype(np.float64)[5].mean(axis=-1)
        spectrum = np.abs(np.fft.rfft2(frame - frame.mean()))
        down = np.abs(np.fft.fftfreq(HEIGHT_PX))[:, None]
        across = np.fft.rfftfreq(WIDTH_PX)[None, :]
        spectrum[np.hypot(down, across) < 0.06] = 0  # the shape
        peak = np.unravel_index(spectrum.argmax(), spectrum.shape)
        measured = np.array([down[peak[0], 0], across[0, peak[1]]])
        expected = np.array(direction) / TEXTURE_PERIOD_PX[material]
        assert np.abs(measured - expected).max() < 0.02


@pytest.mark.parametrize("motion", MOTIONS)
def test_motion_is_seen(motion: str) -> None:
    scene = dataclasses.replace(scene_of(6, motion=motion, shape="box"), beat_rate_hz=1e-6)
    frames = draw_scene(scene, 10).astype(np.float64)  # in steady light
    x, y, side = track_box(frames)
    seen = side > 15  # not on its way from one edge to the other
    down = np.diff(y)[seen[1:] & seen[:-1]]
    is_wide, is_high = np.ptp(x[seen]) > 25, np.ptp(y[seen]) > 25
    grows = np.mean(np.diff(side) > 0) > 0.8 and side.max() > 1.8 * side.min()
    measured = {
        "rise": is_high and not is_wide and np.mean(down < 0) > 0.8,
        "sink": is_high and not is_wide and np.mean(down > 0) > 0.8,
        "sway": is_wide and not is_high,
        "circle": is_wide and is_high,
        "rest": not is_wide and not is_high and not grows,
        "approach": not is_wide and not is_high and grows,
    }
    assert [name for name, holds in measured.items() if holds] == [motion]


def track_box(frames: Floats) -> tuple[Floats, Floats, Floats]:
    """The middle and side in pixels of the box: where the colour of the first frame's box is."""
    colours, counts = np.unique(
        frames.reshape(-1, 3).round().astype(int), axis=0, return_counts=True
    )
    colour = colours[counts.argmax()]  # plain, while the wall has a grain
    found = np.abs(frames - colour).max(axis=-1) <= 1
    area = np.maximum(found.sum((1, 2)), 1)
    x = (found.sum(1) * np.arange(WIDTH_PX)).sum(1) / area
    y = (found.sum(2) * np.arange(HEIGHT_PX)).sum(1) / area
    return x, y, np.sqrt(found.sum((1, 2)))


def test_words_name_one_factor_each_and_descriptions_name_all() -> None:
    words = [word for table in WORDS.values() for names in table.values() for word in names]
    assert len(set(words)) == len(words)
    for seed in range(50):
        scene = scene_of(seed)
        text = describe_scene(scene)
        for factor, table in WORDS.items():
            named = {label for label, names in table.items() if any(n in text for n in names)}
            assert named == {getattr(scene, factor)}, text


def test_narration_is_often_late_or_early_but_five_captions_hold_a_right_one() -> None:
    num_scenes = nearest_fits = any_fits = 0
    off_topic = 0.0
    for plan in plan_videos(300, 3):
        captions = narrate(plan)
        for scene in plan.scenes if captions else ():
            middle_s = (scene.start_s + scene.end_s) / 2
            nearest = sorted(captions, key=lambda c: abs((c.start_s + c.end_s) / 2 - middle_s))[:5]
            fits = [names_scene(caption.text, scene) for caption in nearest]
            num_scenes += 1
            nearest_fits += fits[0] is True
            any_fits += True in fits
            off_topic += fits.count(None) / len(fits)
    assert 0.3 < nearest_fits / num_scenes < 0.75
    assert any_fits / num_scenes > 0.85
    assert 0.2 < off_topic / num_scenes < 0.3


def names_scene(text: str, scene: Scene) -> bool | None:
    """Whether all that a caption names is in the scene; None if it names nothing."""
    named = {
        (factor, label)
        for factor, table in WORDS.items()
        for label, names in table.items()
        if any(f" {name} " in f" {text} " for name in names)
    }
    return all(getattr(scene, factor) == label for factor, label in named) if named else None
