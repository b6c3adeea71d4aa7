"""Training as an Indexed Job of Kubernetes: its manifest, and what runs in each of its pods."""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, write_json
from vatt.core.signals import sigterm_raises
from vatt.launch.agent import train
from vatt.launch.command import ask_patiently, run_command
from vatt.params.launch import KubernetesParams
from vatt.train.recipe import Job
from vatt.train.worker import run_job

SETTING = "launch.kubernetes.apply"
REFUSALS = ("(NotFound)", "(Forbidden)")
"""What the cluster answers where asking again would not help."""
PORT = 29400
POLL_S = 5.0
STAGE_ERROR_CODE = 4
"""Of a pod whose job cannot go on: Kubernetes starts no other one."""


def run_in_kubernetes(job: Job) -> None:
    """Write the manifest; with `launch.kubernetes.apply` create its job and wait for the end.

    Without, a person applies it. Where the weights are then there, the curve and the weights are
    written from the last checkpoint, without training.

    Raises:
        StageError: the manifest waits to be applied, kubectl refused it, or the job failed.
    """
    path = write_manifest(job)
    print(f"{job.recipe.section}: {path}:\n{path.read_text(encoding='utf-8')}", flush=True)
    if job.recipe.launch.kubernetes.apply:
        _apply_and_wait(job, path)
    if not job.weights_path.is_file():
        raise StageError(
            f"the job waits: start it by `kubectl apply -f {path}`, and this stage again when it is done"
        )
    launch = job.recipe.launch.model_copy(update={"num_processes": 1})
    run_job(job.model_copy(update={"recipe": job.recipe.model_copy(update={"launch": launch})}))


def write_manifest(job: Job) -> Path:
    """Write the manifest beside the job that its pods read; return where."""
    path, job_path = job.directory / "kubernetes.yaml", job.directory / "job.json"
    write_json(job_path, job.model_dump(mode="json"))
    with atomic_path(path) as partial:
        documents = yaml.safe_dump_all(build_manifest(job, job_path), sort_keys=False)
        partial.write_text(documents, encoding="utf-8")
    return path


def build_manifest(job: Job, job_path: Path) -> list[dict[str, Any]]:
    """Return a headless service, which gives each pod a name, and the Indexed Job.

    A pod that fails makes the others fail, and all start again: `max_restarts` times for each pod.
    """
    launch = job.recipe.launch
    kubernetes, name = launch.kubernetes, _name(job)
    labels = {"app.kubernetes.io/name": "vatt", "app.kubernetes.io/instance": name}
    metadata = {"name": name, "namespace": kubernetes.namespace, "labels": labels}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": labels,
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }
    indexed_job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": kubernetes.num_nodes,
            "parallelism": kubernetes.num_nodes,
            "backoffLimit": launch.supervision.max_restarts * kubernetes.num_nodes,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _build_failure_rules()},
            "template": {
                "metadata": {"labels": labels},
                "spec": _build_pod(kubernetes, name, job_path),
            },
        },
    }
    return [service, indexed_job]


def _build_failure_rules() -> list[dict[str, Any]]:
    """Return what ends the job at once, and what does not count as a failure."""
    codes = {"containerName": "trainer", "operator": "In", "values": [STAGE_ERROR_CODE]}
    return [
        {"action": "FailJob", "onExitCodes": codes},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def _build_pod(kubernetes: KubernetesParams, name: str, job_path: Path) -> dict[str, Any]:
    """Return one pod: the trainer, the shared folder, and memory shared with the decoders."""
    resources: dict[str, Any] = {
        "cpu": kubernetes.cpus_per_pod,
        "memory": f"{kubernetes.memory_gib}Gi",
    }
    if kubernetes.gpus_per_pod:
        resources["nvidia.com/gpu"] = kubernetes.gpus_per_pod
    trainer = {
        "name": "trainer",
        "image": kubernetes.image,
        "workingDir": "/app",
        "command": ["python", "-m", "vatt.launch.kubernetes", str(job_path)],
        "env": [{"name": "VATT_FIRST_POD", "value": f"{name}-0.{name}"}],
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": resources, "requests": resources},
        "volumeMounts": [
            {"name": "project", "mountPath": "/app"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - in the pod
        ],
    }
    claim = {"claimName": kubernetes.volume_claim}
    return {
        "restartPolicy": "Never",
        "subdomain": name,
        "terminationGracePeriodSeconds": 15,
        "containers": [trainer],
        "volumes": [
            {"name": "project", "persistentVolumeClaim": claim},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _name(job: Job) -> str:
    """Return the name of the job and of its service: that of the run."""
    return f"vatt-{job.directory.name}"


def _apply_and_wait(job: Job, path: Path) -> None:
    name, namespace = _name(job), f"--namespace={job.recipe.launch.kubernetes.namespace}"
    delete = ["kubectl", "delete", "--ignore-not-found", "--cascade=foreground"]
    delete.append(f"--filename={path}")
    get = ["kubectl", "get", "job", name, namespace, "--output=json", "--request-timeout=60s"]
    job.weights_path.unlink(missing_ok=True)
    run_command(delete, SETTING)
    run_command(["kubectl", "apply", f"--filename={path}"], SETTING)
    try:
        while True:
            status = json.loads(ask_patiently(get, SETTING, REFUSALS))["status"]
            for condition in status.get("conditions", []):
                if condition["status"] == "True" and condition["type"] in {"Complete", "Failed"}:
                    if condition["type"] == "Complete":
                        return
                    raise StageError(f"job {name}: {condition.get('message', 'failed')}")
            time.sleep(POLL_S)
    finally:
        ask_patiently(delete, SETTING, REFUSALS)


def build_order(job: Job, index: int, first_pod: str) -> dict[str, Any]:
    """Return what the agent of pod `index` does: its torchrun meets the others at the first pod."""
    launch = job.recipe.launch
    num_nodes = launch.kubernetes.num_nodes
    share, rest = divmod(launch.num_processes, num_nodes)
    address = socket.gethostbyname(socket.gethostname())
    return {
        "arguments": [
            *(f"--nnodes={num_nodes}", "--rdzv-backend=c10d", f"--rdzv-id={_name(job)}"),
            *(f"--rdzv-endpoint={first_pod}:{PORT}", f"--rdzv-conf=is_host={int(index == 0)}"),
            f"--local-addr={address}",
        ],
        "address": address,
        "num_ranks": share + int(index < rest),
        "job": job.model_dump(mode="json"),
    }


def main() -> int:
    """Train as the pod of this index, with the job of the file on the command line."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    order = build_order(job, int(os.environ["JOB_COMPLETION_INDEX"]), os.environ["VATT_FIRST_POD"])
    with sigterm_raises():
        end = train(order, job.recipe.launch.supervision, lambda _: True)
    if end["kind"] == "done":
        return 0
    print(f"{job.recipe.section}: {end['message']}", file=sys.stderr)
    return STAGE_ERROR_CODE if end["kind"] == "stage" else 1


if __name__ == "__main__":
    sys.exit(main())
