"""Two nodes on this machine: network namespaces with their own addresses, links and sshd.

They share the disk and the processes of the machine, so that a test sees what is left on any node.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PREFIX = f"v{os.getpid()}-"
"""Begins names of interfaces (15 letters at most), as several test sessions may run at once."""
NETWORK = f"10.213.{os.getpid() % 250}"
BRIDGE = f"{PREFIX}b"
NODES = {"first": f"{PREFIX}1", "second": f"{PREFIX}2"}
SSHD_CONFIG = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
PasswordAuthentication no
UsePAM no
PermitRootLogin yes
"""
SSH_CONFIG = """
Host *
  IdentityFile {folder}/key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
Host first
  HostName {network}.1
Host second
  HostName {network}.2
"""


@dataclass(frozen=True)
class Cluster:
    """Nodes `first` and `second`, with the configuration of ssh that reaches them."""

    config: Path
    servers: Mapping[str, int]
    """The processes of sshd; what they start sees their network and their disks."""

    def cut(self, node: str) -> None:
        """Take the cable out of a node."""
        run("ip", "link", "set", NODES[node], "down")

    def mend(self, node: str) -> None:
        run("ip", "link", "set", NODES[node], "up")

    @contextmanager
    def replacing(self, node: str, path: Path, other: Path) -> Iterator[None]:
        """Have another file or folder at `path`, on this node only."""
        inside = ("nsenter", f"--target={self.servers[node]}", "--mount")
        run(*inside, "mount", "--bind", str(other.absolute()), str(path.absolute()))
        try:
            yield
        finally:
            run(*inside, "umount", "--lazy", str(path.absolute()))

    @contextmanager
    def taking_port(self, node: str) -> Iterator[int]:
        """Listen at some port of a node."""
        program = "import socket; s = socket.create_server(('', 0)); "
        program += "print(s.getsockname()[1], flush=True); input()"
        command = ["ip", "netns", "exec", NODES[node], sys.executable, "-c", program]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as listener:
            assert listener.stdout is not None
            yield int(listener.stdout.readline())
            listener.communicate("\n")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def open_cluster(folder: Path) -> Iterator[Cluster]:
    """Start the nodes; skips, with the reason, where that is impossible."""
    missing = [name for name in ("ip", "ssh", "ssh-keygen") if shutil.which(name) is None]
    sshd = shutil.which("sshd", path=os.defpath + ":/usr/sbin:/sbin")
    if missing or sshd is None:
        pytest.skip(f"needs Debian's iproute2 and openssh-server: no {missing or 'sshd'}")
    with ExitStack() as stack:
        try:
            _open_network(stack)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        for name in ("key", "host_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        config = folder / "ssh_config"
        config.write_text(SSH_CONFIG.format(folder=folder, network=NETWORK))
        (folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=folder))
        Path("/run/sshd").mkdir(exist_ok=True)
        servers = {}
        for node, name in NODES.items():
            command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
            with (folder / f"{node}.log").open("w") as log:
                process = subprocess.Popen(["ip", "netns", "exec", name, *command], stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            servers[node] = process.pid  # ip becomes sshd
        _wait_for_ssh(config)
        yield Cluster(config, servers)


def _open_network(stack: ExitStack) -> None:
    """Make a bridge with the launcher at .254, and a namespace at each end of a cable."""
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    stack.callback(run, "ip", "link", "del", BRIDGE)
    run("ip", "address", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for number, name in enumerate(NODES.values(), start=1):
        inside = ("ip", "-n", name)
        run("ip", "netns", "add", name)
        stack.callback(run, "ip", "netns", "del", name)
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", name, "master", BRIDGE, "up")
        run(*inside, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")


def _wait_for_ssh(config: Path) -> None:
    deadline_s = time.monotonic() + 60
    for node in NODES:
        while subprocess.run(
            ["ssh", "-F", str(config), "-o", "BatchMode=yes", node, "true"],
            check=False,
            capture_output=True,
        ).returncode:
            assert time.monotonic() < deadline_s, (config.parent / f"{node}.log").read_text()
            time.sleep(0.1)
