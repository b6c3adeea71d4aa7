"""What is cut out of what a recogniser hears, and what is left out of what it writes."""

import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.made_media import Clip, write_clip
from tests.preprocess.fake_hub import serve_hub
from tests.preprocess.spoken_corpus import RATE_HZ, SENTENCES_DIR, asr_params, model_dir
from tests.speech import say
from vatt.core.errors import StageError
from vatt.params import AsrParams
from vatt.preprocess import recognition
from vatt.preprocess.analysis import FRAME_S
from vatt.preprocess.recognition import cut_lines, judge, open_recogniser
from vatt.preprocess.speech_pieces import SpeechPiece, read_speech_pieces
from vatt.preprocess.transcripts import SpokenLine, Transcript, TranscriptStore, Word

ROOT = Path(__file__).parents[2]


def say_words(text: str, start_s: float = 0.0, word_s: float = 0.3) -> list[Any]:
    """Return words as faster-whisper has them: with the spaces before them."""
    return [
        SimpleNamespace(
            start=start_s + number * word_s, end=start_s + (number + 1) * word_s, word=w
        )
        for number, w in enumerate(re.findall(r"\s*\S+", text))
    ]


def write_line(text: str, start_s: float, end_s: float, compression_ratio: float = 1.0) -> Any:
    return SimpleNamespace(
        text=text,
        start=start_s,
        end=end_s,
        compression_ratio=compression_ratio,
        words=say_words(text, start_s),
    )


def test_what_nobody_said_is_found() -> None:
    speech = np.zeros(round(20 / FRAME_S), np.float32)
    speech[: round(10 / FRAME_S)] = 1.0
    piece = SpeechPiece(300.0, np.zeros(20 * RATE_HZ, np.float32), speech)
    segments = [
        write_line(" Fry the onions", 0.5, 2.0),
        write_line(" Fry the onions", 2.0, 4.0),
        write_line(" Stir, stir, stir, stir, stir, stir", 4.0, 6.0, compression_ratio=2.5),
        write_line(" ... ♪", 6.0, 8.0),
        write_line(" and stir.", 8.0, 11.0),
        write_line(" Thank you for watching!", 12.0, 14.0),
    ]
    lines, left_out = judge(segments, piece)
    assert [(line.start_s, line.text) for line in lines] == [
        (300.5, "Fry the onions"),
        (308.0, "and stir."),
    ]
    assert [(line.start_s, line.end_s, line.reason) for line in left_out] == [
        (302.0, 304.0, "repeated"),
        (304.0, 306.0, "repeated"),
        (306.0, 308.0, "no words"),
        (312.0, 314.0, "without speech"),
    ]


def test_lines_end_with_sentences_at_pauses_and_after_five_seconds() -> None:
    words = say_words(" Mr. Dashwood cuts the onions. Then he waits") + say_words(
        " and adds salt and oil and pepper and a very small piece of the butter that is left", 5.0
    )
    assert [line.text for line in cut_lines(words, 60.0)] == [
        "Mr. Dashwood cuts the onions.",
        "Then he waits",
        "and adds salt and oil and pepper and a very small piece of the butter that",
        "is left",
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from([" a", " bc.", "油", "。", "ใส่", " שמן"]), st.floats(0, 3)),
        min_size=1,
        max_size=40,
    )
)
def test_no_word_is_lost_by_cutting(spoken: list[tuple[str, float]]) -> None:
    words, time_s = [], 0.0
    for text, length_s in spoken:
        words.append(SimpleNamespace(start=time_s, end=time_s + length_s, word=text))
        time_s += length_s
    lines = cut_lines(words, 1.0)
    spaceless = "".join(text for text, _ in spoken).replace(" ", "")
    assert "".join(line.text for line in lines).replace(" ", "") == spaceless
    for line in lines:
        assert 0 <= line.start_s < line.end_s
        assert "".join(word.text for word in line.words) == line.text.replace(" ", "")


def test_long_sound_is_cut_where_nobody_speaks(tmp_path: Path) -> None:
    speech = say(700, seed=3)
    clip = Clip(video=False, samples=speech.samples, sample_rate_hz=RATE_HZ, num_channels=1)
    pieces = list(read_speech_pieces(write_clip(tmp_path / "long.wav", clip)))
    assert len(pieces) == 3
    assert sum(len(piece.samples) for piece in pieces) == pytest.approx(700 * RATE_HZ, abs=64)
    for piece, following in pairwise(pieces):
        assert len(piece.samples) <= 300 * RATE_HZ
        end_s = piece.start_s + len(piece.samples) / RATE_HZ
        assert end_s == pytest.approx(following.start_s)
        assert not any(start_s < end_s < stop_s for start_s, stop_s in speech.phrases_s)


def test_a_later_start_of_the_sound_shifts_the_words(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    (piece,) = read_speech_pieces(SENTENCES_DIR / "0880.ogg")
    samples = np.interp(np.arange(0, len(piece.samples), 1 / 3), *_positions(piece.samples))
    clip = Clip(duration_s=6.0, samples=samples.astype(np.float32), sample_rate_hz=48_000)
    late = write_clip(tmp_path / "late.mkv", Clip(**{**vars(clip), "audio_start_s": 2.0}))
    recogniser = open_recogniser(asr_params(), tmp_path)
    first, second = (
        recogniser.transcribe(path, path.name, tmp_path)
        for path in (SENTENCES_DIR / "0880.ogg", late)
    )
    assert second.lines[0].start_s == pytest.approx(first.lines[0].start_s + 2.0, abs=0.3)
    assert (tmp_path / "progress").stat().st_size > 1  # who waits sees that it goes on


def _positions(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(samples)), samples


TRANSCRIPT = Transcript("zh", 0.9, (SpokenLine(0.0, 1.0, "加油", (Word(0.0, 1.0, "加油"),)),), ())


def test_a_damaged_transcript_is_taken_for_absent(tmp_path: Path) -> None:
    store = TranscriptStore(tmp_path / "store")
    assert store.read("00ff") is None
    store.add("00ff", TRANSCRIPT, tmp_path)
    assert store.read("00ff") == TRANSCRIPT
    path = store.path_of("00ff")
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert store.read("00ff") is None
    path.write_bytes(content)
    store.remove_all_but({"00ff"})
    assert store.read("00ff") == TRANSCRIPT
    store.remove_all_but(set())
    assert store.read("00ff") is None


def test_all_that_decides_a_transcript_is_in_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faster_whisper")
    for name in recognition.MODEL_FILES:
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text("{}")

    def key(**changes: Any) -> str:
        recognition.digest_recognition_code.cache_clear()
        params = AsrParams(model=str(tmp_path / "model"), **changes)
        return open_recogniser(params, tmp_path).key

    keys = [key(), key(language="de"), key(device="cuda"), key(compute_type="float32")]
    (tmp_path / "model/model.bin").write_text("another")
    keys.append(key())
    monkeypatch.setattr(recognition, "version", lambda _: "0.0")
    keys.append(key())
    monkeypatch.setattr(recognition, "CODE", ("media",))
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]
    recognition.digest_recognition_code.cache_clear()


def test_without_faster_whisper_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "LIBRARIES", ("no-such-package",))
    recognition.digest_recognition_code.cache_clear()
    with pytest.raises(StageError, match=r"captions: asr.*pip install \.\[asr\]"):
        open_recogniser(AsrParams(), tmp_path)
    recognition.digest_recognition_code.cache_clear()


FETCH = """
from pathlib import Path
from vatt.params import AsrParams
from vatt.preprocess.recognition import open_recogniser
print(open_recogniser(AsrParams(model="tiny.en"), Path("store")).key)
"""


def test_a_model_by_name_is_fetched_once(tmp_path: Path) -> None:
    model = model_dir()

    def fetch(address: str) -> str:
        environment = os.environ | {"HF_ENDPOINT": address, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", FETCH]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return (done.stdout + done.stderr).strip().splitlines()[-1]

    with serve_hub("Systran/faster-whisper-tiny.en", model) as (address, asked):
        first = fetch(address)
        num_asked = len(asked)
        assert fetch(address) == first
    assert len(asked) == num_asked > len(recognition.MODEL_FILES)
    assert fetch(address) == first  # without a network
    shutil.rmtree(tmp_path / "store")
    assert "model = tiny.en: is no folder, and as a model it cannot be fetched" in fetch(address)
    assert not list((tmp_path / "store/models").iterdir())
