"""What happens in demo videos: factors that are where they should be, and nowhere else."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.ensemble import RandomForestClassifier

from vatt.download.demo import (
    HEIGHT_PX,
    LAMP_PX,
    NOISE_BANDS_HZ,
    PARTIALS_HZ,
    TEXTURE_PERIOD_PX,
    WIDTH_PX,
    draw_scene,
    play_scene,
)
from vatt.download.demo_scenes import (
    RHYTHMS_HZ,
    WORDS,
    Scene,
    describe_scene,
    move_shape,
    narrate,
    plan_videos,
)

Floats = npt.NDArray[np.float64]


def scene_of(seed: int, duration_s: float = 4.0, **factors: str) -> Scene:
    """A scene with the given factors; what is not given is drawn from the seed."""
    rng = np.random.default_rng(seed)
    drawn = {name: str(rng.choice(list(values))) for name, values in WORDS.items()} | factors
    return Scene(
        start_s=0.0,
        end_s=duration_s,
        **drawn,
        beat_rate_hz=RHYTHMS_HZ[drawn["rhythm"]] * float(rng.uniform(0.93, 1.07)),
        beat_phase=float(rng.random()),
        seed=seed,
    )


def strongest_rate_hz(signal_of_time: Floats, sample_rate_hz: float) -> float:
    """The frequency between 0.3 and 4 Hz at which a signal is strongest."""
    centred = (signal_of_time - signal_of_time.mean()) * np.hanning(len(signal_of_time))
    times_s = np.arange(len(centred)) / sample_rate_hz
    rates_hz = np.arange(0.3, 4.0, 0.01)
    strength = np.abs(np.exp(-2j * np.pi * rates_hz[:, None] * times_s) @ centred)
    return float(rates_hz[strength.argmax()])


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


@pytest.mark.parametrize("rhythm", RHYTHMS_HZ)
def test_rhythm_is_the_same_in_picture_and_sound(rhythm: str) -> None:
    scene = scene_of(1, 16.0, rhythm=rhythm, motion="rest")
    seen = draw_scene(scene, 20)[:, -LAMP_PX:].mean(axis=(1, 2, 3))
    heard = np.sqrt(np.square(play_scene(scene), dtype=np.float64).reshape(-1, 2400).mean(axis=1))
    assert strongest_rate_hz(seen, 20) == pytest.approx(scene.beat_rate_hz, abs=0.03)
    assert strongest_rate_hz(heard, 20) == pytest.approx(scene.beat_rate_hz, abs=0.03)
    assert np.corrcoef(seen, heard)[0, 1] > 0.6


@pytest.mark.parametrize("motion", WORDS["motion"])
def test_the_whistle_follows_the_shape(motion: str) -> None:
    scene = scene_of(3, shape="box", material="glass", motion=motion)  # far above the whistle
    sound = play_scene(scene).astype(np.float64)[: 80 * 2400].reshape(80, 2400)  # twentieths
    power = np.abs(np.fft.rfft(sound * np.hanning(2400), 9600)) ** 2
    frequency_hz = np.fft.rfftfreq(9600, 1 / 48_000)
    band = (frequency_hz > 200) & (frequency_hz < 3000)
    heard_hz = frequency_hz[band][power[:, band].argmax(axis=1)]
    course = move_shape(scene, (np.arange(80) + 0.5) / 20)
    octaves = np.log2(heard_hz / 800)
    assert np.median(np.abs(octaves - (0.5 * course.x - 1.3 * (course.y + 0.2)))) < 0.05
    if motion == "approach":
        loudness = np.sqrt(power[:, band].max(axis=1))
        assert loudness[-10:].mean() > 3 * loudness[:10].mean()
    _, y, side = track_box(draw_scene(scene, 20).astype(np.float64))
    whole = (side > 25) & (y > 16) & (y < HEIGHT_PX - LAMP_PX - 16)
    if motion in ("rise", "sink", "circle"):
        assert np.corrcoef(octaves[whole], y[whole])[0, 1] < -0.6


@pytest.mark.parametrize("material", WORDS["material"])
def test_material_is_heard_in_its_own_band(material: str) -> None:
    low_hz, high_hz = NOISE_BANDS_HZ.get(material) or (
        PARTIALS_HZ[material][0],
        PARTIALS_HZ[material][-1],
    )
    for seed in range(3):
        scene = scene_of(seed, 2.0, material=material, motion="rest")
        power = np.abs(np.fft.rfft(play_scene(scene))) ** 2
        frequency_hz = np.fft.rfftfreq(96_000, 1 / 48_000)
        x, y = (way[0] for way in move_shape(scene, np.zeros(1))[:2])
        power[np.abs(frequency_hz - 800 * 2 ** (0.5 * x - 1.3 * (y + 0.2))) < 10] = 0  # whistle
        inside = (frequency_hz > 0.88 * low_hz) & (frequency_hz < 1.12 * high_hz)
        assert power[inside].sum() > 0.75 * power.sum()


DIRECTIONS = {
    "metal": (1, 0),
    "wood": (0, 1),
    **dict.fromkeys(("glass", "brick", "stone", "cloth"), (1, 1)),
}


@pytest.mark.parametrize("material", DIRECTIONS)
def test_material_is_seen_as_a_texture(material: str) -> None:
    for seed in range(3):
        scene = scene_of(seed, 1.0, material=material, motion="rest")
        frame = draw_scene(scene, 10).astype(np.float64)[5].mean(axis=-1)[: HEIGHT_PX // 2]
        spectrum = np.abs(np.fft.rfft2(frame - frame.mean()))
        down = np.abs(np.fft.fftfreq(len(frame)))[:, None]
        across = np.fft.rfftfreq(WIDTH_PX)[None, :]
        spectrum[np.hypot(down, across) < 0.045] = 0  # the shape
        peak = np.unravel_index(spectrum.argmax(), spectrum.shape)
        measured = np.array([down[peak[0], 0], across[0, peak[1]]])
        expected = np.array(DIRECTIONS[material]) / TEXTURE_PERIOD_PX[material]
        assert np.abs(measured - expected).max() < 0.022


@pytest.mark.parametrize("motion", WORDS["motion"])
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
    """The middle and side in pixels of the box: it is plain, while the wall has a grain."""
    found = np.zeros(frames.shape[:3], bool)
    for number, frame in enumerate(frames):
        colours, counts = np.unique(frame.reshape(-1, 3).astype(int), axis=0, return_counts=True)
        found[number] = np.abs(frame - colours[counts.argmax()]).max(axis=-1) <= 1
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
    assert 0.3 < nearest_fits / num_scenes < 0.8
    assert any_fits / num_scenes > 0.85
    assert 0.15 < off_topic / num_scenes < 0.25


def names_scene(text: str, scene: Scene) -> bool | None:
    """Whether all that a caption names is in the scene; None if it names nothing."""
    named = {
        (factor, label)
        for factor, table in WORDS.items()
        for label, names in table.items()
        if any(f" {name} " in f" {text} " for name in names)
    }
    return all(getattr(scene, factor) == label for factor, label in named) if named else None
