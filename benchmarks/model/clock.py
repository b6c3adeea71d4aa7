"""A stopwatch for machines that others use, too: medians of undisturbed tasks, run in turn."""

import statistics
import time
from collections.abc import Callable, Mapping

import psutil

MAX_DISTURBANCE = 0.05
"""The share of all cores that other processes may use meanwhile."""
MAX_TRIES = 6


class Clock:
    """Times tasks in turn and keeps the least disturbed of some tries each.

    `disturbance` is the largest share of all cores that other processes used during any kept one.
    With `counts_cpu_time` it counts the time that this process computed, and tries once: for
    tasks of one thread on a machine that is never quiet.
    """

    def __init__(self, *, counts_cpu_time: bool) -> None:
        self.disturbance = 0.0
        self._counts_cpu_time = counts_cpu_time
        self._process = psutil.Process()

    def time_in_turn(
        self, tasks: Mapping[str, Callable[[], object]], num_rounds: int
    ) -> dict[str, float]:
        """Return the median seconds of each task over `num_rounds` rounds; one more warms up."""
        for task in tasks.values():
            task()
        rounds = [
            {name: self._time(task) for name, task in tasks.items()} for _ in range(num_rounds)
        ]
        return {name: statistics.median(times[name] for times in rounds) for name in tasks}

    def _time(self, task: Callable[[], object]) -> float:
        if self._counts_cpu_time:
            start_s = time.process_time()
            task()
            return time.process_time() - start_s
        tries: list[tuple[float, float]] = []
        while len(tries) < MAX_TRIES and (not tries or tries[-1][0] > MAX_DISTURBANCE):
            start_s, used_s, own_s = time.perf_counter(), _all_used_s(), self._own_used_s()
            task()
            wall_s = time.perf_counter() - start_s
            others_s = (_all_used_s() - used_s) - (self._own_used_s() - own_s)
            tries.append((others_s / wall_s / (psutil.cpu_count() or 1), wall_s))
        disturbance, wall_s = min(tries)
        self.disturbance = max(self.disturbance, disturbance)
        return wall_s

    def _own_used_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _all_used_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)
