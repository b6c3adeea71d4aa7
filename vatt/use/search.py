"""`python -m vatt search`: the windows of a library nearest to a text, a sound or a video."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from vatt.core.errors import StageError
from vatt.loading.tasks import TaskInput
from vatt.media.decoding import MediaError
from vatt.use.embedding import embed_windows, normalise, read_locally
from vatt.use.library import Found, Library
from vatt.use.windows import read_windows
from vatt.weights.inference import Exported, load
from vatt.weights.registry import digest_export, find_export

Sense = Literal["pictures", "sound"]
"""What of the library is searched."""
MORE = 4
"""Neighbours of a better window are left out of the answer: so many times more are asked for."""


@dataclass(frozen=True)
class Searcher:
    """A library and the model that made its vectors."""

    library: Library
    exported: Exported

    @classmethod
    def open(cls, library_dir: Path) -> "Searcher":
        """Open a library with its model.

        Raises:
            StageError: one of them is not there or damaged, or the model is another one by now.
        """
        library = Library.open(library_dir)
        model_dir = find_export(library.origin["model"])
        if not model_dir.is_dir() or digest_export(model_dir) != library.origin["digest"]:
            raise StageError(
                f"{library_dir}: was made by a model at {model_dir} that is there no more: embed "
                "the files again with the present one, into a new library"
            )
        return cls(library, load(model_dir))

    def search_text(self, text: str, num_results: int) -> list[Found]:
        """Return the windows that show what a text says.

        Raises:
            StageError: there is no word in it that the model could know, or it knows no text.
        """
        try:
            vectors = self.exported.embed_text([text])
        except ValueError as error:
            raise StageError(f"text = {text!r}: holds no word") from error
        return self._search("video_vt", normalise(vectors)[0], num_results)

    def search_like(
        self, address: str, kind: Literal["sound", "video"], sense: Sense, num_results: int
    ) -> list[Found]:
        """Return the windows that look or sound like the sound or the pictures of a file.

        Raises:
            StageError: the file cannot be read, or has no sound, or no pictures.
        """
        column = "audio_va" if kind == "sound" else "video_va"
        rows = embed_file(self.exported, address)[0]
        vectors = [vector for vector in rows[column].to_pylist() if vector is not None]
        if not vectors:
            raise StageError(f"{address}: has no {'sound' if kind == 'sound' else 'picture'}")
        space = "audio_va" if sense == "sound" else "video_va"
        return self._search(space, np.mean(vectors, axis=0), num_results)

    def _search(self, space: str, vector: Float[np.ndarray, " E"], num_results: int) -> list[Found]:
        """Return the best windows of which none touches a better one of the same file."""
        length = np.linalg.norm(vector)
        vector = (vector / (length or 1)).astype(np.float32)
        asked = MORE * num_results
        while True:
            windows = self.library.search(space, vector, asked)
            found = _leave_out_neighbours(windows)[:num_results]
            if len(found) == num_results or len(windows) < asked:
                return found
            asked *= MORE


def embed_file(
    exported: Exported, address: str, stride_s: float | None = None
) -> tuple[pa.Table, list[str]]:
    """Return times and vectors of the windows of a file, see `embed_windows`; and its problems.

    Raises:
        StageError: nothing in it can be read.
    """
    problems: list[str] = []
    task_input = TaskInput("audio_visual", exported.params.clip)
    try:
        with read_locally(address) as path:
            rate_hz = exported.params.frame_rate_hz
            windows = read_windows(path, task_input, rate_hz, problems, stride_s)
            return pa.Table.from_batches(embed_windows(exported, windows)), problems
    except (MediaError, OSError) as error:
        raise StageError(f"{address}: {error}") from error


def _leave_out_neighbours(windows: Sequence[Found]) -> list[Found]:
    kept: list[Found] = []
    for window in windows:
        if not any(
            other.path == window.path
            and window.start_s <= other.end_s
            and other.start_s <= window.end_s
            for other in kept
        ):
            kept.append(window)
    return kept
