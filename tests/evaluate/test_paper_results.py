"""Numbers of the papers stand beside ours where the data set is theirs."""

import pytest

from vatt.evaluate.paper_results import list_published

VIDEOS = ["Kinetics-400", "Kinetics-700", "ImageNet", "Moments in Time"]


@pytest.mark.parametrize(
    ("sources", "searched", "num_rows", "expected"),
    [
        (
            ["UCF-101", "esc50", "demo", "inbox"],
            ["demo", "inbox"],
            9,
            {"ucf101 VATT-Medium, LRC accuracy": 0.896, "esc50 VATT-Medium, SVM accuracy": 0.825},
        ),
        (
            VIDEOS,
            [],
            2 * (5 + 1 + 4 + 2),
            {
                "kinetics400 VATT-Base accuracy": 0.796,
                "kinetics400 VATT-Base top5": 0.949,
                "kinetics400 VATT from scratch top5": 0.518,
                "kinetics700 VATT-Large top5": 0.905,
                "momentsintime VATT-MA-Medium top5": 0.659,
                "imagenet VATT-Base top5": 0.939,
            },
        ),
        (
            ["audioset"],
            [],
            6,
            {"audioset VATT-Base map": 0.394, "audioset VATT-Base auc": 0.971}
            | {"audioset VATT-Base d_prime": 2.895},
        ),
        (
            ["youcook2", "demo"],
            ["YouCook2"],
            8,
            {"youcook2 VATT-MBS r10": 0.455, "youcook2 VATT-MBS median_rank": 13},
        ),
        (["demo"], ["demo"], 0, {}),
        (["youcook2", "demo"], ["youcook2", "demo"], 0, {}),  # searched as one
    ],
)
def test_they_are_found_by_the_names_of_sources(
    sources: list[str], searched: list[str], num_rows: int, expected: dict[str, float]
) -> None:
    rows = list_published(sources, searched)
    found = {f"{row.data_set} {row.model} {row.measure}": row.value for row in rows}
    assert len(found) == len(rows) == num_rows
    assert expected.items() <= found.items()
