"""What evaluation reads of a large corpus; what several processes and bf16 make of it."""

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from tests.many_clips import TASKS, SimulatedShards, copy_segments
from tests.stages.conftest import EVALUATE, EXPORTED, RUN, export, pass_validation, run_evaluate
from tests.train.corpus import LAUNCH
from vatt.core.errors import StageError
from vatt.corpus.annotated import AnnotatedPart, write_parts
from vatt.evaluate import worker
from vatt.evaluate.feature_store import FeatureStore
from vatt.evaluate.networks import Arrays
from vatt.evaluate.worker import EvaluateJob, EvaluateRecipe
from vatt.loading.loader import FixedWindows
from vatt.params import TowerSize
from vatt.train.recipe import AnyJob

SHORT = EVALUATE.model_copy(update={"lrc_steps": 0, "num_windows": 1, "batch_size": 64})
RETRIEVAL = SHORT.model_copy(update={"probe_tasks": ()})
PREPROCESS_DIR = Path("data/preprocess")
ONE_LAYER = TowerSize(num_layers=1, width=32, mlp_width=32, num_heads=1, head_width=32)
SMALLEST = dict.fromkeys(("video", "audio", "text"), ONE_LAYER)
TWO_RANKS = LAUNCH.model_copy(update={"num_processes": 2})


@pytest.mark.parametrize(
    ("num_rows", "num_clips"),
    [
        ((1000, 10_000), (30, 60)),
        pytest.param(
            (100_000, 1_000_000),
            (10_000, 20_000),
            marks=[pytest.mark.slow, pytest.mark.timeout(7200)],
        ),
    ],
)
def test_what_is_read_and_the_time_follow_from_what_classifiers_learn_from(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_rows: tuple[int, int],
    num_clips: tuple[int, int],
) -> None:
    """Two classifiers: ten times as many clips that they could learn from change nothing."""
    export(EXPORTED.model_copy(update={"model": EXPORTED.model.model_copy(update=SMALLEST)}))
    shards = SimulatedShards(PREPROCESS_DIR, monkeypatch)
    measured: dict[tuple[int, int], tuple[int, float]] = {}
    for rows, clips in [
        (num_rows[0], num_clips[0]),
        *((num_rows[1], clips) for clips in num_clips),
    ]:
        shards.write_index(rows)
        pass_validation()
        shards.num_bytes, shards.keys, start_s = 0, set(), time.process_time()
        params = SHORT.model_copy(update={"max_train_clips": clips, "probe_tasks": tuple(TASKS)})
        metrics = run_evaluate(params)
        measured[rows, clips] = shards.num_bytes, time.process_time() - start_s
        assert len(shards.keys) == clips  # the same for both
        for task in TASKS:
            for result in metrics["probes"][task].values():
                assert (result["num_train"], result["is_full"]) == (clips, True)
    print("\n  segments  clips of each  bytes of shards  CPU seconds")
    for (rows, clips), (num_bytes, cpu_s) in measured.items():
        print(f"{rows:10,}{clips:15,}{num_bytes:17,}{cpu_s:13.1f}")
    (few, few_s), (many, many_s), (twice, twice_s) = measured.values()
    assert few == many
    assert twice == 2 * many
    if num_clips[0] >= 10_000:
        assert many_s < 1.25 * few_s
        assert 1.5 * many_s < twice_s < 2.3 * many_s
    assert "allows" in Path("data/evaluate/report.html").read_text()


def test_without_classifiers_nothing_but_the_test_clips_is_read(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = SimulatedShards(PREPROCESS_DIR, monkeypatch)
    shards.write_index(1000)
    pass_validation()
    whole = run_evaluate(SHORT.model_copy(update={"max_train_clips": 20}))
    shards.keys.clear()
    for path in Path(".cache/evaluate").glob("*.safetensors"):
        path.unlink()
    metrics = run_evaluate(SHORT.model_copy(update={"probe_tasks": ()}))
    assert not shards.keys
    assert metrics == {**whole, "probes": {}, "conditions": metrics["conditions"]}


def read_features() -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    return {path.name: load_file(path) for path in Path(".cache/evaluate").glob("*.safetensors")}


def test_two_ranks_give_what_one_process_gives_to_the_bit(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are several parts of each split, which two ranks take in turn, and the stage none."""
    copy_segments(PREPROCESS_DIR, {"train": 60, "validation": 10, "test": 30})
    parts = [
        AnnotatedPart("known", f"test/{number}", "test", 0.5, 3.0, "it begins")
        for number in range(20)
    ]
    write_parts(PREPROCESS_DIR, parts)
    pass_validation()
    params = EVALUATE.model_copy(update={"analyses": True})
    one = run_evaluate(params)
    kept, outputs = read_features(), Path("data/evaluate/report.html").read_bytes()
    for path in Path(".cache/evaluate").glob("*.safetensors"):
        path.unlink()
    monkeypatch.delattr(FixedWindows, "__getitem__")
    monkeypatch.delattr(nn.Module, "to")  # what it would hold, ranks could not use
    two = run_evaluate(params, TWO_RANKS)
    assert two == one
    assert Path("data/evaluate/report.html").read_bytes() == outputs
    again = read_features()
    assert again.keys() == kept.keys()
    # Of two networks: three splits, and the annotated parts; and of one that is looked into.
    assert len(again) == 9
    assert one["text_to_video_pairs"] > 8
    for name, arrays in kept.items():
        assert arrays.keys() == again[name].keys()
        assert all(np.array_equal(arrays[key], again[name][key]) for key in arrays)


def test_ranks_are_started_only_where_something_is_missing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they leave is as if they had other devices than this process."""
    jobs: list[Path] = []

    def launch_ranks(job: AnyJob) -> None:
        jobs.append(job.directory)
        with monkeypatch.context() as there:
            there.setattr("vatt.evaluate.features.choose_device", lambda: torch.device("cpu"))
            worker.observe(EvaluateJob.model_validate(alone(job)))

    def alone(job: AnyJob) -> dict[str, Any]:
        return {**job.model_dump(), "recipe": {**job.recipe.model_dump(), "launch": LAUNCH}}

    monkeypatch.setattr("vatt.stages.evaluate.launch_ranks", launch_ranks)
    monkeypatch.setattr("vatt.evaluate.features.choose_device", lambda: torch.device("meta"))
    first = run_evaluate(RETRIEVAL, TWO_RANKS)
    assert run_evaluate(RETRIEVAL, TWO_RANKS) == first
    assert len(jobs) == 1
    next(Path(".cache/evaluate").glob("*.safetensors")).unlink()
    assert run_evaluate(RETRIEVAL, TWO_RANKS) == first
    assert len(jobs) == 2
    run_evaluate(RETRIEVAL.model_copy(update={"num_windows": 2}), TWO_RANKS)
    assert len(set(jobs)) == 2
    assert list(Path(".cache/evaluate/jobs").iterdir()) == [jobs[-1]]


@pytest.mark.timeout(60)
def test_a_rank_makes_again_what_another_evaluation_removes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Raided(FeatureStore):
        """All that is written is removed, once."""

        written: ClassVar[set[str]] = set()

        def write(self, name: str, arrays: Arrays) -> None:
            if name in self.written:
                super().write(name, arrays)
            self.written.add(name)

    monkeypatch.setattr(worker, "FeatureStore", Raided)
    monkeypatch.setattr(worker, "LOOK_EVERY_S", 0.0)
    recipe = EvaluateRecipe(
        run=RUN,
        clip=EXPORTED.clip,
        launch=LAUNCH,
        index_digest="",
        evaluate=RETRIEVAL,
        export_dir=Path("data/pretrain"),
        finetune_dir=Path("data/finetune"),
    )
    job = EvaluateJob(recipe=recipe, preprocess_dir=PREPROCESS_DIR, directory=Path(".cache/job"))
    worker.observe(job)
    assert job.result_path.is_file()
    assert len(Raided.written) == 2 * 3  # of two networks: clips, texts; of empty splits, no texts
    monkeypatch.delattr(FixedWindows, "__getitem__")
    run_evaluate(RETRIEVAL)


def test_bf16_is_near_and_kept_apart(project: Path) -> None:
    full = run_evaluate(SHORT)
    before = read_features()
    half = run_evaluate(SHORT, LAUNCH.model_copy(update={"precision": "bf16"}))
    assert half.keys() == full.keys()
    assert half["text_to_video_pairs"] == full["text_to_video_pairs"]
    assert half["text_to_video_r1"] is not None
    after = read_features()
    assert not before.keys() & after.keys()
    for arrays in before.values():
        for key, exact in arrays.items():
            others = [
                own[key] for own in after.values() if own.get(key, exact[:0]).shape == exact.shape
            ]
            distances = [
                np.linalg.norm(exact - rounded) / np.linalg.norm(exact) for rounded in others
            ]
            assert 0 < min(distances) < 0.03, (key, distances)


def test_what_ranks_cannot_do_is_said_at_once(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export(EXPORTED.model_copy(update={"frame_rate_hz": 10.0}))
    with pytest.raises(StageError, match="the network data/pretrain was trained at 10"):
        run_evaluate(EVALUATE, TWO_RANKS)
    assert "restart" not in capfd.readouterr().err
