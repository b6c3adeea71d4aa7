"""`python -m vatt search`: the passages of a library nearest to a text, a sound or a video."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from vatt.core.errors import StageError
from vatt.media.decoding import MediaError
from vatt.use.embedding import embed_file, normalise
from vatt.use.library import Found, Library, Origin
from vatt.use.places import read_locally
from vatt.weights.inference import Exported, load
from vatt.weights.registry import CHAMPION, digest_export, find_export

Sense = Literal["pictures", "sound"]
"""What of the library is searched."""


@dataclass(frozen=True)
class Searcher:
    """A library and the model that made its vectors."""

    library: Library
    exported: Exported

    @classmethod
    def open(cls, library_dir: Path, model: str | None = None) -> "Searcher":
        """Open a library with its model, at `model` if it was moved.

        Raises:
            StageError: one of them is not there or damaged, or the model is another one by now.
        """
        library = Library.open(library_dir)
        model_dir = _find_model(library.origin, model)
        if model_dir is None:
            raise StageError(
                f"{library_dir}: was made by the model that was at {library.origin['model']}, "
                "which is not there any more: name its folder (--model), or embed the files again "
                "with another model, into a new library"
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
        length_s = float(self.library.origin["length"].removesuffix(" s"))
        rows = embed_address(self.exported, address, length_s)
        vectors = [vector for vector in rows[column].to_pylist() if vector is not None]
        if not vectors:
            raise StageError(f"{address}: has no {'sound' if kind == 'sound' else 'picture'}")
        space = "audio_va" if sense == "sound" else "video_va"
        return self._search(space, np.mean(vectors, axis=0), num_results)

    def _search(self, space: str, vector: Float[np.ndarray, " E"], num_results: int) -> list[Found]:
        length = np.linalg.norm(vector)
        return self.library.search(space, (vector / (length or 1)).astype(np.float32), num_results)


def _find_model(origin: Origin, model: str | None) -> Path | None:
    """Return the folder of the model of a library: `model`, or where it was, or the champion."""
    for place in (model,) if model else (origin["model"], CHAMPION):
        try:
            model_dir = find_export(place)
        except StageError:  # there is no champion
            continue
        if model_dir.is_dir() and digest_export(model_dir) == origin["digest"]:
            return model_dir
    return None


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
    with name_faults(address), read_locally(address) as path:
        return pa.Table.from_batches(list(embed_file(exported, path, found, passage_s)))


@contextmanager
def name_faults(address: str) -> Iterator[None]:
    """Raise StageError with the name of a file, whatever is wrong with it."""
    try:
        yield
    except StageError:
        raise
    except MediaError as error:
        raise StageError(f"{address}: {error}") from error
    except Exception as error:  # decoders and storages raise all kinds of errors
        raise StageError(f"{address}: {type(error).__name__}: {error}") from error
