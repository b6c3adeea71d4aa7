"""What names a run, and what of it travels to other processes."""

import shutil
from pathlib import Path

import pytest

from tests.model.networks import VIDEO
from tests.train.corpus import CLIP, LAUNCH
from tests.train.tasks import TASK
from vatt.core import code
from vatt.params import RunParams
from vatt.train.recipe import FinetuneRecipe, Job, name_run

RECIPE = FinetuneRecipe(
    run=RunParams(seed=1),
    task_name="video",
    task=TASK,
    clip=CLIP,
    network=VIDEO,
    classes=("a", "b"),
    launch=LAUNCH,
    index_digest="",
)


def test_another_schedule_is_another_run_with_its_rates_in_the_network() -> None:
    schedule = TASK.schedule.model_copy(update={"drop_token_rate": 0.5, "head_dropout_rate": 0.3})
    recipe = RECIPE.take_schedule(schedule)
    assert recipe.task.schedule == schedule
    assert recipe.network.head_dropout_rate == 0.3
    assert recipe.network.model_dump()["drop_token_rate"] == 0.5
    assert name_run(recipe, None) != name_run(RECIPE, None)
    here = Path("run")
    job = Job(
        recipe=recipe, initial_weights=None, preprocess_dir=here, directory=here, curve_path=here
    )
    assert Job.model_validate_json(job.model_dump_json()) == job  # as it travels


def test_what_only_concerns_the_way_does_not_change_the_name_of_a_run() -> None:
    updates = {"checkpoint_every_steps": 1, "compare_with_scratch": True, "keep_checkpoints": 9}
    same = {
        "task": TASK.model_copy(update=updates),
        "launch": LAUNCH.model_copy(
            update={"loader_workers": 3, "num_processes": 2, "zero_stage": 3, "launcher": "ssh"}
        ),
        "initial_digest": "1",
    }
    assert name_run(RECIPE.model_copy(update=same), None) == name_run(RECIPE, None)
    for changed in (
        {"classes": ("a", "c")},
        {"index_digest": "1"},
        {"run": RunParams(seed=2)},
        {"task": TASK.model_copy(update={"ema_decay": 0.9})},
        {"launch": LAUNCH.model_copy(update={"precision": "bf16"})},
    ):
        assert name_run(RECIPE.model_copy(update=changed), None) != name_run(RECIPE, None)


@pytest.mark.parametrize(
    ("file", "is_another"),
    [
        ("launch/launcher.py", False),
        ("stages/finetune.py", False),
        ("train/monitor.py", False),
        ("train/loop.py", True),
        ("model/losses.py", True),
    ],
)
def test_code_that_can_change_a_number_names_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, *, is_another: bool
) -> None:
    before, package = name_run(RECIPE, None), tmp_path / "vatt"
    shutil.copytree(code.PACKAGE_DIR, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE_DIR", package)
    assert name_run(RECIPE, None) == before
    with (package / file).open("a", encoding="utf-8") as source:
        source.write("# A comment.\n")
    assert (name_run(RECIPE, None) != before) == is_another
