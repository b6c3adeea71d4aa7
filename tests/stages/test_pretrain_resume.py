"""A training that is killed and started again in another way goes on; another training says so."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.stages import campaign
from tests.stages.campaign import ERRORS, PATIENCE_S, RUNS_DIR
from tests.stages.conftest import EXPORTED, RUN, SHORT, sections
from tests.tiny import LOSS
from tests.train.corpus import LAUNCH
from vatt import load
from vatt.core import code
from vatt.params import LaunchParams, LossParams
from vatt.stages import finetune
from vatt.stages.pretrain import main
from vatt.weights.export import build_untrained

NUM_STEPS = 20
WEIGHTS = Path("data/pretrain/model.safetensors")
LONG = [(2, 1), (2, 2), (1, 0), (2, 3)]


def measure_difference(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """Return the difference against the way that the weights went from the first ones."""
    first = build_untrained(load("data/pretrain").params).state_dict()
    ways = ((weights[name] - others[name], weights[name] - first[name]) for name in weights)
    difference, way = zip(*((a.square().sum(), b.square().sum()) for a, b in ways), strict=True)
    return float((sum(difference) / sum(way)) ** 0.5)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "ways", [[(2, 1), (1, 2)], pytest.param(LONG, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_a_killed_run_goes_on_with_other_processes_and_stages(
    project: Path, ways: list[tuple[int, int]]
) -> None:
    """Draws of DropToken included: as one process would without harm, to 1e-4 in the losses.

    A number of processes that does not divide the batch is refused, and nothing is lost.
    """
    campaign.expect_finished(campaign.start(NUM_STEPS, num_processes=1), NUM_STEPS)
    unharmed, weights = campaign.read_curve(), load_file(WEIGHTS)
    shutil.rmtree(RUNS_DIR)
    last = len(ways) - 1
    for number, (num_processes, zero_stage) in enumerate(ways):
        launch = {"num_processes": num_processes, "zero_stage": zero_stage}
        process = campaign.start(NUM_STEPS, **launch)
        if number < last:
            campaign.wait_for_checkpoint(process, 5 * (number + 1))
            process.kill()
            campaign.expect_none_left()
        else:
            campaign.expect_finished(process, NUM_STEPS)
        if number > 0:
            before = dict(zip(launch, ways[number - 1], strict=True))
            was = {key: value for key, value in before.items() if launch[key] != value}
            changes = [f"launch.{key} was {value}, is {launch[key]}" for key, value in was.items()]
            told = f"pretrain: goes on from step (5|1.) of 20; until there {', '.join(changes)}\n"
            assert re.search(told, ERRORS.read_text()), ERRORS.read_text()
        else:
            assert campaign.start(NUM_STEPS, num_processes=3).wait(PATIENCE_S) == 1
            named = "pretrain.batch_size = 4 is not a multiple of launch.num_processes = 3"
            assert named in ERRORS.read_text()
    assert len(list(RUNS_DIR.glob("*/"))) == 1
    campaign.expect_same_losses(campaign.read_curve(), unharmed)
    difference = measure_difference(load_file(WEIGHTS), weights)
    print(f"the weights differ by {difference:.1e} of the way that they went")
    assert difference < 0.01


def pretrain(launch: LaunchParams = LAUNCH, loss: LossParams = LOSS, **updates: object) -> None:
    params = SHORT.model_copy(update=updates)
    main(RUN, EXPORTED.clip, EXPORTED.model, loss, params, launch)


def list_runs() -> set[str]:
    return {path.parent.name for path in RUNS_DIR.glob("*/weights.safetensors")}


def read_told(capsys: pytest.CaptureFixture[str], section: str = "pretrain") -> list[str]:
    """Return what the stage said since the last call, but for its progress bar."""
    lines, prefix = capsys.readouterr().err.splitlines(), f"{section}: "
    told = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    return [line for line in told if "%|" not in line]


def test_a_new_run_names_the_older_one_that_it_does_not_continue(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain()
    assert read_told(capsys) == []
    (first,) = list_runs()
    pretrain(learning_rate=2e-4, batch_size=2)
    (second,) = list_runs() - {first}
    changes = "pretrain.batch_size was 4, is 2; pretrain.learning_rate was 0.0001, is 0.0002"
    assert read_told(capsys) == [
        f"a new run, {second}: run {first}, which is finished, is not continued: {changes}"
    ]
    pretrain()  # is known
    pretrain(learning_rate=2e-4, batch_size=2, checkpoint_every_steps=1, keep_checkpoints=5)
    assert read_told(capsys) == []

    # Of two the nearer one, which was stopped.
    (RUNS_DIR / second / "weights.safetensors").unlink()
    pretrain(learning_rate=2e-4, batch_size=2, num_steps=2)
    assert read_told(capsys)[0].endswith(
        f": run {second}, which came to step 3, is not continued: pretrain.num_steps was 3, is 2"
    )
    shutil.rmtree(RUNS_DIR / second)
    for record in RUNS_DIR.glob("*/facts.json"):
        record.unlink()  # as older versions left their runs
    pretrain(learning_rate=2e-4, batch_size=2)
    assert read_told(capsys)[0].endswith(
        "is not continued: it is older than the record of what differs"
    )


def test_data_first_weights_and_code_are_among_the_reasons(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretrain()
    package = tmp_path / "copied"
    shutil.copytree(code.PACKAGE_DIR, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE_DIR", package)
    for name in ("launch/supervision.py", "stages/pretrain.py", "train/monitor.py"):
        with (package / name).open("a") as source:
            source.write("# A comment.\n")
    pretrain()
    assert read_told(capsys) == []
    assert len(list_runs()) == 1
    with (package / "model/losses.py").open("a") as source:
        source.write("# A comment.\n")
    Path("data/pretrain").rename("earlier")
    pretrain(initial_weights="earlier")
    (told,) = read_told(capsys)
    assert told.endswith(
        "is not continued: other code in vatt/model/losses.py; other first weights"
    )


def test_another_way_to_launch_is_the_same_run_and_says_so_when_finished(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replica = LOSS.model_copy(update={"valid_mean": "replica"})
    pretrain()
    launch = LAUNCH.model_copy(update={"zero_stage": 2, "threads_per_process": 2})
    pretrain(launch)
    changes = "launch.threads_per_process was 1, is 2, launch.zero_stage was 1, is 2"
    assert read_told(capsys) == [f"is finished, and not trained again; until there {changes}"]
    assert len(list_runs()) == 1
    pretrain(launch, replica)
    assert 'loss.valid_mean was "global", is "replica"' in read_told(capsys)[0]


def test_fine_tuning_goes_on_and_names_runs_likewise(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its two runs, of which one has random weights, are not taken for one another."""
    ways: dict[str, Any] = {"compare_with_scratch": True, "checkpoint_every_steps": 2}
    ways |= {"keep_checkpoints": 2}
    finetune.main(**sections(**ways))
    section = "finetune.video"
    assert read_told(capsys, section) == []
    path = Path("data/finetune/video/model/model.safetensors")
    whole = load_file(path)
    for found in Path(".cache/finetune/video").glob("*/step-00000004"):
        shutil.rmtree(found)
    launch = LAUNCH.model_copy(update={"zero_stage": 3})
    finetune.main(**sections(launch=launch, **ways))
    message = "goes on from step 2 of 4; until there launch.zero_stage was 1, is 3"
    assert read_told(capsys, section) == [message, message]
    torch.testing.assert_close(load_file(path), whole, rtol=0, atol=1e-6)
    finetune.main(**sections(compare_with_scratch=True, num_steps=3))
    told = read_told(capsys, section)
    assert len(told) == 2
    assert all(line.endswith("finetune.video.num_steps was 4, is 3") for line in told)
    assert len({line.split(": ")[1] for line in told}) == 2
