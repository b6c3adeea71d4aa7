"""`python -m vatt embed`: files and folders become vectors in a library, in all cores or on Ray.

Only what is new or changed is read; what is gone from a folder goes from the library. Every file
ends with vectors, or in the quarantine list with the reason. After a kill it goes on.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from vatt.core.errors import StageError
from vatt.core.files import hold_lock
from vatt.core.pool import LocalPool, Lost, Pool, StallLimit, work_through
from vatt.loading.tasks import TaskInput
from vatt.preprocess.ray_pool import RayPool
from vatt.use.embedding import Embedded, FileEmbedder, measure_widths
from vatt.use.library import Library
from vatt.use.passages import choose_length
from vatt.use.places import MediaFile, find_files, is_below, unify
from vatt.weights.export import ExportedClassifierParams, read_params
from vatt.weights.registry import digest_export

STALL_S = 600.0
"""A file is given up when its decoder gives nothing new for so long."""
COMMIT_S = 10.0
"""What was embedded is added to the library so often: each time makes a file there."""


def embed(
    places: Sequence[str],
    model_dir: Path,
    library_dir: Path,
    passage_s: float | None = None,
    ray_address: str | None = None,
) -> dict[str, int]:
    """Bring the vectors of files and folders into a library; returns counts.

    Raises:
        StageError: a place does not exist, the model cannot be used, the library is of another
            one, or the disk is full.
    """
    params = read_params(model_dir)
    if isinstance(params, ExportedClassifierParams):
        raise StageError(f"{model_dir}: is a classifier: it has no embeddings; see classify")
    task_input, digest = TaskInput("audio_visual", params.clip), digest_export(model_dir)
    passage_s = choose_length(task_input, params.frame_rate_hz, passage_s)
    files, reasons = find_files(places)
    origin = {"model": str(model_dir.absolute()), "digest": digest, "length": f"{passage_s:g} s"}
    library = Library.create(library_dir, origin, measure_widths(params))
    try:
        lock = hold_lock(library_dir / "lock", waits=False)
    except BlockingIOError as error:
        raise StageError(f"{library_dir}: another process embeds into it; wait for it") from error
    with lock:
        known = library.read_states()
        missing = [file for file in files if not file.state or known.get(file.name) != file.state]
        gone = _find_gone(known, places, files, reasons)
        library.replace(gone)
        print(f"embed: {len(missing)} of {len(files)} files are new or changed", file=sys.stderr)
        refused = [name for name, reason in reasons.items() if known.get(name) != reason]
        rows = [(MediaFile(n, "", reasons[n], 0), Embedded(None, reasons[n])) for n in refused]
        _add(library, rows)
        shutil.rmtree(library_dir / "partial", ignore_errors=True)  # what a killed run left
        if missing:
            embedder = FileEmbedder(model_dir, digest, passage_s, library_dir / "partial")
            _embed_all(library, embedder, missing, ray_address)
        library.tidy()
        quarantined = library.read_quarantine()
        return {
            "files": len(library.read_states()) - len(quarantined),
            "passages": len(library),
            "quarantined": len(quarantined),
            "embedded": len(missing),
            "removed": len(gone),
        }


def _find_gone(
    known: Iterable[str],
    places: Sequence[str],
    files: Sequence[MediaFile],
    reasons: Mapping[str, str],
) -> set[str]:
    """Return the files of the library that were at the places and are there no more.

    What lies in a folder that cannot be listed now may be there.
    """
    unlisted = [name for name in reasons if name.endswith("/")]
    found = {file.name for file in files} | reasons.keys()
    below = [name for name in known if is_below(name, list(map(unify, places)))]
    lost = {name for name in below if name not in found and not is_below(name, unlisted)}
    return {name for name in lost if name.endswith("/") or not Path(name).exists()}


def _embed_all(
    library: Library, embedder: FileEmbedder, files: Sequence[MediaFile], ray_address: str | None
) -> None:
    """Embed files, the largest first, and add what came of them to the library now and then."""
    embedder.partial_dir.mkdir()
    files = sorted(files, key=lambda file: -file.num_bytes)  # no long one is begun last
    open_pool: Callable[[Any], Pool] = partial(LocalPool, size=len(os.sched_getaffinity(0)))
    if ray_address is not None:
        open_pool = partial(RayPool, address=ray_address)
    done: list[tuple[MediaFile, Embedded]] = []
    limit = StallLimit(STALL_S, embedder.measure_progress)
    total, added_at = sum(file.num_bytes for file in files), time.monotonic()
    with (
        closing(work_through(open_pool(embedder), files, limit)) as work,
        tqdm(desc="embed", total=total, unit="B", unit_scale=True) as bar,
    ):
        for number, result in work:
            if isinstance(result, Lost):
                done.append((files[number], Embedded(None, result.reason, is_settled=False)))
            else:
                done.append((files[number], result))
            bar.update(files[number].num_bytes)
            if time.monotonic() - added_at > COMMIT_S:
                _add(library, done)
                done, added_at = [], time.monotonic()
        _add(library, done)
    shutil.rmtree(embedder.partial_dir)


def _add(library: Library, done: Sequence[tuple[MediaFile, Embedded]]) -> None:
    """Add what came of files to the library; one that was lost or refused has one row."""
    tables = []
    for file, result in done:
        state = file.state if result.is_settled else ""  # so that another run tries again
        facts = {"path": file.name, "state": state, "reason": result.reason}
        if result.rows_path is None:
            tables.append(pa.Table.from_pylist([facts], library.schema))
            continue
        with pa.OSFile(str(result.rows_path)) as stream:
            rows = pa.ipc.open_stream(stream).read_all()
        for name, value in {**facts, "problem": result.problem}.items():
            rows = rows.append_column(name, pa.array([value] * len(rows), pa.string()))
        tables.append(rows.select(library.schema.names))
    if tables:
        library.replace([file.name for file, _ in done], pa.concat_tables(tables))
    for _, result in done:
        if result.rows_path is not None:
            result.rows_path.unlink()
