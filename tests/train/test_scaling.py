"""docs/scaling.md shows what its command prints, and its formulas are sums written out by hand."""

from pathlib import Path

import pytest

from benchmarks.scaling import (
    CONFIGS,
    count_wire_bytes,
    estimate_step_s,
    load_network,
    print_clips,
    print_days,
    print_state,
)

GUIDE = Path(__file__).parents[2] / "docs/scaling.md"


def test_the_guide_has_the_tables_of_its_command() -> None:
    networks = {name: load_network(file) for name, file in CONFIGS.items()}
    guide = GUIDE.read_text(encoding="utf-8")
    for table in (print_state, print_clips, print_days):
        lines = list(table(networks))
        assert len(lines) >= 6
        assert "\n".join(lines) in guide


def test_a_step_of_bbs() -> None:
    """193.9 M gradients and weights once each; 2048 clips in both spaces, there and back."""
    network = load_network("bbs")
    assert count_wire_bytes(network, 8) == 0  # one node
    weights, embeddings = 193_877_292, 2048 * (2 * 512 + 6 * 256)
    expected = (weights + embeddings) * 4 * 2 * 15 / 16
    assert count_wire_bytes(network, 16) == pytest.approx(expected)
    computed_s, exchanged_s = estimate_step_s(network, 16)
    assert computed_s == pytest.approx(network.estimate.step_flops / (16 * 0.45 * 989e12))
    assert exchanged_s == pytest.approx(expected / 50e9)
