"""What networks make of the clips of a split: each clip is read once for all of them, or not at all.

Features that are kept between runs: what a network made of a split, by network, data and code.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vatt.core.code import digest_code
from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.index import digest_index, read_index
from vatt.corpus.manifest import FOLD_TASK
from vatt.evaluate.clips import Clips, read_clips
from vatt.evaluate.networks import Arrays, Observer, choose_device
from vatt.loading.clips import ClipReader
from vatt.loading.views import MIDDLE, FixedWindows, load_views, spread_places
from vatt.params import ClipParams, EvaluateParams

CODE = (
    *("core/batch.py", "corpus", "loading", "media", "model"),
    *("evaluate/clips.py", "evaluate/features.py", "evaluate/networks.py"),
)
"""Below vatt/: what decides features besides weights and data. Not how data came about: that is in
the digest of the index."""
LIBRARIES = ("torch", "av")
SUFFIX = ".safetensors"


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


NUM_WORKERS = 1  # decodes while the networks compute


class MisfitError(StageError):
    """A network and a corpus that cannot go together."""


@dataclass
class SplitReader:
    """Reads the splits of a corpus; what networks make of them is kept in `store`.

    clip: that of the pre-trained network, by which the nearest narration is found.
    """

    preprocess_dir: Path
    clip: ClipParams
    params: EvaluateParams
    store: FeatureStore
    _reader: ClipReader = field(init=False)
    _index_digest: str = field(init=False)

    def __post_init__(self) -> None:
        self._reader = ClipReader(self.preprocess_dir, self.clip)
        self._index_digest = digest_index(self.preprocess_dir)

    def read(self, split: str, networks: Sequence[Observer]) -> tuple[Clips, list[Arrays]]:
        """Return the clips of a split and what each of the networks makes of them.

        Of the split train only the middle window is seen, as in the paper; of others, windows
        spread over the clip. A corpus with folds needs both of all clips: the middle comes first.

        Raises:
            StageError: the corpus cannot be read, or a network gives no numbers.
            MisfitError: the corpus has another frame rate than a network was trained on.
        """
        rows = read_index(self.preprocess_dir, split=split)
        places = self._choose_places(split)
        clips = read_clips(self._reader, rows, places)
        names = [
            name_features(network.digest, self._index_digest, clips.digest, choose_device().type)
            for network in networks
        ]
        known = {name: self.store.read(name) for name in names}
        missing = {
            name: network
            for name, network in zip(names, networks, strict=True)
            if known[name] is None
        }
        if missing:
            self._check_frame_rates(missing.values())
            observed = self._observe(rows, clips, list(missing.values()))
            for name, arrays in zip(missing, observed, strict=True):
                self.store.write(name, arrays)
                known[name] = arrays
        return clips, [known[name] or {} for name in names]

    def _choose_places(self, split: str) -> tuple[float, ...]:
        spread = spread_places(self.params.num_windows)
        labels = read_index(self.preprocess_dir, columns=["labels"])["labels"]
        if labels.str.contains(f'"{FOLD_TASK}"', regex=False).any():
            return spread if spread == (MIDDLE,) else (MIDDLE, *spread)
        return (MIDDLE,) if split == "train" else spread

    def _observe(
        self, rows: pd.DataFrame, clips: Clips, networks: Sequence[Observer]
    ) -> list[Arrays]:
        looks = [network.look(clips.places) for network in networks]
        distinct = list(dict.fromkeys(looks))
        numbers = [distinct.index(look) for look in looks]
        windows = FixedWindows(self._reader, rows.iloc, distinct)
        # As many views at once as `batch_size`, of the network that looks at most.
        num_clips = max(1, self.params.batch_size // max(look.num_views for look in looks))
        parts: list[list[Arrays]] = [[] for _ in networks]
        for _, batch in load_views(windows, len(rows), num_clips, NUM_WORKERS):
            for network, number, part in zip(networks, numbers, parts, strict=True):
                part.append(network.see([views[number] for views in batch]))
        texts = [text for of_clip in clips.texts for text in of_clip]
        joined = [
            _join(part) | network.read(texts) for network, part in zip(networks, parts, strict=True)
        ]
        for network, arrays in zip(networks, joined, strict=True):
            _check_finite(network.name, arrays)
        return joined

    def _check_frame_rates(self, networks: Iterable[Observer]) -> None:
        index = read_index(self.preprocess_dir, columns=["has_video", "frame_rate_hz"])
        rates = index.loc[index["has_video"], "frame_rate_hz"].unique()
        for network in networks:
            wrong = [rate for rate in rates if rate != network.frame_rate_hz]
            if wrong:
                raise MisfitError(
                    f"{self.preprocess_dir}: has video at {wrong[0]:g} frames per second, the "
                    f"network {network.name} was trained at {network.frame_rate_hz:g}"
                )


def _join(parts: Sequence[Arrays]) -> Arrays:
    if not parts:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_finite(network: str, arrays: Arrays) -> None:
    """Refuse what would be ranked as if it were a number."""
    wrong = [name for name, values in arrays.items() if not np.isfinite(values).all()]
    if wrong:
        raise StageError(
            f"the network {network} gives no finite numbers ({', '.join(wrong)}): its weights are "
            "damaged, or training diverged"
        )
