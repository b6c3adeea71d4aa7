"""Ours beside the published sizes and FLOPs: against a closed form, and against the paper."""

import pytest

from vatt.model.published import (
    PAPER_CLIP,
    PAPER_VOCAB_SIZE,
    build_paper_network,
    compare_flops,
    compare_sizes,
)

LAYERS, WIDTH, MLP_WIDTH, HEADS = 12, 1024, 4096, 16


def count_by_formula(num_patches: int, num_kept: int) -> float:
    """GFLOPs of the Medium video tower as TensorFlow's profiler counts them, 600 classes."""
    tokens = num_kept + 1
    dense = LAYERS * tokens * (4 * WIDTH**2 + 2 * WIDTH * MLP_WIDTH)
    values = LAYERS * tokens**2 * WIDTH
    patches = 4 * 16 * 16 * 3 * WIDTH * num_patches
    return (2 * (dense + values + patches + WIDTH * 600) + 6 * LAYERS * HEADS * tokens**2) / 1e9


@pytest.mark.parametrize(
    ("name", "num_patches", "num_kept", "rounded"),
    [
        ("Medium video, 32 x 224 x 224, drop 0%", 1568, 1568, 547.02),
        ("Medium video, 64 x 224 x 224, drop 0%", 3136, 3136, 1220.26),
        ("Medium video, 32 x 320 x 320, drop 0%", 3200, 3200, 1250.42),
        ("Medium video, 32 x 320 x 320, drop 25%", 3200, 2400, 893.53),
        ("Medium video, 32 x 320 x 320, drop 50%", 3200, 1600, 569.57),
        ("Medium video, 32 x 320 x 320, drop 75%", 3200, 800, 278.53),
    ],
)
def test_a_tower_costs_what_the_formula_says(
    name: str, num_patches: int, num_kept: int, rounded: float
) -> None:
    ours = {row.name: row.ours.paper / 1e9 for row in compare_flops()}[name]
    assert ours == pytest.approx(count_by_formula(num_patches, num_kept), rel=1e-12)
    assert ours == pytest.approx(rounded, abs=0.01)


def test_all_published_flops_come_out_within_one_percent() -> None:
    rows = list(compare_flops())
    assert [row.paper_gflops for row in rows] == [
        *(548.1, 1222.1, 1252.3, 898.9, 572.5, 279.8),
        *(784.8, 574.2, 375.4, 188.1),
        *(9090.0, 15020.0, 29800.0),
    ]
    for row in rows:
        assert row.ours.paper / 1e9 == pytest.approx(row.paper_gflops, rel=0.01), row.name


def test_published_sizes_of_video_towers_come_out_exactly() -> None:
    rows = {row.name: row for row in compare_sizes()}
    for name, exact, published in [
        ("Base video tower", 87_907_416, 87.9),
        ("Medium video tower", 154_958_424, 155.0),
        ("Large video tower", 306_113_112, 306.1),
    ]:
        assert rows[name].ours == exact
        assert rows[name].paper_millions == published == pytest.approx(exact / 1e6, abs=0.05)
    assert {name: rows[f"{name} network"].ours for name in ("BBS", "MBS", "LBS")} == {
        "BBS": 193_877_292,
        "MBS": 260_905_772,
        "LBS": 412_060_460,
    }


def test_the_papers_network_has_its_word_table_and_clip() -> None:
    network = build_paper_network("base")
    assert network.words.weight.shape == (PAPER_VOCAB_SIZE, 300)
    assert [len(table.table) for table in network.video.stem.positions.tables] == [8, 14, 14]
    assert (PAPER_CLIP.num_samples, PAPER_CLIP.num_candidates) == (153_600, 5)
