"""`python -m vatt search`: the passages of a library nearest to a text, a sound or a video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from vatt.core.errors import StageError
from vatt.media.decoding import MediaError
from vatt.use.embedding import embed_file, normalise, read_locally
from vatt.use.library import Found, Library
from vatt.weights.inference import Exported, load
from vatt.weights.registry import digest_export, find_export

Sense = Literal["pictures", "sound"]
"""What of the library is searched."""


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
        """Return the passages that show what a text says.

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
        """Return the passages that look or sound like the sound or the pictures of a file.

        Raises:
            StageError: the file cannot be read, or has no sound, or no pictures.
        """
        column = "audio_va" if kind == "sound" else "video_va"
        length = self.library.origin["length"]
        rows = embed_address(self.exported, address, None if length == "None" else float(length))
        vectors = [vector for vector in rows[column].to_pylist() if vector is not None]
        if not vectors:
            raise StageError(f"{address}: has no {'sound' if kind == 'sound' else 'picture'}")
        space = "audio_va" if sense == "sound" else "video_va"
        return self._search(space, np.mean(vectors, axis=0), num_results)

    def _search(self, space: str, vector: Float[np.ndarray, " E"], num_results: int) -> list[Found]:
        length = np.linalg.norm(vector)
        return self.library.search(space, (vector / (length or 1)).astype(np.float32), num_results)


def embed_address(
    exported: Exported,
    address: str,
    passage_s: float | None = None,
    problems: list[str] | None = None,
) -> pa.Table:
    """Return times and vectors of the passages of a file; see `vatt.use.embedding.embed_file`.

    Raises:
        StageError: nothing in it can be read; or the network gives no finite numbers.
    """
    found = [] if problems is None else problems
    try:
        with read_locally(address) as path:
            return pa.Table.from_batches(embed_file(exported, path, found, passage_s))
    except (MediaError, OSError) as error:
        raise StageError(f"{address}: {error}") from error
