"""`python -m vatt describe` in a process of its own, its numbers, and sums written out by hand."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vatt.description import build_model, describe, estimate_run
from vatt.model.cost import add_costs, count_clip
from vatt.params import Params, load_params

ROOT = Path(__file__).parents[1]
PATH = Path("params.yaml")
PARAMS = load_params(ROOT / PATH)


def change(section: str, **values: object) -> Params:
    changed = PARAMS.section(section).model_copy(update=values)
    return PARAMS.model_copy(update={section: changed})


SHARED = change("model", shared_encoder=True, audio="tiny", text="tiny", text_style="bert")


@pytest.fixture(scope="module")
def text() -> str:
    return describe(PATH, PARAMS)


def numbers_of(text: str, start: str) -> list[float]:
    """Return the numbers in the line of a table that begins with a name."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return [float(n) for n in re.findall(r"[+-]?\d[\d,]*\.\d+", line.replace(",", ""))]


def test_a_run_costs_its_steps_and_a_gpu_day_is_what_a_gpu_computes_in_a_day() -> None:
    model = build_model(PARAMS, 1024)
    costs = count_clip(model, PARAMS.clip, PARAMS.model.drop_token_rate)
    estimate = estimate_run(PARAMS, model)
    training = add_costs(costs.values()).training
    assert estimate.step_flops == PARAMS.pretrain.batch_size * training
    assert estimate.run_flops == PARAMS.pretrain.num_steps * estimate.step_flops
    assert estimate.gpu_days == pytest.approx(estimate.run_flops / (0.4 * 989e12 * 24 * 3600))
    assert estimate.weights.trainable == sum(w.numel() for w in model.parameters())
    # Recomputed activations cost up to a third more.
    more = estimate_run(change("launch", recompute_activations=True), model).step_flops
    assert 1.25 < more / estimate.step_flops < 1.4


def test_the_command_prints_and_writes_nothing_and_names_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "vatt", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "other.yaml")
    done = run("describe", "--params", "other.yaml")
    assert (done.returncode, "What other.yaml builds" in done.stdout) == (0, True)
    assert run("--params", "other.yaml", "describe").stdout == done.stdout
    done = run("describe", "--params", "none.yaml")
    assert done.returncode == 1
    assert "none.yaml: cannot be read" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["other.yaml"]


def test_it_prints_the_papers_numbers_beside_ours(text: str) -> None:
    assert numbers_of(text, "Base video tower") == [87.9, 87.907, 0.01]
    assert numbers_of(text, "Medium video tower") == [155.0, 154.958, -0.03]
    assert numbers_of(text, "Large video tower") == [306.1, 306.113, 0.0]
    for drop, paper in (("0%", 784.8), ("25%", 574.2), ("50%", 375.4), ("75%", 188.1)):
        row = numbers_of(text, f"MBS, 32 x 224 x 224, 5 captions, drop {drop}")
        published, ours, difference, _ = row
        assert published == paper
        assert ours == pytest.approx(paper, rel=0.01)
        assert difference == pytest.approx(100 * (ours / paper - 1), abs=0.02)


def test_it_prints_all_weights_and_says_where_the_words_come_from(text: str) -> None:
    model = build_model(PARAMS, PARAMS.preprocess.vocab_size)
    total = sum(weight.numel() for weight in model.parameters())
    assert numbers_of(text, "total") == [pytest.approx(total / 1e6, abs=0.0005), 0.0]
    assert "1,024 rows (preprocess.vocab_size, at most)" in text


def test_the_rows_of_a_vocabulary_file_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    params = change("preprocess", vocabulary=path)
    assert f"1,024 rows (preprocess.vocab_size; {path} is not there)" in describe(PATH, params)
    path.write_text("<pad>\n<unk>\na\nstar\n", encoding="utf-8")
    assert f"has 4 rows ({path})" in describe(PATH, params)


@pytest.mark.parametrize(
    ("params", "shown"),
    [
        (SHARED, "one encoder shared by all (VATT-MA)"),
        (change("model", audio_input="spectrogram"), "75 x 80 log-mel bands"),
        (change("model", text_style="linear"), "Text style linear"),
        (change("launch", recompute_activations=True), ", activations computed again"),
        (change("launch", num_processes=2, zero_stage=3), "days on 2 such GPUs"),
        (change("model", drop_token_rate=0.6), "60%"),
    ],
)
def test_every_kind_of_model_can_be_described(params: Params, shown: str) -> None:
    assert shown in re.sub(r" +", " ", describe(PATH, params))


def test_the_readme_shows_what_is_printed() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"(?ms)^## What a network costs$.*?^```\n(.*?)^```", readme)
    assert block
    path = Path("configs/mbs.yaml")
    printed = describe(path, load_params(ROOT / path)).splitlines()
    assert set(block[1].splitlines()) <= set(printed)
