"""The real pipeline, all stages: the three ways to run it agree, and the demo is learned."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.orchestration.miniature import DVC, REPO
from vatt.core.files import digest_file
from vatt.params import TASKS

STAGES = (
    *(("download",), ("preprocess",), ("validate",), ("pretrain",)),
    *((stage, task) for task in TASKS for stage in ("tune", "finetune")),
    *(("evaluate",), ("promote",)),
)
DAGSTER = "dagster job execute -m orchestration.definitions -j everything"
WAYS = {
    "by hand": [[sys.executable, "-m", "vatt", *stage] for stage in STAGES],
    "dvc": [[DVC, "repro"]],
    "dagster": [[sys.executable, "-m", *DAGSTER.split()]],
}


def create_copy(root: Path) -> Path:
    """The tracked files in a repository of their own."""
    listing = subprocess.check_output(["git", "ls-files", "-z"], cwd=REPO, text=True)
    for name in listing.strip("\0").split("\0"):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, target)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / ".dagster").mkdir()
    return root


def shrink(root: Path) -> None:
    """Change the parameters to ones that take a minute."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["download"]["sources"][0]["num_videos"] = 12
    params["pretrain"] |= {"num_steps": 6, "warmup_steps": 2, "batch_size": 8}
    short = {"num_steps": 4, "batch_size": 8}
    for task in TASKS:
        params["finetune"][task] |= short | {"validate_every_steps": 2, "checkpoint_every_steps": 2}
        params["finetune"][task]["schedule"]["warmup_steps"] = 1
    params["tune"] |= {"num_trials": 3, "prune": {"min_trials": 1, "min_steps": 2}}
    params["tune"]["space"]["warmup_steps"] = {"low": 0, "high": 2}
    params["evaluate"]["lrc_steps"] = 20
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def run(command: list[str], root: Path) -> None:
    environment = os.environ | {
        "DAGSTER_HOME": str(root / ".dagster"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    subprocess.run(command, cwd=root, env=environment, check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_by_hand_dvc_and_dagster_give_the_same_bytes(tmp_path: Path) -> None:
    outputs = {}
    for way, commands in WAYS.items():
        root = create_copy(tmp_path / way.replace(" ", "_"))
        shrink(root)
        for command in commands:
            run(command, root)
        outputs[way] = {
            path.relative_to(root).as_posix(): digest_file(path)
            for folder in ("data", "metrics")
            for path in (root / folder).rglob("*")
            if path.is_file() and path.name != ".gitignore"
        }
    assert outputs["dvc"] == outputs["by hand"]
    assert outputs["dagster"] == outputs["by hand"]
    assert "data/pretrain/model.safetensors" in outputs["dagster"]


@pytest.mark.slow
def test_the_demo_is_learned(tmp_path: Path) -> None:
    root = create_copy(tmp_path / "demo")
    run([DVC, "repro"], root)
    metrics = json.loads((root / "metrics/evaluate.json").read_text())
    chance, probes = metrics["chance"], metrics["probes"]
    assert metrics["text_to_video_pairs"] >= 128
    assert metrics["text_to_video_r10"] >= 12 * chance["text_to_video_r10"]
    assert metrics["audio_to_video_r10"] >= 8 * chance["audio_to_video_r10"]
    assert set(metrics["finetuned"]) == set(TASKS)
    for task, result in metrics["finetuned"].items():
        rivals = [result[name] for name in ("linear_probe", "scratch", "untrained", "chance")]
        assert result[result["measure"]] > max(rivals), task
    gains = {("action", "video"): 0.2, ("rhythm", "video"): 0.1, ("audio_event", "audio"): 0.2}
    for (label, modality), gain in gains.items():
        seen = probes[label][modality]
        assert seen["accuracy"] >= seen["untrained"] + gain, label
