"""The configurations at the paper's scale are of the right size, and their heads are true."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from vatt.description import build_model, estimate_run
from vatt.model.published import PAPER_CLIP, PAPER_VOCAB_SIZE
from vatt.params import Params, load_params, read_settings

ROOT = Path(__file__).parents[2]
TRAINED = {
    "bbs": 193_877_292,
    "mbs": 260_905_772,
    "lbs": 412_060_460,
    "ma_medium": 162_990_336,
}
NUMBER = r"([\d.,]+)"
COSTS = {
    "weights": rf"{NUMBER} M trained, {NUMBER} M frozen",
    "clip": rf"{NUMBER} GFLOPs forward, at drop {NUMBER} %",
    "step": rf"{NUMBER} PFLOPs, of {NUMBER} clips, activations computed again",
    "run": rf"{NUMBER} ZFLOPs, of {NUMBER} steps",
    "time": rf"{NUMBER} GPU-days at 40 % of 989 TFLOP/s \(.*\): {NUMBER} days on {NUMBER} GPUs",
    "memory": rf"{NUMBER} GiB .* in each of {NUMBER} processes, by formula \(ZeRO {NUMBER}\)",
}
"""The lines of a head that say what a run costs."""


class Config(NamedTuple):
    name: str
    params: Params
    text: str


@pytest.fixture(scope="module", params=TRAINED)
def config(request: pytest.FixtureRequest) -> Config:
    path = ROOT / f"configs/{request.param}.yaml"
    return Config(request.param, load_params(path), path.read_text(encoding="utf-8"))


def list_values(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return all single values and lists by their names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, dict) and value
        found |= list_values(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return found


def test_there_are_no_others() -> None:
    assert {path.name for path in (ROOT / "configs").iterdir()} == {f"{n}.yaml" for n in TRAINED}


def test_it_says_only_what_differs_from_the_file_below(config: Config) -> None:
    content = yaml.safe_load(config.text)
    below = list_values(read_settings(ROOT / "configs" / content.pop("over")))
    own = list_values(content)
    # A mapping on a line of its own, as of augment, is said whole.
    lines = [line.split(" #")[0] for line in config.text.splitlines()]
    whole = {line.split(":")[0].strip() for line in lines if line.endswith("}")}
    same = [name for name, value in own.items() if below.get(name, ...) == value]
    assert [name for name in same if name.split(".")[-2] not in whole] == []


def test_the_network_has_the_weights_of_the_original(config: Config) -> None:
    model = build_model(config.params, PAPER_VOCAB_SIZE)
    weights = estimate_run(config.params, model).weights
    assert weights == (TRAINED[config.name], 65_536 * 300)


def test_clip_and_schedule_are_the_papers(config: Config) -> None:
    params = config.params
    assert params.clip.model_copy(update={"augment": PAPER_CLIP.augment}) == PAPER_CLIP
    assert params.clip.augment.crop == "inception"
    assert (params.pretrain.num_steps, params.pretrain.batch_size) == (500_000, 2048)
    assert (params.pretrain.learning_rate, params.pretrain.warmup_steps) == (1e-4, 10_000)
    assert params.pretrain.schedule == "paper"
    assert (params.model.dropout_rate, params.model.drop_token_rate) == (0.1, 0.5)
    assert params.preprocess.frame_rate_hz == 10
    assert params.preprocess.vocab_size == PAPER_VOCAB_SIZE


def test_the_head_says_what_it_costs(config: Config) -> None:
    params = config.params
    estimate = estimate_run(params, build_model(params, params.preprocess.vocab_size))
    num_processes, stage = params.launch.num_processes, params.launch.zero_stage
    expected = {
        "weights": (estimate.weights.trainable / 1e6, estimate.weights.frozen / 1e6),
        "clip": (estimate.clip.full / 1e9, 100 * params.model.drop_token_rate),
        "step": (estimate.step_flops / 1e15, params.pretrain.batch_size),
        "run": (estimate.run_flops / 1e21, params.pretrain.num_steps),
        "time": (estimate.gpu_days, estimate.gpu_days / num_processes, num_processes),
        "memory": (estimate.memory_bytes[stage] / 2**30, num_processes, stage),
    }
    assert params.launch.recompute_activations
    for name, pattern in COSTS.items():
        found = re.search(rf"^#   {name} +{pattern}$", config.text, re.MULTILINE)
        assert found, f"configs/{config.name}.yaml: no line {name}"
        for number, value in zip(found.groups(), expected[name], strict=True):
            _, _, decimals = number.partition(".")
            shown = f"{value:,.{len(decimals)}f}"
            assert number == shown, f"configs/{config.name}.yaml: {name}: {number} is {shown}"


def test_the_commands_of_the_head_name_the_file(config: Config) -> None:
    head = config.text.partition("\nover:")[0]
    assert set(re.findall(r"configs/\w+\.yaml", head)) == {f"configs/{config.name}.yaml"}
    assert all(line.startswith("#") for line in head.strip().splitlines())
