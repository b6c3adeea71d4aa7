"""The stage in this process: what it demands, what it writes, what it starts from."""

import json
import resource
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.stages.conftest import EXPORTED, RUN, SHORT, change_index, export, list_checkpoints
from tests.tiny import LOSS
from tests.train.corpus import LAUNCH
from vatt import load
from vatt.core.errors import StageError
from vatt.corpus.samples import write_samples
from vatt.corpus.tokenizer import Tokenizer
from vatt.params import LaunchParams
from vatt.stages.pretrain import main
from vatt.weights.export import build_untrained

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
