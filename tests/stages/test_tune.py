"""The stage with real training: what it writes, and that the split test is out of its reach."""

import ast
import json
import shutil
from collections import Counter
from math import sqrt
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest

from tests.closure import ROOT
from tests.stages.conftest import (
    EXPORTED,
    LETTER,
    change_index,
    copy_project,
    run_module,
    sections,
)
from tests.stages.tuned import TUNE
from tests.train.corpus import LAUNCH
from vatt.core.errors import StageError
from vatt.corpus.access import hide_test_split
from vatt.corpus.manifest import Split
from vatt.evaluate.report import read_studies
from vatt.loading.tasks import read_labelled
from vatt.model.classifier import list_towers
from vatt.params import LaunchParams, ScheduleParams, TaskName, TuneParams
from vatt.stages.finetune import prepare_task
from vatt.stages.tune import STUDIES_DIR, hide_corpus, join_processes, main, make_plan
from vatt.tune.search import Plan
from vatt.tune.study import IDENTITY

CAN_TUNE = [
    path
    for files in ("tune/*", "train/*", "launch/*", "loading/*", "corpus/access", "stages/*tune")
    for path in (ROOT / "vatt").glob(f"{files}.py")
]
"""The modules of tuning and training: all of four rooms, and three that stand elsewhere."""
OUT = Path("data/tune/video")
KEEP = TUNE.model_copy(update={"num_trials": 1})


def tune(task: TaskName = "video", params: TuneParams = TUNE, **updates: Any) -> dict[str, Any]:
    return dict(main(**sections(task, **updates), tune=params))


def prepare_trial(tune: TuneParams, values: dict[str, Any]) -> Any:
    """Return job, recipe and corpus of a trial."""
    task, launch = join_processes(values["finetune"], values["launch"], tune.threads_per_worker)
    values = {**values, "finetune": task, "launch": launch}
    return prepare_task(**values, corpus_dir=hide_corpus())


def test_it_finds_the_same_without_the_split_test_and_never_opens_it(project: Path) -> None:
    lines = run_module("tests.stages.tuned", "twice", "video").stdout.splitlines()
    opened = {Path(line.partition(": ")[2]).name for line in lines if line.startswith("opened: ")}
    assert {"train-000000.tar", "validation-000000.tar"} <= opened
    assert not any(name.startswith("test") for name in opened)

    found, other = (read(f"data/{name}/trials.json") for name in ("healthy", "poisoned"))
    rows = optuna.get_all_study_summaries(f"sqlite:///{STUDIES_DIR}/studies.db")
    identities = {row.study_name: json.loads(row.user_attrs[IDENTITY]) for row in rows}
    healthy, poisoned = (identities[outcome.pop("study")] for outcome in (found, other))
    # Only the version of the data differs in what decides the two studies; classes do not.
    assert {key for key in healthy if healthy[key] != poisoned[key]} == {"data", "code"}
    assert healthy["classes"] == ["a", "b"]
    corpus = read_labelled(Path("data/preprocess"), "video", LETTER, get_args(Split))
    assert "poison" in corpus.notes[-1]  # who read them would have seen it
    assert found == other
    trials = found["trials"]
    assert [trial["trial"] for trial in trials] == [0, 1, 2]
    assert len({trial["schedule"]["learning_rate"] for trial in trials}) == 3
    assert all([row["step"] for row in trial["steps"]] == [4] for trial in trials)

    best = read("data/healthy/best.json")
    ScheduleParams.model_validate(best["schedule"])
    values = [trial["value"] for trial in trials]
    highest, own, num_clips = max(values), values[0], len(corpus.splits["validation"])
    noise = 1.645 * sqrt((highest * (1 - highest) + own * (1 - own)) / num_clips)
    assert best["trial"] == (values.index(highest) if highest - own > noise else 0)
    assert best["value"] == values[best["trial"]]
    assert Path("data/healthy/history.svg").read_text().startswith("<?xml")
    assert sum("3 of 3" in line for line in lines) == 2


def read(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return content


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_trains_changes_nothing(project: Path) -> None:
    killed = copy_project()
    printed = run_module("tests.stages.tuned", "killed", str(project), str(killed)).stdout
    assert printed.count("a worker ended with -9; another goes on") == 1
    for name in ("trials.json", "best.json"):
        path = OUT / name
        assert path.read_bytes() == (killed / path).read_bytes()
    logs = [folder / "measured.jsonl" for folder in (project, killed)]
    whole, resumed = (Counter(log.read_text().splitlines()) for log in logs)
    assert whole.keys() == resumed.keys()  # the losses are the same bits
    assert set(whole.values()) == {1}
    # Before its kill at step 4 the trial had reported two steps; it reported both again.
    again = [json.loads(line)[:2] for line, count in resumed.items() if count == 2]
    assert again == [["trial-0001", 2], ["trial-0001", 4]]


def test_the_corpus_of_tuning_has_no_split_test(project: Path) -> None:
    hide_test_split(Path("data/preprocess"), Path("hidden"))
    for folder, num_segments in (("data/preprocess", 4), ("hidden", 0)):
        corpus = read_labelled(Path(folder), "video", LETTER, get_args(Split))
        assert (len(corpus.splits["train"]), len(corpus.splits["validation"])) == (4, 1)
        assert len(corpus.splits["test"]) == num_segments
    shards = {path.name for path in Path("hidden/shards").iterdir()}
    assert shards == {"train-000000.tar", "validation-000000.tar"}


def test_no_module_that_tunes_or_trains_names_the_split_test() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in CAN_TUNE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == "test"
    ]
    assert len(CAN_TUNE) > len({path.parent for path in CAN_TUNE}) == 6
    assert not named


def test_it_tunes_the_network_that_finetune_trains(project: Path) -> None:
    shutil.rmtree("data/pretrain")
    other = EXPORTED.model.model_copy(update={"video_patch": (1, 8, 8)})
    values = {**sections(initial_weights=None), "model": other}
    _, recipe, _ = prepare_trial(TUNE, values)
    assert recipe.network == prepare_task(**values)[1].network
    assert list_towers(recipe.network)["video"].patch == (1, 8, 8)
    assert main(**values, tune=KEEP)["value"] is None


def test_one_trial_is_the_own_schedule_and_trains_nothing(project: Path) -> None:
    metrics = tune(params=KEEP, validate_every_steps=None)
    best = read(f"{OUT}/best.json")
    own = LETTER.schedule.model_dump()
    assert (best["schedule"], best["own"], best["value"]) == (own, own, None)
    assert (metrics["trial"], metrics["num_trials"], metrics["num_pruned"]) == (0, 1, 0)
    (trial,) = read(f"{OUT}/trials.json")["trials"]
    assert (trial["state"], trial["value"]) == ("waiting", None)
    assert {path.name for path in OUT.iterdir()} == {"best.json", "trials.json"}
    assert not list(Path(".cache").rglob("step-*"))
    (study,) = read_studies(Path("data/tune"))
    assert (study["task"], study["best"]["value"]) == ("video", None)


def test_what_is_never_measured_is_refused_before_it_is_trained(project: Path) -> None:
    with pytest.raises(StageError, match=r"finetune\.video\.validate_every_steps = null"):
        tune(validate_every_steps=None)
    assert not list(STUDIES_DIR.rglob("trial-*"))


def test_what_has_no_effect_on_trials_is_no_other_study(project: Path) -> None:
    def find_study(launch: LaunchParams = LAUNCH, **updates: Any) -> str:
        main(**sections("video", launch, **updates), tune=KEEP)
        study: str = read(f"{OUT}/best.json")["study"]
        return study

    shutil.copytree("data/pretrain", "elsewhere")
    changes = {"checkpoint_every_steps": 3, "keep_checkpoints": 4, "max_bad_steps": 5}
    launch = LAUNCH.model_copy(update={"zero_stage": 2, "loader_workers": 1})
    same = find_study(launch, initial_weights="elsewhere", compare_with_scratch=True, **changes)
    assert same == find_study()
    others = {find_study(batch_size=4), find_study(LAUNCH.model_copy(update={"compile": True}))}
    assert len({same, *others}) == 3


def test_what_makes_another_study_is_said_by_its_name(project: Path) -> None:
    def plan(tune: TuneParams = TUNE, launch: LaunchParams = LAUNCH, **updates: Any) -> Plan:
        job, recipe, _ = prepare_trial(tune, sections("video", launch, **updates))
        return make_plan(tune, job, recipe)

    before = plan().identity
    changes = {
        "task.batch_size": plan(batch_size=4),
        "clip.num_frames": plan(num_frames=2),
        "threads_per_worker": plan(TUNE.model_copy(update={"threads_per_worker": 2})),
        "launch.precision": plan(launch=LAUNCH.model_copy(update={"precision": "bf16"})),
    }
    for name, changed in changes.items():
        names = changed.list_changes(before)
        assert name in names
        assert "code" not in names


def test_a_trial_computes_as_much_at_once_as_each_of_several_processes() -> None:
    values = sections(batch_size=8, accumulation_steps=2)
    together = LAUNCH.model_copy(update={"num_processes": 2})
    task, launch = join_processes(values["finetune"], together, 1)
    assert (launch.num_processes, task.params.accumulation_steps) == (1, 4)


def test_a_task_without_labels_or_measurement_is_left_out(project: Path) -> None:
    unlabelled = tune(label="colour")["skipped"]
    assert "has a label of the task 'colour'" in unlabelled
    assert read(f"{OUT}/skipped.json") == {"reason": unlabelled}
    change_index("labels", lambda row: "{}" if row["split"] == "validation" else row["labels"])
    assert tune() == {"skipped": "the split validation has no segment to measure with"}
    assert [path.name for path in OUT.iterdir()] == ["skipped.json"]


def test_a_corpus_that_was_not_validated_is_refused(project: Path) -> None:
    Path("metrics/validate.json").write_text('{"passed": true, "index_digest": "00"}')
    with pytest.raises(StageError, match="on another corpus"):
        tune()
