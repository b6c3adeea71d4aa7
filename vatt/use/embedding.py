"""Embeddings of the passages of a file: vectors of length 1, whose products are cosines."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from vatt.core.disk import REFUSALS
from vatt.core.errors import StageError
from vatt.loading.clips import to_signal
from vatt.loading.tasks import TaskInput
from vatt.media.decoding import MediaError
from vatt.use.library import SPACES, make_schema
from vatt.use.passages import Passage, read_passages
from vatt.use.places import MediaFile, read_locally
from vatt.weights.export import ExportedParams
from vatt.weights.inference import Exported, load
from vatt.weights.registry import digest_export

PASSAGES_AT_ONCE = 8
"""Passages of a file whose windows a network sees at once."""


class Embedded(NamedTuple):
    """What came of a file: its rows stand in a file of Arrow's stream format, or there are none."""

    rows_path: Path | None
    reason: str | None
    problem: str | None = None
    is_settled: bool = True
    """Whether another run would find the same: a crash or a broken connection may pass."""


@dataclass(frozen=True)
class FileEmbedder:
    """Embeds files with an export; a process of a pool loads it once."""

    model_dir: Path
    digest: str
    """That of the model: it may be replaced while files are embedded."""
    passage_s: float
    partial_dir: Path
    """Where rows gather; the processes share it."""

    def __call__(self, file: MediaFile) -> Embedded:
        """Embed a file; whatever is wrong with it becomes the reason.

        Raises:
            OSError: the disk is full or broken.
            StageError: the model cannot be read, or gives no numbers.
        """
        exported, rows_path = _load(self.model_dir, self.digest), self._name(file)
        problems: list[str] = []
        with rows_path.open("wb", buffering=0) as rows:
            try:
                with read_locally(file.address) as path:
                    self._write(exported, path, rows, problems)
            except MediaError as error:
                result = Embedded(None, str(error))
            except StageError:
                raise
            except Exception as error:  # decoders raise all kinds of errors on broken files
                if isinstance(error, OSError) and error.errno in REFUSALS:
                    raise
                result = Embedded(None, f"{type(error).__name__}: {error}", is_settled=False)
            else:
                return Embedded(rows_path, None, "; ".join(problems) or None)
        rows_path.unlink(missing_ok=True)
        return result

    def _write(self, exported: Exported, path: Path, rows: Any, problems: list[str]) -> None:
        batches = embed_file(exported, path, problems, self.passage_s)
        first = next(batches)
        with pa.ipc.new_stream(rows, first.schema) as writer:
            for batch in chain([first], batches):
                writer.write_batch(batch)

    def measure_progress(self, file: MediaFile) -> int | None:
        """Return how many bytes of rows there are, None before the work on a file began."""
        with suppress(FileNotFoundError):
            return self._name(file).stat().st_size
        return None

    def _name(self, file: MediaFile) -> Path:
        digest = hashlib.blake2b(file.name.encode("utf-8", "surrogatepass"), digest_size=16)
        return self.partial_dir / digest.hexdigest()


@cache
def _load(model_dir: Path, digest: str) -> Exported:
    """Load the model of a process that is one of many: one thread each is fastest."""
    torch.set_num_threads(1)
    exported = load(model_dir)
    if digest_export(model_dir) != digest:
        raise StageError(f"{model_dir}: was replaced meanwhile: embed the files again")
    if torch.cuda.is_available():
        exported.model.to("cuda")
    return exported


def measure_widths(params: ExportedParams) -> dict[str, int]:
    """Return the widths of the vectors that a model makes, by column."""
    width_va, width_vt = params.model.space_va_width, params.model.space_vt_width
    return {"video_va": width_va, "audio_va": width_va, "video_vt": width_vt}


def embed_passages(exported: Exported, passages: Iterable[Passage]) -> Iterator[pa.RecordBatch]:
    """Yield times and vectors of passages, with the columns of `make_schema` from `start_s` on.

    The vector of a passage is the mean of its windows, as in evaluation, at length 1. It is null
    where a passage has no picture, or no sound.

    Raises:
        StageError: the network gives no finite numbers.
    """
    columns_of = make_schema(measure_widths(exported.params))
    schema = pa.schema([columns_of.field(n) for n in ("start_s", "end_s", *SPACES)])
    remaining = iter(passages)
    while batch := list(islice(remaining, PASSAGES_AT_ONCE)):
        columns: dict[str, list[Any]] = {name: [None] * len(batch) for name in SPACES}
        videos = {n: passage.video for n, passage in enumerate(batch) if passage.video is not None}
        if videos:
            seen = exported.embed_video(to_signal(torch.cat(list(videos.values()))))
            _put(columns["video_va"], videos, seen.va)
            _put(columns["video_vt"], videos, seen.vt)
        audios = {n: passage.audio for n, passage in enumerate(batch) if passage.audio is not None}
        if audios:
            heard = exported.embed_audio(torch.cat(list(audios.values())))
            _put(columns["audio_va"], audios, heard.va)
        times = {"start_s": [p.start_s for p in batch], "end_s": [p.end_s for p in batch]}
        yield pa.RecordBatch.from_pydict(times | columns, schema=schema)


def embed_file(
    exported: Exported, path: Path, problems: list[str], passage_s: float | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield times and vectors of the passages of a file; see `embed_passages`.

    Raises:
        MediaError: nothing in it can be read.
        StageError: the network gives no finite numbers.
    """
    task_input = TaskInput("audio_visual", exported.params.clip)
    rate_hz = exported.params.frame_rate_hz
    return embed_passages(exported, read_passages(path, task_input, rate_hz, problems, passage_s))


def normalise(vectors: Tensor) -> Float[np.ndarray, "N E"]:
    """Return vectors at length 1; StageError if they are no finite numbers."""
    values = np.asarray(torch.nn.functional.normalize(vectors.float(), dim=1).cpu())
    if not np.isfinite(values).all():
        raise StageError("the network gives no finite numbers: its weights are damaged")
    return values


def _put(column: list[Any], windows: Mapping[int, Tensor], vectors: Tensor) -> None:
    """Put the mean of the vectors of each passage's windows at its number."""
    parts = vectors.float().split([len(part) for part in windows.values()])
    means = normalise(torch.stack([part.mean(0) for part in parts]))
    for number, mean in zip(windows, means, strict=True):
        column[number] = mean
