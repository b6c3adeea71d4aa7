"""The manifest for Kubernetes, field by field as its reference has them, and a fake kubectl."""

import json
from pathlib import Path

import pytest
import yaml

from tests.launch.fakes import install_fakes, read_asked
from tests.train.corpus import build_job
from vatt.core.errors import StageError
from vatt.launch.kubernetes import build_pod_order, run_in_kubernetes, write_manifest
from vatt.params import KubernetesParams
from vatt.train.recipe import Job


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


AWAY = 'echo "The connection to the server was refused" >&2; exit 1'
FAILED = {"conditions": [{"type": "Failed", "status": "True", "message": "backoff limit"}]}


@pytest.mark.parametrize(
    ("script", "message", "asked"),
    [
        (  # the API answers neither the first two questions nor the first request to remove the job
            f"case $1/$N in get/1|get/2|delete/2) {AWAY};; get/*) cat answer.json;; esac",
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
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    message: str,
    asked: list[str],
) -> None:
    (tmp_path / "answer.json").write_text(json.dumps({"status": FAILED}))
    install_fakes(tmp_path, monkeypatch, kubectl=script)
    launch = job.recipe.launch
    kubernetes = launch.kubernetes.model_copy(update={"apply": True})
    recipe = job.recipe.model_copy(
        update={"launch": launch.model_copy(update={"kubernetes": kubernetes})}
    )
    with pytest.raises(StageError, match=message):
        run_in_kubernetes(job.model_copy(update={"recipe": recipe}))
    assert [line.split()[1] for line in read_asked(tmp_path)] == asked
