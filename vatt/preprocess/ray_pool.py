"""A pool of processes on a Ray cluster (`pip install .[ray]`), in the place of the local one.

Each machine has the same vatt installed and reaches the current folder under the same path.
"""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vatt.core.errors import StageError
from vatt.core.pool import Attempt, attempt

CONNECT_S = 10.0


class RayPool:
    """One process for each processor that the cluster has at the moment; see `Pool`."""

    def __init__(self, function: Callable[[Any], Any], address: str) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise StageError(
                f"launch.ray_address = {address}: Ray is not installed: `pip install .[ray]`"
            ) from error
        try:
            if address != "auto":  # Ray alone would try for many minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), CONNECT_S).close()
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise StageError(f"launch.ray_address = {address}: {error}") from error
        self._ray: Any = ray
        self._function = ray.put((Path.cwd(), function))
        # `work_through` tries a process that died again, as on one machine.
        self._attempt = ray.remote(num_cpus=1, max_retries=0)(_attempt_there)
        self._running: dict[Any, int] = {}

    @property
    def size(self) -> int:
        """How many processors there are; machines may come and go."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def start(self, index: int, item: Any) -> None:
        """See `Pool`."""
        self._running[self._attempt.remote(self._function, item)] = index

    def wait(self, timeout_s: float) -> list[tuple[int, Attempt | None]]:
        """See `Pool`."""
        ready, _ = self._ray.wait(list(self._running), timeout=timeout_s)
        return [(self._running.pop(reference), self._get(reference)) for reference in ready]

    def _get(self, reference: Any) -> Attempt | None:
        try:
            done: Attempt = self._ray.get(reference)
        except self._ray.exceptions.RayError:  # the process, or its machine, is gone
            return None
        return done

    def end(self, index: int) -> None:
        """See `Pool`."""
        reference = next(key for key, value in self._running.items() if value == index)
        del self._running[reference]
        self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """See `Pool`."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()


def _attempt_there(function: tuple[Path, Callable[[Any], Any]], item: Any) -> Attempt:
    """Call a function on another machine, in the folder where it would be called here."""
    folder, call = function
    os.chdir(folder)
    return attempt(call, item)
