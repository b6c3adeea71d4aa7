"""The stage in this process: what it demands, what it writes, what it starts from."""

import json
import resource
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from tests.stages.conftest import EXPORTED, RUN, SHORT, change_index, export, list_checkpoints
from tests.tiny import LOSS
from tests.train.corpus import LAUNCH
from vatt import load
from vatt.core.batch import Batch
from vatt.core.errors import StageError
from vatt.corpus.samples import write_samples
from vatt.corpus.tokenizer import Tokenizer
from vatt.loading.clips import ClipReader
from vatt.loading.loader import open_validation_loader
from vatt.model.vatt import Vatt
from vatt.params import LaunchParams
from vatt.stages.pretrain import main
from vatt.weights.export import build_untrained

FIELDS = [field.name for field in fields(Batch)]
WEIGHTS = Path("data/pretrain/model.safetensors")


def pretrain(launch: LaunchParams = LAUNCH, **updates: object) -> dict[str, object]:
    params = SHORT.model_copy(update=updates)
    return dict(main(RUN, EXPORTED.clip, EXPORTED.model, LOSS, params, launch))


def test_it_writes_an_export_that_everyone_can_load(project: Path) -> None:
    metrics = pretrain()
    exported = load("data/pretrain")
    untrained = build_untrained(exported.params).state_dict()
    assert exported.params.pretrain == SHORT
    assert exported.params.frame_rate_hz == EXPORTED.frame_rate_hz
    assert any(
        not torch.equal(weight, untrained[name])
        for name, weight in exported.model.state_dict().items()
    )
    row = json.loads(Path("metrics/pretrain_curve.jsonl").read_text().splitlines()[-1])
    assert row == {name: metrics[name] for name in row}
    assert (metrics["step"], metrics["num_clips"]) == (3, 12)
    assert metrics["num_parameters"] == sum(p.numel() for p in exported.model.parameters())


def test_a_finished_run_exports_the_same_again_and_a_changed_one_does_not(project: Path) -> None:
    metrics, weights, checkpoints = pretrain(), WEIGHTS.read_bytes(), list_checkpoints()
    WEIGHTS.unlink()
    assert pretrain(launch=LAUNCH.model_copy(update={"loader_workers": 1})) == metrics
    assert (WEIGHTS.read_bytes(), list_checkpoints()) == (weights, checkpoints)
    pretrain(learning_rate=2e-4)
    assert WEIGHTS.read_bytes() != weights


def rank_slowly(model: Vatt, space: str) -> tuple[list[float], int]:
    """Return how many wrong videos stand before the right one of each query, and the pairs."""
    reader = ClipReader(Path("data/preprocess"), EXPORTED.clip)
    ((rows, batch),) = open_validation_loader(reader, "validation", 100)
    batch = Batch(*(getattr(batch, name)[rows["has_video"].tolist()] for name in FIELDS))
    with torch.no_grad():
        found = model.eval()(batch)
    has = batch.audio_mask if space == "va" else batch.text_mask[:, 0]
    queries = found.audio_va if space == "va" else found.text_vt[:, 0]
    videos = functional.normalize(getattr(found, f"video_{space}")[has])
    queries = functional.normalize(queries[has])
    places = []
    for number, query in enumerate(queries):
        others = [float(query @ video) for video in videos]
        right = others.pop(number)
        # Of videos that look alike, half stand before.
        equal = sum(abs(other - right) < 1e-6 for other in others)
        places.append(sum(other > right + 1e-6 for other in others) + equal / 2)
    return places, len(places)


def test_it_says_at_its_end_what_retrieval_learned(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the clips that are validated on here, three have a picture and sound, four words."""
    change_index("split", lambda row: "validation" if row["split"] == "test" else row["split"])
    write_samples(Path("data/preprocess"))
    metrics: Any = pretrain(validate_every_steps=2, validation_clips=100, learning_rate=1e-2)
    trained = load("data/pretrain")
    untrained = build_untrained(trained.params)
    lines = [line for line in capsys.readouterr().out.splitlines() if "retrieval" in line]
    assert len(lines) == 1
    for space, words in (("va", "video and audio"), ("vt", "video and text")):
        learned = metrics["retrieval"][space]
        for ending, model in (("", trained.model), ("_before", untrained)):
            places, num_pairs = rank_slowly(model, space)
            assert learned["pairs"] == num_pairs > 2
            assert learned[f"r1{ending}"] == pytest.approx(places.count(0) / num_pairs)
            rank = sum(places) / num_pairs / (num_pairs - 1)
            assert learned[f"rank{ending}"] == pytest.approx(rank, abs=1e-6)
        assert (learned["r1_chance"], learned["rank_chance"]) == (1 / num_pairs, 0.5)
        r1 = [f"{learned[name]:.1%}" for name in ("r1", "r1_before", "r1_chance")]
        assert f"{words} R@1 {r1[0]} (before {r1[1]}, chance {r1[2]})" in lines[0]
    weights = WEIGHTS.read_bytes()
    capsys.readouterr()
    assert pretrain(validate_every_steps=2, validation_clips=100, learning_rate=1e-2) == metrics
    assert lines[0] in capsys.readouterr().out  # a finished run says it again
    shutil.rmtree(".cache")
    # What was not measured before its first step has nothing to be compared with.
    assert pretrain(learning_rate=1e-2)["retrieval"] == {}
    assert "retrieval was not measured" in capsys.readouterr().out
    assert WEIGHTS.read_bytes() == weights  # measuring changes nothing


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ('{"passed": true, "index_digest": "00"}', "is on another corpus"),
        ('{"passed": true}', "is on another corpus"),
        ('{"passed": false, "index_digest": "DIGEST"}', "did not pass"),
    ],
)
def test_it_needs_the_verdict_on_this_very_corpus(
    project: Path, verdict: str | None, message: str
) -> None:
    path = Path("metrics/validate.json")
    digest = json.loads(path.read_text())["index_digest"]
    path.unlink()
    if verdict is not None:
        path.write_text(verdict.replace("DIGEST", digest))
    with pytest.raises(StageError, match=message):
        pretrain()
    assert not Path(".cache").exists()


def test_a_corpus_without_training_clips_is_refused(project: Path) -> None:
    change_index("split", lambda _: "test")
    write_samples(Path("data/preprocess"))
    with pytest.raises(StageError, match="no segment of the split train"):
        pretrain()


def test_too_little_memory_is_said_before_it_trains(project: Path) -> None:
    with pytest.raises(StageError, match=r"too little memory: 1 processes there need .* GiB free"):
        pretrain(batch_size=2**30)
    assert not list(Path(".cache").rglob("speed.jsonl"))


def test_it_starts_from_an_export_whose_words_it_knows(project: Path) -> None:
    export(EXPORTED, noise=0.5)
    Path("data/pretrain").rename("earlier")
    earlier = load("earlier")
    pretrain(initial_weights="earlier", learning_rate=1e-12)
    found = load("data/pretrain").model.state_dict()
    for name, weight in earlier.model.state_dict().items():
        if "running" not in name:
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6, msg=name)
    assert Tokenizer(Path("earlier/tokenizer.model")).pieces == earlier.tokenizer.pieces


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "is not an export"),
        ("champion", "there is no champion yet"),
        ("narrow", "model.space_va_width = 8, params.yaml says 24"),
    ],
)
def test_it_refuses_unfit_initial_weights(project: Path, source: str, message: str) -> None:
    narrow = EXPORTED.model.model_copy(update={"space_va_width": 8})
    export(EXPORTED.model_copy(update={"model": narrow}))
    Path("data/pretrain").rename("narrow")
    with pytest.raises(StageError, match=message):
        pretrain(initial_weights=source)


def write_vocabulary(*words: str) -> list[str]:
    pieces = ["<pad>", "<unk>", *words]
    Path("data/preprocess/tokenizer.model").unlink(missing_ok=True)
    Path("data/preprocess/vocabulary.txt").write_text("\n".join(pieces), encoding="utf-8")
    return pieces


def test_a_vocabulary_and_word_vectors_go_into_the_export(project: Path) -> None:
    path = Path("vectors.safetensors")
    vectors = torch.arange(4.0)[:, None].repeat(1, EXPORTED.model.word_width)
    for number, word in enumerate(("begins", "goes"), start=1):
        pieces = write_vocabulary("it", word)
        save_file({"words": vectors + number}, path)
        pretrain(word_vectors=path, learning_rate=1e-12)
        exported = load("data/pretrain")
        assert exported.tokenizer.pieces == pieces
        words = exported.model.words.weight.detach()
        torch.testing.assert_close(words, vectors + number, rtol=0, atol=1e-6)
        assert len(list(Path(".cache/pretrain").glob("*/weights.safetensors"))) == number


def test_the_name_of_a_run_depends_on_the_vocabulary(project: Path) -> None:
    for number, word in enumerate(("begins", "goes"), start=1):
        write_vocabulary(word)
        pretrain()
        assert len(list(Path(".cache/pretrain").glob("*/weights.safetensors"))) == number


@contextmanager
def short_files(num_bytes: int) -> Iterator[None]:
    """Let the system refuse files that are longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_training_goes_on_with_room(project: Path) -> None:
    """/dev/full is always full; the log of the speed is written while training goes on."""
    metrics = pretrain()
    (run_dir,) = Path(".cache/pretrain").glob("*")
    log, weights = run_dir / "speed.jsonl", run_dir / "weights.safetensors"
    shutil.rmtree(run_dir)
    run_dir.mkdir()
    log.symlink_to("/dev/full")
    named = f"^{socket.gethostname()}: {run_dir} or "
    with pytest.raises(StageError, match=f"{named}metrics/.*: No space left on device"):
        pretrain()
    log.unlink()
    assert pretrain() == metrics

    weights.unlink()
    with short_files(2**16), pytest.raises(StageError, match=f"{named}.*File too large"):
        pretrain()
    assert not list(run_dir.glob("weights*"))
    assert pretrain() == metrics
