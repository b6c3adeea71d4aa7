"""A training or an evaluation as an Indexed Job of Kubernetes.

There are its manifest, and what runs in each of its pods.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path
from string import Template

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, write_json
from vatt.core.signals import sigterm_raises
from vatt.launch.agent import LOOK_EVERY_S, STAGE_ERROR_CODE, build_order, train
from vatt.launch.cluster import run_command
from vatt.train.recipe import AnyJob, Job, read_job
from vatt.train.worker import run_job

SETTING = "launch.kubernetes.apply"
REFUSALS = ("(NotFound)", "(Forbidden)")
"""What the cluster answers where asking again would not help."""
PORT = 29400
POLL_S = 5.0


def run_in_kubernetes(job: AnyJob) -> None:
    """Write the manifest; with `launch.kubernetes.apply` create its job and wait for the end.

    Otherwise a person applies it. Once the weights of a training are there, the curve and the
    weights are written from the last checkpoint, without training.

    Raises:
        StageError: the manifest waits to be applied, kubectl refused it, or the job failed.
    """
    path = write_manifest(job)
    print(f"{job.recipe.section}: {path}:\n{path.read_text(encoding='utf-8')}", flush=True)
    if job.recipe.launch.kubernetes.apply:
        _apply_and_wait(job, path)
    if not job.result_path.is_file():
        raise StageError(
            f"the job waits: start it by `kubectl apply -f {path}`, "
            "and this stage again when it is done"
        )
    if not isinstance(job, Job):
        return
    launch = job.recipe.launch.model_copy(update={"num_processes": 1})
    run_job(job.model_copy(update={"recipe": job.recipe.model_copy(update={"launch": launch})}))


def write_manifest(job: AnyJob) -> Path:
    """Fill in kubernetes.yaml and write it beside the job that its pods read; return where."""
    path, job_path = job.directory / "kubernetes.yaml", job.directory / "job.json"
    launch, kubernetes = job.recipe.launch, job.recipe.launch.kubernetes
    write_json(job_path, job.model_dump(mode="json"))
    resources = {"cpu": kubernetes.cpus_per_pod, "memory": f"{kubernetes.memory_gib}Gi"}
    if kubernetes.gpus_per_pod:
        resources["nvidia.com/gpu"] = kubernetes.gpus_per_pod
    manifest = Template(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")).substitute(
        name=f"vatt-{job.directory.name}",
        namespace=json.dumps(kubernetes.namespace),
        port=PORT,
        num_nodes=kubernetes.num_nodes,
        num_failures=launch.supervision.max_restarts * kubernetes.num_nodes,
        stage_error_code=STAGE_ERROR_CODE,
        image=json.dumps(kubernetes.image),
        job_path=json.dumps(str(job_path)),
        resources=json.dumps(resources),
        volume_claim=json.dumps(kubernetes.volume_claim),
    )
    with atomic_path(path) as partial:
        partial.write_text(manifest, encoding="utf-8")
    return path


def _apply_and_wait(job: AnyJob, path: Path) -> None:
    file, namespace = f"--filename={path}", f"--namespace={job.recipe.launch.kubernetes.namespace}"
    delete = ["kubectl", "delete", "--ignore-not-found", "--cascade=foreground", file]
    name = f"vatt-{job.directory.name}"
    get = ["kubectl", "get", "job", name, namespace, "--output=json", "--request-timeout=60s"]
    job.result_path.unlink(missing_ok=True)
    run_command(delete, SETTING)
    run_command(["kubectl", "apply", file], SETTING)
    try:
        while True:
            answer = run_command(get, SETTING, REFUSALS)
            if not answer.startswith("{"):
                raise StageError(answer)
            conditions = json.loads(answer)["status"].get("conditions", [])
            ends = {each["type"]: each for each in conditions if each["status"] == "True"}
            if "Complete" in ends:
                return
            if "Failed" in ends:
                raise StageError(f"job {name}: {ends['Failed'].get('message', 'failed')}")
            time.sleep(POLL_S)
    finally:
        run_command(delete, SETTING, REFUSALS)


def build_pod_order(job: AnyJob, job_path: Path, index: int, first_pod: str) -> list[str]:
    """Return what the agent of pod `index` runs: its torchrun meets the others at the first pod."""
    num_nodes = job.recipe.launch.kubernetes.num_nodes
    share, rest = divmod(job.recipe.launch.num_processes, num_nodes)
    address = socket.gethostbyname(socket.gethostname())
    num_ranks = share + int(index < rest)
    return build_order(job_path, num_ranks, address, index, (num_nodes, first_pod, PORT))


def main(path: Path, index: int, first_pod: str) -> int:
    """Run as the pod of an index, with the job of a file; return the exit code."""
    job = read_job(path)

    def is_lost() -> bool:  # there is no launcher to lose: Kubernetes ends the pod
        time.sleep(LOOK_EVERY_S)
        return False

    with sigterm_raises():
        end = train(build_pod_order(job, path, index, first_pod), is_lost)
    print(f"{job.recipe.section}: {end.message or end.kind}", file=sys.stderr)
    return end.exit_code


if __name__ == "__main__":
    place = int(os.environ["JOB_COMPLETION_INDEX"]), os.environ["VATT_FIRST_POD"]
    sys.exit(main(Path(sys.argv[1]), *place))
