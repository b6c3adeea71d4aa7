"""A Slurm cluster of one node on this machine: munged, slurmctld and slurmd from Debian."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

SBIN = os.defpath + ":/usr/sbin:/sbin"
CONFIG = """
ClusterName=vatt
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=5
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def open_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start the daemons and point SLURM_CONF at them; skips, with the reason, where impossible."""
    daemons = {name: shutil.which(name, path=SBIN) for name in ("munged", "slurmctld", "slurmd")}
    missing = [name for name, path in daemons.items() if path is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs Debian's slurm-wlm and munge, as root: no {missing or 'root'}")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    values = {"host": socket.gethostname(), "ports": find_ports(2), "cpus": os.cpu_count()}
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, **values))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    options = [f"--{option}={folder}/munge.{end}" for option, end in files.items()]
    options += ["--force", "--foreground", f"--seed-file={folder}/seed"]
    with ExitStack() as stack:
        start(stack, folder, "munged", *options)
        wait_until((folder / "munge.socket").exists, folder)
        start(stack, folder, "slurmctld", "-D")
        start(stack, folder, "slurmd", "-D")
        sinfo = ["sinfo", "--noheader", "--format=%T"]
        wait_until(
            lambda: (
                "idle" in subprocess.run(sinfo, check=False, capture_output=True, text=True).stdout
            ),
            folder,
        )
        yield


def find_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(number)]
        return [int(one.getsockname()[1]) for one in sockets]


def start(stack: ExitStack, folder: Path, name: str, *options: str) -> None:
    path = shutil.which(name, path=SBIN)
    assert path is not None
    with (folder / f"{name}.out").open("w") as output:
        process = subprocess.Popen([path, *options], stdout=output, stderr=output, cwd=folder)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def wait_until(is_so: Callable[[], bool], folder: Path) -> None:
    deadline_s = time.monotonic() + 30
    while not is_so():
        logs = {path.name: path.read_text()[-500:] for path in folder.glob("*.out")}
        assert time.monotonic() < deadline_s, logs
        time.sleep(0.2)
