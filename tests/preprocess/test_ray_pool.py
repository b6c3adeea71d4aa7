"""A Ray cluster of two machines, both on this one, in the place of the local processes.

Ray runs in a process of its own: it leaves threads behind, with which processes that are forked
later die of SIGSEGV on Python 3.13.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.known_corpus import CORPUS_PARAMS
from tests.preprocess.runs import PARAMS, digest_files, preprocess
from tests.preprocess.spoken_corpus import asr_params, write_spoken_files
from vatt.core.errors import StageError
from vatt.core.pool import Lost, StallLimit, work_through
from vatt.corpus.manifest import ManifestEntry, write_manifest
from vatt.preprocess.ray_pool import RayPool

Apart = Callable[..., Any]
"""Calls a function in the process that Ray runs in, and returns or raises what it does."""


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield lambda *call: process.submit(*call).result()


@pytest.fixture(scope="module")
def cluster_address(apart: Apart) -> Iterator[str]:
    yield apart(start_cluster)
    apart(stop_cluster)


CLUSTERS: list[Any] = []
"""The cluster, in the process that started it."""


def start_cluster() -> str:
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False}
    node["object_store_memory"] = 80 << 20
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    CLUSTERS.append(cluster)
    return str(cluster.address)


def stop_cluster() -> None:
    CLUSTERS.pop().shutdown()


def work_badly(folder: Path, number: int) -> tuple[int, str]:
    """Die at 0 once and at 1 always; hang at 2; let 3 and 4 meet; return number and machine."""
    import ray

    has_died = (folder / f"dead {number}").exists()
    if number == 1 or (number == 0 and not has_died):
        (folder / f"dead {number}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2:
        (folder / "hangs").touch()
        time.sleep(600)
    (folder / f"met {number}").touch()
    while number in {3, 4} and len(list(folder.glob("met [34]"))) < 2:
        time.sleep(0.05)
    return number, ray.get_runtime_context().get_node_id()


def work_through_bad(folder: Path, address: str) -> tuple[dict[int, Any], int, bool]:
    """Return the results by number, how many processors there were, and whether Ray still runs."""
    import ray

    limit = StallLimit(
        2.0, lambda number: 0 if number == 2 and (folder / "hangs").exists() else None
    )
    pool = RayPool(partial(work_badly, folder), address)
    size = pool.size
    results = dict(work_through(pool, range(7), limit))
    return results, size, ray.is_initialized()


@pytest.mark.slow
def test_a_death_costs_a_retry_and_a_hang_one_item(
    apart: Apart, cluster_address: str, tmp_path: Path
) -> None:
    results, size, is_running = apart(work_through_bad, tmp_path, cluster_address)
    assert size == 2
    assert isinstance(results.pop(1), Lost)
    assert isinstance(results.pop(2), Lost)
    assert [result[0] for result in results.values()] == list(results)
    assert results[3][1] != results[4][1]
    assert not is_running


def fail(number: int) -> int:
    raise OSError(28, "No space left on device", f"file{number}")


def work_through_one(address: str) -> None:
    list(work_through(RayPool(fail, address), [7]))


@pytest.mark.slow
def test_errors_keep_their_type(apart: Apart, cluster_address: str) -> None:
    with pytest.raises(OSError, match="No space left on device: 'file7'"):
        apart(work_through_one, cluster_address)


def test_same_bytes_as_with_local_processes(
    apart: Apart, cluster_address: str, download_dir: Path, corpus_dir: Path, tmp_path: Path
) -> None:
    call = partial(preprocess, ray_address=cluster_address)
    apart(call, download_dir, tmp_path / "out", CORPUS_PARAMS)
    assert digest_files(tmp_path / "out") == digest_files(corpus_dir)


def test_same_transcripts_as_with_local_processes(
    apart: Apart, cluster_address: str, tmp_path: Path
) -> None:
    params = PARAMS.model_copy(update={"asr": asr_params()})
    write_spoken_files(tmp_path / "download/s")
    names = ["0880.ogg", "0930.ogg", "hum.wav"]
    rows = [ManifestEntry("s", n, "train", path=f"s/{n}", transcribe=True) for n in names]
    write_manifest(tmp_path / "download", rows)
    counts = preprocess(tmp_path / "download", tmp_path / "local", params)
    assert (counts["transcribed"], counts["files_in_en"]) == (3, 2)
    call = partial(preprocess, ray_address=cluster_address)
    apart(call, tmp_path / "download", tmp_path / "ray", params)
    assert digest_files(tmp_path / "ray") == digest_files(tmp_path / "local")


def test_no_cluster_is_a_clear_error(apart: Apart) -> None:
    with pytest.raises(StageError, match=r"launch\.ray_address = 127\.0\.0\.1:1: "):
        apart(work_through_one, "127.0.0.1:1")
