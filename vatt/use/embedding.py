"""Embeddings of the windows of a file: vectors of length 1, whose products are cosines."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import torch
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Float
from torch import Tensor

from vatt.core.disk import REFUSALS
from vatt.core.errors import StageError
from vatt.loading.clips import to_signal
from vatt.loading.tasks import TaskInput
from vatt.media.decoding import MediaError
from vatt.use.library import SPACES, make_schema
from vatt.use.windows import FileWindow, read_windows
from vatt.weights.inference import Exported, load

BATCH_SIZE = 16
"""Windows that a network sees at once."""


class MediaFile(NamedTuple):
    """A file to embed."""

    name: str
    """How results call it."""
    address: str
    """A path, or what fsspec knows."""
    state: str
    """Another one when its content may be another: size and time, as far as its storage tells."""
    num_bytes: int


class Embedded(NamedTuple):
    """What came of a file: its rows stand in a file of Arrow's stream format, or there are none."""

    rows_path: Path | None
    reason: str | None
    problem: str | None


@dataclass(frozen=True)
class FileEmbedder:
    """Embeds files with an export; a process of a pool loads it once."""

    model_dir: Path
    stride_s: float | None
    partial_dir: Path
    """Where rows gather; the processes share it."""

    def __call__(self, file: MediaFile) -> Embedded:
        """Embed a file; whatever is wrong with it becomes the reason.

        Raises:
            OSError: the disk is full or broken.
            StageError: the model cannot be read, or gives no numbers.
        """
        exported, rows_path = _load(self.model_dir), self._name(file)
        problems: list[str] = []
        try:
            with read_locally(file.address) as path, rows_path.open("wb", buffering=0) as rows:
                self._write(exported, path, rows, problems)
        except MediaError as error:
            reason = str(error)
        except StageError:
            raise
        except Exception as error:  # decoders raise all kinds of errors on broken files
            if isinstance(error, OSError) and error.errno in REFUSALS:
                raise
            reason = f"{type(error).__name__}: {error}"
        else:
            return Embedded(rows_path, None, "; ".join(problems) or None)
        rows_path.unlink(missing_ok=True)
        return Embedded(None, reason, None)

    def _write(self, exported: Exported, path: Path, rows: Any, problems: list[str]) -> None:
        task_input = TaskInput("audio_visual", exported.params.clip)
        windows = read_windows(
            path, task_input, exported.params.frame_rate_hz, problems, self.stride_s
        )
        batches = embed_windows(exported, windows)
        first = next(batches)
        with pa.ipc.new_stream(rows, first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
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
def _load(model_dir: Path) -> Exported:
    """Load the model of a process that is one of many: one thread each is fastest."""
    torch.set_num_threads(1)
    exported = load(model_dir)
    if torch.cuda.is_available():
        exported.model.to("cuda")
    return exported


def embed_windows(
    exported: Exported, windows: Iterable[FileWindow], batch_size: int = BATCH_SIZE
) -> Iterator[pa.RecordBatch]:
    """Yield times and vectors of windows, with the columns of `make_schema` from `start_s` on.

    Where a window has no picture, or no sound, the vector is null.

    Raises:
        StageError: the network gives no finite numbers.
    """
    width_va, width_vt = exported.params.model.space_va_width, exported.params.model.space_vt_width
    widths = {"video_va": width_va, "audio_va": width_va, "video_vt": width_vt}
    schema = pa.schema([make_schema(widths).field(n) for n in ("start_s", "end_s", *SPACES)])
    remaining = iter(windows)
    while batch := list(islice(remaining, batch_size)):
        columns: dict[str, list[Any]] = {name: [None] * len(batch) for name in SPACES}
        shown = [number for number, window in enumerate(batch) if window.video is not None]
        heard = [number for number, window in enumerate(batch) if window.audio is not None]
        if shown:
            videos = torch.stack([video for w in batch if (video := w.video) is not None])
            seen = exported.embed_video(to_signal(videos))
            _put(columns["video_va"], shown, seen.va)
            _put(columns["video_vt"], shown, seen.vt)
        if heard:
            sounds = torch.stack([audio for w in batch if (audio := w.audio) is not None])
            _put(columns["audio_va"], heard, exported.embed_audio(sounds).va)
        times = {"start_s": [w.start_s for w in batch], "end_s": [w.end_s for w in batch]}
        yield pa.RecordBatch.from_pydict(times | columns, schema=schema)


def normalise(vectors: Tensor) -> Float[np.ndarray, "N E"]:
    """Return vectors at length 1; StageError if they are no finite numbers."""
    values = np.asarray(torch.nn.functional.normalize(vectors.float(), dim=1).cpu())
    if not np.isfinite(values).all():
        raise StageError("the network gives no finite numbers: its weights are damaged")
    return values


def _put(column: list[Any], numbers: list[int], vectors: Tensor) -> None:
    for number, vector in zip(numbers, normalise(vectors), strict=True):
        column[number] = vector


@contextmanager
def read_locally(address: str) -> Iterator[Path]:
    """Give the path of a file, of a copy where it is not on a disk of this machine."""
    files, place = fsspec.core.url_to_fs(address)
    if isinstance(files, LocalFileSystem):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"file{PurePosixPath(place).suffix}"
        files.get_file(place, str(copy))
        yield copy
