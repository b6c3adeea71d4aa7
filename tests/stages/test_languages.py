"""Retrieval in any language, through preprocess, validate, pretrain and evaluate.

Each corpus has pictures of four colours and a caption for each. The captions of the test videos
come in the other normal form, those of right-to-left languages with marks of direction.
"""

import dataclasses
import unicodedata
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.languages import LANGUAGES
from tests.preprocess.runs import PARAMS as PREPROCESS
from tests.preprocess.runs import preprocess
from tests.stages.conftest import EXPORTED, run_evaluate
from tests.tiny import LOSS
from tests.train.corpus import LAUNCH, PRETRAIN
from vatt.core.files import write_json
from vatt.corpus.index import read_index
from vatt.corpus.manifest import ManifestEntry, Split, write_manifest
from vatt.params import RunParams, load_params
from vatt.stages import pretrain, validate

ROOT = Path(__file__).parents[2]
VALIDATE = load_params(ROOT / "params.yaml").validation
COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 180, 30),
    "blue": (30, 30, 200),
    "white": (220, 220, 220),
}
COPIES: dict[Split, int] = {"train": 4, "validation": 1, "test": 1}
STEPS = PRETRAIN.model_copy(
    update={
        "num_steps": 60,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "adam_epsilon": 1e-7,
        "checkpoint_every_steps": 60,
        "log_every_steps": 60,
    }
)
RIGHT_TO_LEFT = {"Arabic", "Hebrew"}
SAMPLE = {"Chinese", "Hebrew", "Vietnamese"}
"""No spaces, right to left, accents; the others take as long and are for `make test-slow`."""


def write_video(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Write 2 s of a colour with noise that is each video's own, without sound."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"preset": "ultrafast"})
        stream.width, stream.height = 64, 64
        for number in range(10):
            image = np.array(colour) + rng.normal(0, 20, (64, 64, 1))
            frame = av.VideoFrame.from_ndarray(np.uint8(image.clip(0, 255)), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_corpus_in(name: str, download_dir: Path) -> None:
    """Write the videos with their captions in a language, and the manifest."""
    (download_dir / "s").mkdir(parents=True)
    rows: list[ManifestEntry] = []
    for split, num_copies in COPIES.items():
        for number, colour in enumerate(list(COLOURS) * num_copies):
            video_id = f"{split} {number}.mp4"
            write_video(download_dir / "s" / video_id, COLOURS[colour], len(rows))
            text = unicodedata.normalize("NFC", getattr(LANGUAGES[name], colour))
            if split == "test":
                text = unicodedata.normalize("NFD", text)
                text = f"\u202b{text}\u202c" if name in RIGHT_TO_LEFT else text
            captions = f"s/{split} {number}.vtt"
            cue = f"WEBVTT\n\n00:00.000 --> 00:02.000\n{text}\n"
            (download_dir / captions).write_text(cue, encoding="utf-8")
            row = ManifestEntry("s", video_id, split, path=f"s/{video_id}")
            rows.append(dataclasses.replace(row, captions_path=captions))
    write_manifest(download_dir, rows)


@pytest.mark.parametrize(
    "name",
    [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.slow) for name in LANGUAGES],
)
def test_texts_find_their_videos(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus_in(name, tmp_path / "data/download")
    params = PREPROCESS.model_copy(update={"segment_s": 2.0, "min_segment_s": 1.0})
    preprocess(tmp_path / "data/download", tmp_path / "data/preprocess", params)
    write_json(Path("metrics/validate.json"), validate.main(VALIDATE))
    speeds = read_index(tmp_path / "data/preprocess")["caption_words_per_second"]
    assert name == "emoji" or speeds.between(1.5, 5.0).all()
    pretrain.main(RunParams(seed=3), EXPORTED.clip, EXPORTED.model, LOSS, STEPS, LAUNCH)
    metrics = run_evaluate()
    assert metrics["chance"]["text_to_video_r1"] == 1 / 4
    assert metrics["text_to_video_r1"] == 1.0
