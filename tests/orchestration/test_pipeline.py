"""The graph is read as DVC itself reads it."""

import re
import subprocess
from pathlib import Path

import pytest

from orchestration.pipeline import PipelineError, load_pipeline
from tests.orchestration.miniature import DVC, REPO, set_params


@pytest.mark.parametrize("which", ["repository", "miniature"])
def test_graph_equals_that_of_dvc(which: str, miniature: Path) -> None:
    root = REPO if which == "repository" else miniature
    pipeline = load_pipeline(root)
    edges = {(before, name) for name in pipeline.stages for before in pipeline.upstream(name)}
    drawn = subprocess.check_output([DVC, "dag", "--mermaid"], cwd=root, text=True)
    names = dict(re.findall(r'(node\d+)\["(.+?)"\]', drawn))
    arrows = re.findall(r"(node\d+)-->(node\d+)", drawn)
    stages = {number: name for number, name in names.items() if not name.endswith(".dvc")}
    assert edges == {(stages[before], stages[after]) for before, after in arrows}
    assert set(pipeline.stages) == set(stages.values())


def test_ancestors_are_transitive_and_in_order(miniature: Path) -> None:
    pipeline = load_pipeline(miniature)
    assert pipeline.ancestors("download") == ()
    before = ("download", "preprocess", "validate", "pretrain")
    assert pipeline.ancestors("finetune@audio") == before
    assert pipeline.ancestors("evaluate") == (*before, "finetune@video", "finetune@audio")


def test_only_people_fill_the_inbox() -> None:
    pipeline = load_pipeline(REPO)
    assert {name: pipeline.sources(name) for name in pipeline.stages if pipeline.sources(name)} == {
        "download": ("data/inbox",)
    }


def test_code_version_follows_command_and_code(miniature: Path) -> None:
    def versions() -> dict[str, str]:
        pipeline = load_pipeline(miniature)
        return {name: pipeline.code_version(name) for name in pipeline.stages}

    first = versions()
    (miniature / "data/inbox/new.mp4").write_bytes(b"data is not code")
    set_params(miniature, "pretrain", says="nor are parameters")
    assert versions() == first
    path = miniature / "dvc.yaml"
    path.write_text(path.read_text().replace("stage.py pretrain", "stage.py  pretrain"))
    second = versions()
    assert {name for name in first if first[name] != second[name]} == {"pretrain"}
    with (miniature / "stage.py").open("a") as script:
        script.write("\n# a change\n")
    third = versions()
    assert all(second[name] != third[name] for name in second)


def test_no_data_version_before_the_first_run(miniature: Path) -> None:
    assert load_pipeline(miniature).data_version("download") is None


def test_missing_key_names_the_stage(miniature: Path) -> None:
    path = miniature / "dvc.yaml"
    path.write_text(path.read_text().replace("    cmd: python stage.py pretrain\n", ""))
    with pytest.raises(PipelineError, match="stage pretrain: key 'cmd'"):
        load_pipeline(miniature)
