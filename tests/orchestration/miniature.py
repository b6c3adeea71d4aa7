"""A pipeline with the real stage names whose stages take milliseconds, in a folder of its own."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[2]
DVC = str(Path(sys.executable).with_name("dvc"))
DG = [sys.executable, "-m", "dagster_dg_cli.cli"]

# What a stage does is said by its section of params.yaml.
STAGE_SCRIPT = """
import json, pathlib, subprocess, sys, time
import yaml
name = "_".join(sys.argv[1:])
params = yaml.safe_load(open("params.yaml"))
for key in sys.argv[1:]:
    params = params[key]
out = pathlib.Path("data", *sys.argv[1:])
out.mkdir(parents=True, exist_ok=True)
for file, content in params.get("files", {}).items():
    (out / file).write_text(content)
(out / "report.html").write_text(f"<p>{params}</p>")
if params.get("children"):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    if params["children"] == "polite":
        code = "import time; time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code])
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    subprocess.run(["sh", "-c", "sleep 600 & sleep 0.1"])  # its parent is gone
    print("ready", flush=True)
from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes
for number in range(params.get("progress", 0)):
    print(number, end="\\r", flush=True)
is_heard = PipesEnvVarParamsLoader().is_dagster_pipes_process()
for numbers in params.get("numbers", []):
    if is_heard:
        open_dagster_pipes().report_custom_message(numbers)
    time.sleep(params.get("pause_s", 0))
    print("a line", flush=True)
end_s = time.monotonic() + params.get("sleep_s", 0)
while (left_s := end_s - time.monotonic()) > 0:
    if params.get("numbers"):  # as a stage that trains shows its progress
        print("a line", flush=True)
    time.sleep(min(left_s, 1))
print("stage", name, "says", params.get("says", "nothing"), flush=True)
if params.get("crash"):
    sys.exit("out of memory")
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics", name + ".json").write_text(json.dumps(params.get("metrics", {})))
sys.exit(params.get("exit", 0))
"""

VERDICT = {
    "passed": True,
    "index_digest": "00",
    "expectations": [
        {"name": "key_unique", "severity": "critical", "success": True, "observed": 1.0},
        {"name": "words_mostly", "severity": "warning", "success": False, "observed": 0.5},
    ],
}

INPUTS = {
    "download": ["data/inbox"],
    "preprocess": ["data/download"],
    "validate": ["data/preprocess"],
    "pretrain": ["data/preprocess", "metrics/validate.json"],
    "finetune": ["data/preprocess", "data/pretrain"],
    "evaluate": ["data/pretrain", "data/finetune/video", "data/finetune/audio"],
    "promote": ["data/pretrain", "metrics/evaluate.json"],
}
TASKS = ["video", "audio"]  # of finetune, whose entry has a matrix of them


def create_miniature(root: Path) -> Path:
    """Write the pipeline into the empty folder `root`, a git repository of its own."""
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    for file in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_bytes((REPO / file).read_bytes())
    (root / "data/inbox").mkdir(parents=True)
    (root / "data/inbox/.gitkeep").touch()
    (root / "stage.py").write_text(STAGE_SCRIPT)
    shutil.copy(REPO / "pyproject.toml", root)
    for package in ("orchestration", "vatt"):  # which the supervisor imports
        (root / package).symlink_to(REPO / package)
    stages: dict[str, dict[str, Any]] = {
        name: {
            "desc": f"Stage {name}.",
            "meta": {"group": "data", "kinds": ["python"]},
            "cmd": f"python stage.py {name}",
            "params": [name],
            "deps": [*inputs, "stage.py"],
            "outs": [f"data/{name}"],
            "metrics": [f"metrics/{name}.json"],
        }
        for name, inputs in INPUTS.items()
    }
    stages["finetune"] |= {
        "matrix": {"task": TASKS},
        "cmd": "python stage.py finetune ${item.task}",
        "params": ["finetune.${item.task}"],
        "outs": ["data/finetune/${item.task}"],
        "metrics": ["metrics/finetune_${item.task}.json"],
    }
    stages["promote"]["outs"] = [{"data/promote": {"persist": True}}]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    params: dict[str, Any] = {name: {"metrics": {"loss": 0.5}} for name in INPUTS}
    params["validate"] = {"metrics": VERDICT}
    params["finetune"] = {task: {"metrics": {"loss": 0.5}} for task in TASKS}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


def set_params(root: Path, stage: str, **values: object) -> None:
    """Change the section of one stage in params.yaml."""
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params[stage] |= values
    path.write_text(yaml.safe_dump(params))


def repro_by_hand(root: Path, *targets: str) -> None:
    """Run `dvc repro` as a person does, with the environment's Python first on PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [DVC, "repro", "--quiet", *targets]
    subprocess.run(command, cwd=root, check=True, env=os.environ | {"PATH": path})


def read_lock(root: Path) -> dict[str, object]:
    """Return the stages of dvc.lock."""
    stages: dict[str, object] = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    return stages


def out_hash(root: Path, stage: str) -> str:
    """Return the hash of data/<stage> (of `tune@video`, data/tune/video) as dvc.lock has it."""
    entry: Any = read_lock(root)[stage]
    hashes: dict[str, str] = {out["path"]: out["md5"] for out in entry["outs"]}
    return hashes[f"data/{stage.replace('@', '/')}"]


def wait_until(
    is_so: Callable[[], object], timeout_s: float, describe: Callable[[], object] = str
) -> None:
    """Ask again and again; when it takes too long, fail with what `describe` returns."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, describe()
        time.sleep(0.1)
