"""Stage `download`: bring every configured source to data/download, with a manifest."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.manifest import MANIFEST_NAME, write_manifest
from vatt.download.catalogue import collect_catalogue
from vatt.download.collection import Collection
from vatt.download.demo import generate_demo
from vatt.download.folder import collect_folder, collect_urls
from vatt.params import (
    DemoSource,
    DownloadParams,
    FetchParams,
    FolderSource,
    RunParams,
    Source,
    UrlsSource,
)

OUT_DIR = Path("data/download")


def main(run: RunParams, download: DownloadParams) -> Mapping[str, Any]:
    """Generate or copy all sources; count what became of their files.

    Raises:
        StageError: a source, its labels or the output folder cannot be used.
    """
    try:
        OUT_DIR.mkdir(parents=True, exist_ok=True)
        (OUT_DIR / MANIFEST_NAME).unlink(missing_ok=True)  # a killed run leaves none
        found = {
            source.name: _collect(source, run.seed, download.fetch) for source in download.sources
        }
        for source in download.sources:
            if not isinstance(source, DemoSource) and source.captions == "asr":
                found[source.name].transcribe()
        for path in OUT_DIR.iterdir():
            if path.name not in found:  # what belongs to no source any more
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        ignored = [file for name in sorted(found) for file in sorted(found[name].ignored)]
        lines = [json.dumps(file._asdict(), ensure_ascii=False) + "\n" for file in ignored]
        with atomic_path(OUT_DIR / "ignored.jsonl") as partial:
            partial.write_text("".join(lines), encoding="utf-8")
        write_manifest(OUT_DIR, [row for name in found for row in found[name].entries])
    except OSError as error:
        raise StageError(f"{error.filename or OUT_DIR}: {error.strerror or error}") from error
    counts = {name: _count(collection) for name, collection in found.items()}
    for name, numbers in counts.items():
        _print(name, numbers)
    return {"sources": counts}


def _collect(source: Source, seed: int, fetch: FetchParams) -> Collection:
    match source:
        case DemoSource():
            demo = generate_demo(OUT_DIR / source.name, source.num_videos, seed)
            return Collection(source.name, demo)
        case FolderSource():
            return collect_folder(source, OUT_DIR, fetch)
        case UrlsSource():
            return collect_urls(source, OUT_DIR, fetch)
        case _:
            return collect_catalogue(source, OUT_DIR, fetch)


def _count(collection: Collection) -> dict[str, Any]:
    rows = collection.entries
    num_to_transcribe = sum(row.transcribe for row in rows)
    return {
        **(collection.listed.to_metrics() if collection.listed else {}),
        "ok": sum(row.status == "ok" for row in rows),
        "failed": sum(row.status == "failed" for row in rows),
        "with_captions": sum(row.captions_path is not None for row in rows),
        "with_caption_problems": sum(row.caption_problem is not None for row in rows),
        "ignored": len(collection.ignored),
        **({"to_transcribe": num_to_transcribe} if num_to_transcribe else {}),
    }


def _print(title: str, numbers: Mapping[str, Any]) -> None:
    """Print counts in a line, and those of each split of an official list in another one."""
    parts = {**numbers}
    by_split = parts.pop("by_split", {})
    print(f"download: {title}: " + ", ".join(f"{value} {key}" for key, value in parts.items()))
    for split, counts in by_split.items():
        _print(f"{title}: {split}", counts)
