"""Jobs of Slurm and Kubernetes, with fake programs that write down what they are asked.

The manifest is compared field by field with what the reference of Kubernetes says.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.train.corpus import LAUNCH, build_job
from vatt.core.errors import StageError
from vatt.launch.kubernetes import build_pod_order, run_in_kubernetes, write_manifest
from vatt.launch.slurm import build_script, run_in_slurm
from vatt.params import KubernetesParams, SlurmParams
from vatt.train.recipe import Job

REFUSED = 'echo "The connection to the server was refused" >&2; exit 1'
AWAY = 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1'
FORGOTTEN = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
FAILED = {"conditions": [{"type": "Failed", "status": "True", "message": "backoff limit"}]}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put shell scripts on PATH by name; in each, $N counts its calls from 1.

    Returns the file of the calls in order: program and first argument.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vatt.launch.slurm.POLL_S", 0.0)
    monkeypatch.setattr("vatt.launch.cluster.ASK_AGAIN_S", 0.0)
    programs, asked = tmp_path / "bin", tmp_path / "asked"

    def put(**scripts: str) -> Path:
        programs.mkdir()
        for name, script in scripts.items():
            note = f'echo "{name} $1" >> {asked}\nN=$(grep -c "^{name} $1" {asked})'
            (programs / name).write_text(f"#!/bin/sh\n{note}\n{script}\n")
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.defpath}")
        return asked

    return put


@pytest.fixture
def slurm_job(install: Callable[..., Path]) -> Job:
    """A job for Slurm, in an empty folder."""
    job = build_job(launcher="slurm")
    job.directory.mkdir(parents=True)
    return job


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job for two pods of four GPUs, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    kubernetes = KubernetesParams(num_nodes=2, gpus_per_pod=4, namespace="research")
    return build_job(launcher="kubernetes", num_processes=8, kubernetes=kubernetes)


def test_the_pods_find_each_other_by_the_headless_service(job: Job) -> None:
    service, indexed = yaml.safe_load_all(write_manifest(job).read_text())
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert (indexed["apiVersion"], indexed["kind"]) == ("batch/v1", "Job")
    assert service["spec"]["clusterIP"] == "None"
    name, template = service["metadata"]["name"], indexed["spec"]["template"]
    assert service["metadata"]["namespace"] == indexed["metadata"]["namespace"] == "research"
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert template["spec"]["subdomain"] == name
    # Indexed pods are called JOB-INDEX; below the subdomain that is a name in the cluster's DNS.
    first = {"name": "VATT_FIRST_POD", "value": f"{indexed['metadata']['name']}-0.{name}"}
    assert first in template["spec"]["containers"][0]["env"]
    assert len(f"{name}-00") <= 63  # a label of a DNS name


def test_the_job_is_bounded_and_whole(job: Job) -> None:
    _, indexed = yaml.safe_load_all(write_manifest(job).read_text())
    spec = indexed["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 2
    assert spec["backoffLimit"] == 3 * 2  # max_restarts of each pod
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy asks for
    container = pod["containers"][0]
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"]["containerName"] == container["name"]
    limits = {"cpu": 4, "memory": "16Gi", "nvidia.com/gpu": 4}
    assert container["resources"]["limits"] == limits
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    path = Path(container["command"][-1])
    assert Job.model_validate_json(path.read_text()) == job


def test_each_pod_knows_its_place(job: Job) -> None:
    for index in (0, 1):
        path, num_ranks, _, *options = build_pod_order(job, Path("job.json"), index, "a-0.a")
        assert (path, num_ranks) == ("job.json", "4")
        meeting = {"--nnodes=2", "--master-addr=a-0.a", "--master-port=29400"}
        assert set(options) == meeting | {f"--node-rank={index}"}


def test_without_apply_the_manifest_waits_for_a_person(job: Job) -> None:
    with pytest.raises(StageError, match=r"kubectl apply -f \.cache/pretrain/.*/kubernetes.yaml"):
        run_in_kubernetes(job)


@pytest.mark.parametrize(
    ("script", "message", "asked"),
    [
        (  # the API answers neither the first two questions nor the first request to remove the job
            f"case $1/$N in get/1|get/2|delete/2) {REFUSED};; get/*) cat answer.json;; esac",
            "job vatt-0123456789abcdef: backoff limit",
            ["delete", "apply", "get", "get", "get", "delete", "delete"],
        ),
        (  # somebody removed it
            '[ $1 != get ] || { echo "Error from server (NotFound): jobs.batch" >&2; exit 1; }',
            "NotFound",
            ["delete", "apply", "get", "delete"],
        ),
    ],
)
def test_a_job_that_failed_is_told_and_removed_but_not_while_the_cluster_is_away(
    job: Job, install: Callable[..., Path], script: str, message: str, asked: list[str]
) -> None:
    Path("answer.json").write_text(json.dumps({"status": FAILED}))
    calls = install(kubectl=script)
    launch = job.recipe.launch
    kubernetes = launch.kubernetes.model_copy(update={"apply": True})
    recipe = job.recipe.model_copy(
        update={"launch": launch.model_copy(update={"kubernetes": kubernetes})}
    )
    with pytest.raises(StageError, match=message):
        run_in_kubernetes(job.model_copy(update={"recipe": recipe}))
    assert [line.split()[1] for line in calls.read_text().splitlines()] == asked


def test_the_script_asks_for_what_params_say() -> None:
    slurm = SlurmParams(
        num_nodes=4, partition="gpu", gpus_per_node=8, cpus_per_node=64, options=("--account=me",)
    )
    launch = LAUNCH.model_copy(update={"slurm": slurm, "num_processes": 32})
    first, *lines, last = build_script(
        launch, Path("job.json"), Path("/runs/slurm.log")
    ).splitlines()
    assert first == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    asked = {"--nodes=4", "--partition=gpu", "--gpus-per-node=8", "--cpus-per-task=64"}
    assert options >= asked | {"--account=me", "--ntasks-per-node=1", "--no-kill", "--requeue"}
    assert options >= {"--time=1-00:00:00", "--output=/runs/slurm.log"}
    assert last.endswith("-m vatt.launch.slurm job.json")


def test_a_job_goes_on_while_the_controller_is_away(
    slurm_job: Job, install: Callable[..., Path]
) -> None:
    """It is asked 6 times; the weights are there when it says that the job has ended."""
    state = f"""case $N in
        1|2|4|5) {AWAY};;
        3) echo JobId=7 JobState=RUNNING;;
        6) echo done > {slurm_job.weights_path}; echo JobId=7 JobState=COMPLETED;;
        *) {FORGOTTEN};;
    esac"""
    asked = install(sbatch="echo 7", scontrol=state, scancel="")
    run_in_slurm(slurm_job)
    calls = asked.read_text().splitlines()
    assert calls[0].startswith("sbatch")
    assert calls[1:] == ["scontrol --oneliner"] * 8  # and twice before it would be cancelled


def test_no_second_job_is_submitted_while_the_first_may_run(
    slurm_job: Job, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = install(sbatch="echo 8", scontrol=AWAY, scancel="")
    monkeypatch.setattr("vatt.launch.cluster.PATIENCE_S", 0.0)
    (slurm_job.directory / "slurm_job").write_text("7")
    with pytest.raises(StageError, match=r"show job 7: .*Unable to contact slurm controller"):
        run_in_slurm(slurm_job)
    assert asked.read_text().splitlines() == ["scontrol --oneliner"]


def test_a_job_that_a_killed_launcher_left_is_cancelled_first(
    slurm_job: Job, install: Callable[..., Path]
) -> None:
    """Slurm says that it ends, then knows it no more; of the next job it tells the state."""
    state = f"""case $4/$N in
        7/1) echo JobState=RUNNING;;
        7/2) echo JobState=COMPLETING;;
        8/*) echo JobState=FAILED;;
        *) {FORGOTTEN};;
    esac"""
    cancel = f"[ $N != 1 ] || {{ {AWAY}; }}"
    asked = install(sbatch="echo 8", scontrol=state, scancel=cancel)
    (slurm_job.directory / "slurm_job").write_text("7")
    with pytest.raises(StageError, match="Slurm job 8 ended as FAILED: it wrote nothing"):
        run_in_slurm(slurm_job)
    calls = asked.read_text().splitlines()
    assert [line.split()[0] for line in calls[:6]] == [
        *("scontrol", "scancel", "scancel", "scontrol", "scontrol", "sbatch")
    ]
    assert calls[1:3] == ["scancel 7", "scancel 7"]
