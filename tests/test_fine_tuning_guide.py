"""What docs/fine_tuning.md says about ESC-50 works as it stands there."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from scipy.io import wavfile

from tests.orchestration.miniature import REPO
from vatt.corpus.index import read_index
from vatt.corpus.manifest import Split
from vatt.loading.tasks import read_labelled
from vatt.params import load_params
from vatt.preprocess.corpus import write_corpus
from vatt.stages import download

GUIDE = (REPO / "docs/fine_tuning.md").read_text(encoding="utf-8")
RATE_HZ = 44_100
EVERY = {"validate_every_steps": 15, "checkpoint_every_steps": 15}
SMALL: dict[str, Any] = {
    "pretrain": {"num_steps": 2, "warmup_steps": 1, "batch_size": 4},
    "finetune": {"audio": {"num_steps": 30, "batch_size": 8, **EVERY}},
    "tune": {"num_trials": 2},
    "evaluate": {"lrc_steps": 20},
}


def merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Replace values by name, at any depth."""
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = value


def write_esc50(folder: Path) -> None:
    """Whistles and rustles of 5 s, three recordings of each in each fold, in ESC-50's layout."""
    generator = np.random.default_rng(0)
    times_s = np.arange(5 * RATE_HZ) / RATE_HZ
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    for fold in range(1, 6):
        for number in range(6):
            target, recording = number % 2, 1000 * fold + number
            whistle = np.sin(2 * np.pi * (750 * times_s + generator.uniform()))
            rustle = generator.normal(size=len(times_s)) / 4
            samples = (whistle, rustle)[target] * generator.uniform(0.2, 0.8)
            name = f"{fold}-{recording}-A-{target}.wav"
            pcm = (samples * 32_767).clip(-32_768, 32_767).astype("<i2")
            wavfile.write(folder / "audio" / name, RATE_HZ, pcm)
            category = ("whistle", "rustle")[target]
            rows.append(f"{name},{fold},{target},{category},False,{recording},A")
    (folder / "meta/esc50.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def read_guide(esc50: Path, num_videos: int) -> dict[str, Any]:
    """Return params.yaml with what the guide replaces."""
    params: dict[str, Any] = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    (block,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    replaced = block.replace("PATH/TO/ESC-50-master", str(esc50))
    merge(params, yaml.safe_load(replaced.replace("num_videos: 300", f"num_videos: {num_videos}")))
    return params


def test_sounds_in_the_layout_of_esc50_get_the_labels_and_splits_of_the_guide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_esc50(tmp_path / "ESC-50-master")
    raw = read_guide(tmp_path / "ESC-50-master", num_videos=6)
    sources = raw["download"]["sources"]
    raw["download"]["sources"] = [row for row in sources if row["kind"] == "esc50"]
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    params = load_params(Path("params.yaml"))
    download.main(params.run, params.download)
    Path("data/preprocess").mkdir()
    write_corpus(Path("data/download"), Path("data/preprocess"), params.preprocess, num_workers=1)
    assert params.finetune.audio is not None
    audio, splits = params.finetune.audio, get_args(Split)
    corpus = read_labelled(Path("data/preprocess"), "audio", audio, splits)
    assert corpus.classes == ("rustle", "whistle")
    sizes = {name: len(split) for name, split in corpus.splits.items()}
    assert sizes["test"] == 6  # the fold of the guide
    assert sizes["validation"] > 0
    assert sum(sizes.values()) == 30
    index = read_index(Path("data/preprocess"))
    folds = index["video_id"].str.extract(r"(\d)-\d+-A-\d\.wav$")[0]
    assert set(folds[index["split"] == "test"]) == {"1"}
    assert set(folds[index["split"] != "test"]) == set("2345")


@pytest.mark.slow
def test_sounds_in_the_layout_of_esc50_are_learned(tmp_path: Path) -> None:
    """The commands of the guide, made shorter."""
    write_esc50(tmp_path / "ESC-50-master")
    params, run = read_guide(tmp_path / "ESC-50-master", num_videos=6), tmp_path / "run"
    merge(params, SMALL)
    run.mkdir()
    (run / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (stages,) = re.findall(r"(?s)stage by stage: (.*?), each with `python -m vatt`", GUIDE)
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    for stage in re.findall(r"`([^`]+)`", stages):
        command = [sys.executable, "-m", "vatt", *stage.split()]
        subprocess.run(command, cwd=run, env=environment, check=True)
    metrics = json.loads((run / "metrics/evaluate.json").read_text())
    result = metrics["finetuned"]["audio"]
    assert (result["label"], result["num_test"], result["num_classes"]) == ("esc50", 6, 2)
    assert result["accuracy"] > result["chance"] == 0.5
    probe = metrics["probes"]["esc50"]["audio"]
    assert (probe["num_folds"], probe["num_test"]) == (5, 30)
    best = json.loads((run / "data/tune/audio/best.json").read_text())
    record = json.loads((run / "metrics/finetune_audio.json").read_text())
    assert record["schedule"] == best["schedule"]
    assert "esc50" in (run / "data/evaluate/report.html").read_text()
