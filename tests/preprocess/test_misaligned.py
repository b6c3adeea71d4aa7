"""Videos whose sound, picture and captions are unusual or do not fit: measured and judged."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.made_media import Clip
from tests.preprocess.runs import preprocess, write_clips
from tests.speech import Speech, say, write_captions
from tests.validate.clean import PARAMS as VALIDATE
from tests.validate.clean import duplicates, quarantine
from vatt.corpus.index import read_index
from vatt.corpus.manifest import write_manifest
from vatt.validate.tables import Corpus
from vatt.validate.verdict import validate_corpus

LENGTH_S = 60.0
SPEECH = {seed: say(LENGTH_S, seed) for seed in (1, 2, 3)}
LONG = Clip(duration_s=LENGTH_S, frame_rate_hz=5, sample_rate_hz=16_000, num_channels=1, flash_s=())


def delay(speech: Speech, late_s: float) -> Speech:
    """Speak later; what goes beyond the end is lost."""
    silence = np.zeros(round(late_s * 16_000), np.float32)
    return speech._replace(samples=np.concatenate([silence, speech.samples])[: len(speech.samples)])


# Name to sound, captions, and how late these are.
NARRATED = {
    "good.mp4": (SPEECH[1], SPEECH[1], 0.0),
    "late captions.mp4": (SPEECH[2], SPEECH[2], 2.0),
    "early captions.mp4": (SPEECH[3], SPEECH[3], -3.0),
    "late sound.mp4": (delay(SPEECH[1], 2.0), SPEECH[1], 0.0),
    "captions of another.mp4": (SPEECH[1], SPEECH[2], 0.0),
    "swapped sound.mp4": (SPEECH[3], SPEECH[1], 0.0),
    "music.mp4": (None, SPEECH[1], 0.0),
}
SHORT = Clip(duration_s=3.0, flash_s=(1.0,))
ODD = {
    "surround.mp4": replace(SHORT, num_channels=6, sample_rate_hz=48_000),
    "8 bit.wav": replace(
        SHORT, video=False, num_channels=1, sample_rate_hz=8000, audio_codec="pcm_u8"
    ),
    "1 fps.mp4": replace(SHORT, frame_rate_hz=1, duration_s=6.0),
    "240 fps.mp4": replace(SHORT, frame_rate_hz=240),
    "8K.mp4": replace(
        SHORT, width_px=7680, height_px=4320, frame_rate_hz=5, duration_s=0.6, flash_s=(0.2,)
    ),
    "sound starts 2 s later.mkv": replace(SHORT, duration_s=6.0, audio_start_s=2.0),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("misaligned")
    spoken = {
        name: replace(LONG, samples=sound.samples if sound else None)
        for name, (sound, _, _) in NARRATED.items()
    }
    entries = write_clips(folder, ODD)
    for row in write_clips(folder, spoken):
        _, captions, late_s = NARRATED[row.video_id]
        write_captions(folder / f"{row.path}.vtt", captions, late_s)
        entries.append(replace(row, captions_path=f"{row.path}.vtt"))
    write_manifest(folder, entries)
    counts = preprocess(folder, folder / "out", num_workers=2)
    assert counts["quarantined"] == 0
    assert counts["near_duplicates"] == 0
    return read_index(folder / "out")


def rows_of(index: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = index[index["video_id"] == name]
    assert len(rows) > 0
    return rows


@pytest.mark.parametrize(
    ("name", "offset_s"),
    [
        ("good.mp4", 0.0),
        ("late captions.mp4", 2.0),
        ("early captions.mp4", -3.0),
        ("late sound.mp4", -2.0),
    ],
)
def test_the_offset_of_captions_is_found(index: pd.DataFrame, name: str, offset_s: float) -> None:
    rows = rows_of(index, name)
    assert set(rows["caption_offset_s"]) == {rows["caption_offset_s"].iloc[0]}
    assert rows["caption_offset_s"].iloc[0] == pytest.approx(offset_s, abs=0.3)
    assert rows["caption_score"].min() > 0.5
    assert 0.3 < rows["speech_rate"].mean() < 0.9


@pytest.mark.parametrize("name", ["captions of another.mp4", "swapped sound.mp4"])
def test_captions_of_another_sound_have_a_low_score(index: pd.DataFrame, name: str) -> None:
    assert rows_of(index, name)["caption_score"].max() < 0.2


def test_captions_of_music_cannot_be_timed(index: pd.DataFrame) -> None:
    rows = rows_of(index, "music.mp4")
    assert rows["speech_rate"].max() < 0.05
    assert rows["caption_score"].isna().all()


def test_the_verdict_names_those_that_do_not_fit(index: pd.DataFrame) -> None:
    narrated = index[index["video_id"].isin(NARRATED)]
    verdict, page = validate_corpus(Corpus(narrated, quarantine(0), duplicates(0)), VALIDATE)
    examples = {
        rule["name"]: {text.partition(":")[0] for text in rule["examples"]}
        for rule in verdict["expectations"]
        if not rule["success"]
    }
    assert examples["captions_fit_mostly"] == {"s/captions of another.mp4", "s/swapped sound.mp4"}
    late = {"s/late captions.mp4", "s/early captions.mp4", "s/late sound.mp4"}
    assert examples["captions_in_time_mostly"] == late
    assert examples["captions_spoken"] == {"s/music.mp4"}
    assert "s/swapped sound.mp4: 0" in page


ABOUT_3, LOW = pytest.approx(3.0, abs=0.1), pytest.approx(0.149, abs=0.15)
NUM_15 = pytest.approx(15.5, abs=0.5)  # AAC fills up its last frame


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("surround.mp4", {"audio_duration_s": ABOUT_3, "silent_rate": 0.0, "clipped_rate": 0.0}),
        ("8 bit.wav", {"num_samples": 3 * 48_000, "silent_rate": 0.0}),
        # Each picture stands for five frames of 5 per second.
        ("1 fps.mp4", {"num_frames": 20, "frozen_rate": pytest.approx(16 / 19)}),
        ("240 fps.mp4", {"num_frames": NUM_15, "frozen_rate": LOW}),
        ("8K.mp4", {"height_px": 64, "width_px": 114, "num_frames": 3}),
    ],
)
def test_odd_pictures_and_sounds_are_usable(
    index: pd.DataFrame, name: str, expected: dict[str, Any]
) -> None:
    row = rows_of(index, name).iloc[0]
    assert {column: row[column] for column in expected} == expected


def test_sound_that_starts_later_is_measured_and_kept_in_place(index: pd.DataFrame) -> None:
    rows = rows_of(index, "sound starts 2 s later.mkv")
    assert set(rows["start_offset_s"].round(1)) == {2.0}
    assert rows["video_duration_s"].sum() == pytest.approx(6.0, abs=0.05)
    assert rows["end_s"].max() == pytest.approx(8.0, abs=0.25)
    assert rows["audio_duration_s"].sum() == pytest.approx(6.0, abs=0.1)
