"""`python -m vatt embed`: files and folders become vectors in a library, in all cores or on Ray.

Only what is new or changed is read; what is gone from a folder goes from the library. Every file
ends with vectors, or in the quarantine list with the reason. After a kill it goes on.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
from tqdm import tqdm

from vatt.core.errors import StageError
from vatt.core.pool import LocalPool, Lost, Pool, StallLimit, work_through
from vatt.download.folder import MEDIA_SUFFIXES
from vatt.download.remote_files import HIDDEN
from vatt.download.storage import Storage
from vatt.preprocess.ray_pool import RayPool
from vatt.use.embedding import Embedded, FileEmbedder, MediaFile
from vatt.use.library import Library
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
    widths = dict.fromkeys(("video_va", "audio_va"), params.model.space_va_width)
    widths["video_vt"] = params.model.space_vt_width
    origin = {"model": str(model_dir), "digest": digest_export(model_dir), "length": str(passage_s)}
    files, reasons = find_files(places)
    library = Library.create(library_dir, origin, widths)
    known = library.read_states()
    missing = [file for file in files if known.get(file.name) != file.state]
    gone = {name for name in known if _is_below(name, places)} - {file.name for file in files}
    library.replace(gone - reasons.keys())
    print(f"embed: {len(missing)} of {len(files)} files are new or changed", flush=True)
    refused = {name: reason for name, reason in reasons.items() if known.get(name) != reason}
    _add(library, [(MediaFile(n, "", r, 0), Embedded(None, r, None)) for n, r in refused.items()])
    partial_dir = library_dir / "partial"
    shutil.rmtree(partial_dir, ignore_errors=True)
    if missing:
        partial_dir.mkdir()
        embedder = FileEmbedder(model_dir, passage_s, partial_dir)
        _embed_all(library, embedder, missing, ray_address)
        shutil.rmtree(partial_dir)
    library.tidy()
    quarantined = library.read_quarantine()
    return {
        "files": len(library.read_states()) - len(quarantined),
        "passages": len(library),
        "quarantined": len(quarantined),
        "embedded": len(missing),
        "removed": len(gone - reasons.keys()),
    }


def _embed_all(
    library: Library, embedder: FileEmbedder, files: Sequence[MediaFile], ray_address: str | None
) -> None:
    """Embed files, the largest first, and add what came of them to the library now and then."""
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
            lost = isinstance(result, Lost)
            done.append((files[number], Embedded(None, result.reason, None) if lost else result))
            bar.update(files[number].num_bytes)
            if time.monotonic() - added_at > COMMIT_S:
                _add(library, done)
                done, added_at = [], time.monotonic()
        _add(library, done)


def _add(library: Library, done: Sequence[tuple[MediaFile, Embedded]]) -> None:
    """Add what came of files to the library; one that was lost or refused has one row."""
    tables = []
    for file, result in done:
        facts = {"path": file.name, "state": file.state, "reason": result.reason}
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


def find_files(places: Sequence[str]) -> tuple[list[MediaFile], dict[str, str]]:
    """Return the media files of folders and the files that are named; and those with a problem.

    Of a folder these are the files with a suffix of video or sound, at any depth, without hidden
    ones. Addresses may be any that fsspec knows.

    Raises:
        StageError: a place does not exist or cannot be listed.
    """
    files: dict[str, MediaFile] = {}
    reasons: dict[str, str] = {}
    for place in places:
        for name, address, problem in _list(place):
            if problem:
                reasons[name] = problem
            else:
                files[name] = _describe(name, address)
    return list(files.values()), reasons


def _list(place: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield name, address and problem of what is at a place: a folder, or a file."""
    try:
        system, path = fsspec.core.url_to_fs(place)
        is_folder, is_there = system.isdir(path), system.exists(path)
    except Exception as error:  # every kind of storage raises its own
        raise StageError(f"{place}: cannot be read: {error}") from error
    if not is_there:
        raise StageError(f"{place}: does not exist")
    if not is_folder:
        yield place, place, None
        return
    for file in Storage(place).list_files():
        if file.problem == HIDDEN or PurePosixPath(file.name).suffix.lower() not in MEDIA_SUFFIXES:
            continue
        name = f"{place.rstrip('/')}/{file.name}"
        yield name, system.unstrip_protocol(file.address) if "://" in place else name, file.problem


def _describe(name: str, address: str) -> MediaFile:
    """Return a file with its state; the worker finds out what is wrong with one that has none."""
    try:
        system, path = fsspec.core.url_to_fs(address)
        return MediaFile(name, address, str(system.ukey(path)), int(system.size(path) or 0))
    except Exception:  # noqa: BLE001 - every kind of storage raises its own
        return MediaFile(name, address, "unknown", 0)


def _is_below(name: str, places: Sequence[str]) -> bool:
    return any(name == place or name.startswith(f"{place.rstrip('/')}/") for place in places)
