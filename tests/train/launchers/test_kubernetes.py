"""The manifest for Kubernetes, field by field as its reference has them, and kubectl at the edge."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.train.corpus import LAUNCH, PRETRAIN
from vatt.params import KubernetesParams, StageError, load_params
from vatt.train.jobs.recipes import Job, PretrainRecipe
from vatt.train.launchers.kubernetes import build_order, run_in_kubernetes, write_manifest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job for two pods of four GPUs, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    params = load_params(ROOT / "params.yaml")
    kubernetes = KubernetesParams(num_nodes=2, gpus_per_pod=4, namespace="research")
    update = {"launcher": "kubernetes", "num_processes": 8, "kubernetes": kubernetes}
    recipe = PretrainRecipe(
        run=params.run,
        clip=params.clip,
        model=params.model,
        loss=params.loss,
        pretrain=PRETRAIN,
        launch=LAUNCH.model_copy(update=update),
        vocab_size=8,
        index_digest="",
        tokenizer_digest="",
    )
    return Job(
        recipe=recipe,
        initial_weights=None,
        preprocess_dir=Path("data/preprocess"),
        directory=Path(".cache/pretrain/0123456789abcdef"),
        curve_path=Path("metrics/pretrain_curve.jsonl"),
    )


def read_manifest(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    service, indexed = yaml.safe_load_all(write_manifest(job).read_text())
    return service, indexed


def test_the_pods_find_each_other_by_the_headless_service(job: Job) -> None:
    service, indexed = read_manifest(job)
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
    spec = read_manifest(job)[1]["spec"]
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
    first, second = (build_order(job, index, "a-0.a") for index in (0, 1))
    assert "--rdzv-conf=is_host=1" in first["arguments"]
    assert "--rdzv-conf=is_host=0" in second["arguments"]
    for order in (first, second):
        assert {"--nnodes=2", "--rdzv-endpoint=a-0.a:29400"} <= set(order["arguments"])
        assert order["num_ranks"] == 4


def test_without_apply_the_manifest_waits_for_a_person(job: Job) -> None:
    with pytest.raises(StageError, match=r"kubectl apply -f \.cache/pretrain/.*/kubernetes.yaml"):
        run_in_kubernetes(job)


def test_a_failed_job_is_told_and_removed(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the edge of the network stands a kubectl that writes down what it is asked."""
    status = {"conditions": [{"type": "Failed", "status": "True", "message": "backoff limit"}]}
    (tmp_path / "answer.json").write_text(json.dumps({"status": status}))
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(
        f"#!/bin/sh\necho $1 >> {tmp_path}/asked\n[ $1 != get ] || cat {tmp_path}/answer.json\n"
    )
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{kubectl.parent}:/usr/bin:/bin")
    launch = job.recipe.launch
    kubernetes = launch.kubernetes.model_copy(update={"apply": True})
    launch = launch.model_copy(update={"kubernetes": kubernetes})
    job = job.model_copy(update={"recipe": job.recipe.model_copy(update={"launch": launch})})
    with pytest.raises(StageError, match="job vatt-0123456789abcdef: backoff limit"):
        run_in_kubernetes(job)
    assert (tmp_path / "asked").read_text().split() == ["delete", "apply", "get", "delete"]
