"""A run is stages in a folder; what ended is not run again unless something changed.

The slow test measures a tiny demo over two seeds and both numerical paths, killed on its way.
"""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tqdm import tqdm

from tests.orchestration.miniature import REPO
from tests.tables.test_claims import NAMED_BY_THE_ISSUE
from tests.tables.test_document import NUMBER, read_rows
from tests.test_whole_pipeline import shrink
from vatt.core.errors import StageError
from vatt.core.times import TIMES_PATH, read_times
from vatt.params import Params, load_params
from vatt.tables.document import BEGIN, END
from vatt.tables.miniatures import build_variant, count_gflops, list_variants
from vatt.tables.results import build_run
from vatt.tables.run import CORPUS_STAGES, STAGES, Run

TABLES = ("droptoken", "backbone", "candidates", "negatives")
CAMPAIGN = """
from tests.tables.test_claims import NAMED_BY_THE_ISSUE
from tests.tables.test_document import NUMBER, read_rows
from vatt.tables.document import write_documents
from vatt.tables.miniatures import measure_table
from vatt.tables.results import measure_results
measure_results((2021, 2022))
measure_table("negatives", (2021, 2022))
write_documents()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml of a tiny demo, where a person works."""
    (tmp_path / "params.yaml").write_bytes((REPO / "params.yaml").read_bytes())
    shrink(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def carry_out(run: Run) -> int:
    """Run what has not ended; return how many stages were run in the folder by now."""
    with tqdm(total=len(run.stages)) as bar:
        run.carry_out(bar)
        assert bar.n == len(run.stages)
    return len(read_times(run.folder / TIMES_PATH))


def count_videos(run: Run) -> int:
    return len(list((run.folder / "data/download/demo").glob("*.mp4")))


def make_settings(num_videos: int) -> dict[str, Any]:
    source = {"kind": "demo", "name": "demo", "num_videos": num_videos}
    return {"run": {"seed": 5}, "download": {"sources": [source]}}


def test_what_ended_is_not_run_again_unless_something_changed(project: Path) -> None:
    run = Run(Path(".cache/results/a"), make_settings(3), [("download",)])
    assert (carry_out(run), count_videos(run)) == (1, 3)
    (spent,) = read_times(run.folder / TIMES_PATH)
    assert run.read_cpu_s() == {"download": spent.cpu_s}
    assert load_params(run.folder / "params.yaml").run.seed == 5
    assert carry_out(replace(run)) == 1
    assert carry_out(replace(run, settings=make_settings(4))) == 2
    assert count_videos(run) == 4
    # Another numerical path begins with an empty folder: trainings are not called after it.
    other = replace(run, settings=make_settings(4), environment={"ATEN_CPU_CAPABILITY": "default"})
    assert carry_out(other) == 1
    assert count_videos(other) == 4


def test_a_stage_that_fails_is_shown_with_what_it_said(project: Path) -> None:
    settings = {"download": {"fetch": {"tries": 0}}}
    run = Run(Path(".cache/results/a"), settings, [("download",)])
    with pytest.raises(StageError, match=r"results/a: download failed:\n.*tries = 0"):
        carry_out(run)
    assert run.read_cpu_s() == {}


@pytest.mark.parametrize("table", TABLES)
def test_variants_are_accepted_and_differ_in_one_setting(project: Path, table: str) -> None:
    params = load_params(Path("params.yaml"))
    corpus = build_run(2021, stages=CORPUS_STAGES)
    built: dict[str, Params] = {}
    folders = set()
    for variant in list_variants(table, params):
        run = build_variant(variant.settings, corpus, params)
        folders.add(run.folder.parent.name)
        (run.folder / "params.yaml").write_text(run.params_text)
        built[variant.title] = load_params(run.folder / "params.yaml")
        assert count_gflops(run) > 0
    assert "as_set" in folders
    assert len(folders) == len(built)
    sections = ("model", "clip", "pretrain")
    contents = [
        {
            f"{section}.{key}": json.dumps(value)
            for section in sections
            for key, value in own.section(section).model_dump(mode="json").items()
        }
        for own in built.values()
    ]
    changed = {key for key in contents[0] if len({content[key] for content in contents}) > 1}
    assert changed == {
        "droptoken": {"model.drop_token_rate"},
        "backbone": {"model.shared_encoder", "model.text", "model.text_style"},
        "candidates": {"clip.num_candidates"},
        "negatives": {"pretrain.accumulation_steps"},
    }[table] | ({"model.audio"} & changed)


def test_stages_are_those_of_dvc() -> None:
    entries = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"]
    words = {
        (name, task) if "matrix" in entry else (name,)
        for name, entry in entries.items()
        for task in entry.get("matrix", {"task": [""]})["task"]
    }
    assert set(STAGES) == words
    assert len(STAGES) == len(words)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_campaign_that_is_killed_ends_with_the_numbers_of_the_pipeline_by_hand(
    project: Path,
) -> None:
    (project / "docs").mkdir()
    (project / "README.md").write_text(f"{BEGIN}\n{END}\n")
    draws, num_kills = random.Random(0), 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", CAMPAIGN])
        try:
            code = process.wait(draws.uniform(10, 120) if num_kills < 6 else None)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            num_kills += 1
            time.sleep(0.5)  # its stage ends with it
    assert code == 0
    assert num_kills

    results = json.loads((project / "docs/results.json").read_bytes())
    assert {number["name"] for number in results["numbers"]} >= NAMED_BY_THE_ISSUE
    assert all(len(number["runs"]) == 4 for number in results["numbers"])
    assert NUMBER["name"] in read_rows((project / "README.md").read_text())
    assert "## Negatives" in (project / "docs/results.md").read_text()
    table = json.loads((project / "docs/tables/negatives.json").read_bytes())
    assert len(set(table["gflops"])) == 1
    assert all(value > 0 for own in table["step_s"] for value in own)

    by_hand = project / "by_hand"
    (by_hand / "data/inbox").mkdir(parents=True)
    (by_hand / "params.yaml").write_bytes((project / "params.yaml").read_bytes())
    for stage in STAGES:
        subprocess.run([sys.executable, "-m", "vatt", *stage], cwd=by_hand, check=True)
    runs = project / ".cache/results"
    for name in ("metrics/evaluate.json", "data/pretrain/model.safetensors"):
        assert (by_hand / name).read_bytes() == (runs / "native/2021" / name).read_bytes()
    # The last digits of the other path differ, or it would show nothing.
    name = "data/pretrain/model.safetensors"
    assert (by_hand / name).read_bytes() != (runs / "narrow/2021" / name).read_bytes()
