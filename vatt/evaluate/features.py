"""What networks make of the clips of a split: each clip is read once for all of them, or never.

What a network made of a split is kept between runs, by network, data and code.
"""

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vatt.core.code import digest_code
from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.index import digest_index, read_index
from vatt.corpus.manifest import FOLD_TASK
from vatt.evaluate.clips import Arrays, Clips, read_clips
from vatt.evaluate.networks import Observer, choose_device
from vatt.loading.clips import ClipReader
from vatt.loading.loader import MIDDLE, FixedWindows, load_views, spread_places
from vatt.params import ClipParams, EvaluateParams

CODE = (
    *("core/batch.py", "corpus", "loading", "media", "model"),
    *("evaluate/clips.py", "evaluate/features.py", "evaluate/networks.py"),
)
"""The code below vatt/ that decides features. How data came about is in the digest of the index."""
LIBRARIES = ("torch", "av")
SUFFIX = ".safetensors"
Name = TypeVar("Name", bound=Hashable)
NUM_WORKERS = 1  # decodes while the networks compute


class FeatureStore:
    """A folder of features; entries that a run neither read nor wrote can be removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def read(self, name: str) -> dict[str, np.ndarray] | None:
        """Return what is stored under a name; None if there is nothing, or it is damaged."""
        self._used.add(name)
        try:
            arrays: dict[str, np.ndarray] = load_file(self._folder / (name + SUFFIX))
        except (OSError, SafetensorError):
            return None
        return arrays

    def write(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Store arrays under a name, whole or not at all."""
        self._used.add(name)
        contiguous = {key: np.ascontiguousarray(values) for key, values in arrays.items()}
        with atomic_path(self._folder / (name + SUFFIX)) as partial:
            save_file(contiguous, partial)

    def remove_others(self) -> None:
        """Remove what was not used since this object was made."""
        for path in self._folder.glob(f"*{SUFFIX}*"):
            if path.name.partition(".")[0] not in self._used:
                path.unlink(missing_ok=True)


def name_features(*parts: str) -> str:
    """Return the name of features that these parts decide, together with the code."""
    content = json.dumps([*parts, _digest_code()])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@cache
def _digest_code() -> str:
    return digest_code(*CODE, beside=map(version, LIBRARIES))


class MisfitError(StageError):
    """A network and a corpus that cannot go together."""


@dataclass
class SplitReader:
    """Reads the splits of a corpus; what networks make of them is kept in `store`."""

    preprocess_dir: Path
    clip: ClipParams
    """The clip of the pre-trained network, by which the nearest narration is found."""
    params: EvaluateParams
    store: FeatureStore

    def read(
        self, split: str, networks: Mapping[Name, Observer]
    ) -> tuple[Clips, dict[Name, Arrays]]:
        """Return the clips of a split and what each of the networks makes of them.

        Of a clip of the split train only the middle window is seen, as in the paper; of others,
        windows spread over it. A corpus with folds needs both: the middle comes first.

        Raises:
            StageError: the corpus cannot be read, or a network gives no numbers.
            MisfitError: the corpus has another frame rate than a network was trained on.
        """
        rows = read_index(self.preprocess_dir, split=split)
        places = self._choose_places(split)
        clips = read_clips(ClipReader(self.preprocess_dir, self.clip), rows, places)
        data = (digest_index(self.preprocess_dir), clips.digest, choose_device().type)
        files = {name: name_features(own.digest, *data) for name, own in networks.items()}
        found = {name: self.store.read(file) for name, file in files.items()}
        known = {name: arrays for name, arrays in found.items() if arrays is not None}
        missing = [name for name in networks if name not in known]
        if missing:
            observed = self._observe(clips, [networks[name] for name in missing])
            for name, arrays in zip(missing, observed, strict=True):
                self.store.write(files[name], arrays)
                known[name] = arrays
        return clips, known

    def _choose_places(self, split: str) -> tuple[float, ...]:
        spread = spread_places(self.params.num_windows)
        labels = read_index(self.preprocess_dir, columns=["labels"])["labels"]
        if labels.str.contains(f'"{FOLD_TASK}"', regex=False).any():
            return spread if spread == (MIDDLE,) else (MIDDLE, *spread)
        return (MIDDLE,) if split == "train" else spread

    def _observe(self, clips: Clips, networks: Sequence[Observer]) -> list[Arrays]:
        self._check_frame_rates(networks)
        looks = [network.look(clips.places) for network in networks]
        distinct = list(dict.fromkeys(looks))
        numbers = [distinct.index(look) for look in looks]
        reader = ClipReader(self.preprocess_dir, self.clip)
        windows = FixedWindows(reader, clips.rows.iloc, distinct)
        # As many views at once as `batch_size`, of the network that looks at most.
        num_clips = max(1, self.params.batch_size // max(look.num_views for look in looks))
        parts: list[list[Arrays]] = [[] for _ in networks]
        for _, batch in load_views(windows, len(clips.rows), num_clips, NUM_WORKERS):
            for network, number, part in zip(networks, numbers, parts, strict=True):
                part.append(network.see([views[number] for views in batch]))
        texts = [text for of_clip in clips.texts for text in of_clip]
        joined = []
        for network, part in zip(networks, parts, strict=True):
            names = part[0] if part else ()
            arrays = {name: np.concatenate([views[name] for views in part]) for name in names}
            arrays |= network.read(texts)
            wrong = [name for name, values in arrays.items() if not np.isfinite(values).all()]
            if wrong:  # else it would be ranked as if it were a number
                raise StageError(
                    f"the network {network.name} gives no finite numbers ({', '.join(wrong)}): its "
                    "weights are damaged, or training diverged"
                )
            joined.append(arrays)
        return joined

    def _check_frame_rates(self, networks: Sequence[Observer]) -> None:
        index = read_index(self.preprocess_dir, columns=["has_video", "frame_rate_hz"])
        rates = index.loc[index["has_video"], "frame_rate_hz"].unique()
        for network in networks:
            wrong = [rate for rate in rates if rate != network.frame_rate_hz]
            if wrong:
                raise MisfitError(
                    f"{self.preprocess_dir}: has video at {wrong[0]:g} frames per second, the "
                    f"network {network.name} was trained at {network.frame_rate_hz:g}"
                )
