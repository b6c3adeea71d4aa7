"""What a run costs, against sums written out by hand."""

from pathlib import Path

import pytest

from vatt.description import build_model, estimate_run
from vatt.model.cost import add_costs, count_clip
from vatt.params import Params, load_params

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")


def change(section: str, **values: object) -> Params:
    changed = PARAMS.section(section).model_copy(update=values)
    return PARAMS.model_copy(update={section: changed})


def test_a_run_costs_its_steps_and_a_gpu_day_is_what_a_gpu_computes_in_a_day() -> None:
    model = build_model(PARAMS, 1024)
    costs = count_clip(model, PARAMS.clip, PARAMS.model.drop_token_rate)
    training = add_costs(costs.values()).training
    estimate = estimate_run(PARAMS, model)
    assert estimate.step_flops == PARAMS.pretrain.batch_size * training
    assert estimate.run_flops == PARAMS.pretrain.num_steps * estimate.step_flops
    assert estimate.gpu_days == pytest.approx(estimate.run_flops / (0.4 * 989e12 * 24 * 3600))
    assert estimate.weights.trainable == sum(w.numel() for w in model.parameters())


def test_recomputed_activations_cost_up_to_a_third_more() -> None:
    model = build_model(PARAMS, 1024)
    plain = estimate_run(PARAMS, model).step_flops
    more = estimate_run(change("launch", recompute_activations=True), model).step_flops
    assert 1.25 < more / plain < 1.4
