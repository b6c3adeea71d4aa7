"""The clips of a split, and what networks make of them: each is read once for all of these.

What a network made of a split is kept between runs, by network, data and code.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vatt.core.code import digest_code
from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.index import digest_index, read_index
from vatt.corpus.manifest import FOLD_TASK
from vatt.evaluate.networks import Arrays, Observer, choose_device
from vatt.loading.clips import ClipReader
from vatt.loading.loader import MIDDLE, FixedWindows, Look, load_views, spread_places
from vatt.params import ClipParams, EvaluateParams

CODE = (
    *("core/batch.py", "corpus", "loading", "media", "model"),
    *("evaluate/features.py", "evaluate/networks.py"),
)
"""The code below vatt/ that decides features. How data came about is in the digest of the index."""
SUFFIX = ".safetensors"
SHAPE = ["has_video", "frame_rate_hz", "width_px", "height_px"]
"""The columns of the index that show whether a network can see its videos."""
Name = TypeVar("Name", bound=Hashable)
NUM_WORKERS = 1  # decodes while the networks compute
SampleClips = Sequence[int]
"""Clips that are one sample, in order of time: parts of one file or of one of its parts."""
TOUCHING_S = 1e-3  # clips that are this near in time are neighbours: what is less is rounding


@dataclass(frozen=True)
class Clips:
    """The clips of a split, each called by its number in the index of the split."""

    rows: pd.DataFrame
    """The rows of the index."""
    texts: Sequence[tuple[str, ...]]
    """The annotated descriptions of each clip, else the narration nearest to its middle, if any."""
    places: tuple[float, ...]
    """Where the windows start that networks see, as in `Look`."""
    digest: str
    """The digest of all of these: results on equal ones can be compared."""

    @cached_property
    def labels(self) -> list[dict[str, list[str]]]:
        """The labels of each clip by task."""
        return [json.loads(text) for text in self.rows["labels"]]

    @cached_property
    def videos(self) -> list[str]:
        """The file that each clip is part of, after its source and a slash."""
        return [f"{row.source}/{row.video_id}" for row in self.rows.itertuples()]

    def find_pairs(self, direction: str) -> list[SampleClips]:
        """Return the samples that have what text_to_video or audio_to_video needs.

        Neighbours in one file that have the same descriptions were one before they were cut.
        """
        queries = np.array([bool(texts) for texts in self.texts], dtype=bool)
        if direction == "audio_to_video":
            queries = self._have("audio")
        described = enumerate(self.rows["descriptions"])
        keys = [number if text == "[]" else text for number, text in described]
        return self._join(keys, self._have("video") & queries)

    def find_labelled(self, task: str, modalities: Iterable[str]) -> list[SampleClips]:
        """Return the samples that have labels of a task and all of the modalities.

        Neighbours in one file that have the same labels and descriptions were one before the cut.
        """
        usable = np.array([task in labels for labels in self.labels], dtype=bool)
        for modality in modalities:
            usable &= self._have(modality)
        keys = zip(self.rows["labels"], self.rows["descriptions"], strict=True)
        return self._join(list(keys), usable)

    def _have(self, modality: str) -> Bool[np.ndarray, "N"]:
        return self.rows[f"has_{modality}"].to_numpy(dtype=bool)

    def _join(self, keys: Sequence[Hashable], usable: Bool[np.ndarray, "N"]) -> list[SampleClips]:
        """Bring neighbours of equal keys together; of these, the usable ones are samples."""
        starts_s, ends_s = (self.rows[name].to_numpy(dtype=float) for name in ("start_s", "end_s"))
        groups: list[list[int]] = []
        for number, key in enumerate(keys):
            last = number - 1
            if (
                number
                and keys[last] == key
                and self.videos[last] == self.videos[number]
                and abs(starts_s[number] - ends_s[last]) < TOUCHING_S
            ):
                groups[-1].append(number)
            else:
                groups.append([number])
        kept = [[number for number in group if usable[number]] for group in groups]
        return [sample for sample in kept if sample]

    def see_samples(
        self, values: Float[np.ndarray, "N W D"], samples: Sequence[SampleClips]
    ) -> Float[np.ndarray, "M W D"]:
        """Return each sample by as many windows, evenly spaced over its clips."""
        has_middle_first = self.places[0] == MIDDLE and values.shape[1] > 1
        spread = values[:, int(has_middle_first) :]
        num_windows = spread.shape[1]
        pairs = []
        for sample in samples:
            # One window of several clips is that of the middle one, of two that of the first.
            places = [(len(sample) - 1) // 2]
            if num_windows > 1:
                last = len(sample) * num_windows - 1
                places = np.linspace(0, last, num_windows).round().astype(int).tolist()
            pairs += [(sample[n // num_windows], n % num_windows) for n in places]
        clips, windows = np.array(pairs, dtype=np.int64).reshape(len(samples), num_windows, 2).T
        return np.asarray(spread[clips.T, windows.T])


class Seen(NamedTuple):
    """The clips of a split, and what a network makes of them."""

    clips: Clips
    arrays: Arrays


def read_clips(reader: ClipReader, rows: pd.DataFrame, places: tuple[float, ...]) -> Clips:
    """Read the texts of the clips of a split, the `rows` of the index.

    Raises ShardError if a shard is damaged.
    """
    texts = []
    for _, segment in rows.iterrows():
        middle_start = (int(segment.num_frames) - reader.clip.num_frames) // 2
        described = json.loads(segment.descriptions)
        texts.append(tuple(described or reader.read_narration(segment, middle_start, 1)))
    content = rows.to_csv(index=False) + json.dumps([texts, places])
    return Clips(rows, texts, places, hashlib.sha256(content.encode()).hexdigest())


class FeatureStore:
    """A folder of features; entries that a run neither read nor wrote can be removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def read(self, name: str) -> Arrays | None:
        """Return what is stored under a name; None if there is nothing, or it is damaged."""
        self._used.add(name)
        try:
            return dict(load_file(self._folder / (name + SUFFIX)))
        except (OSError, SafetensorError):
            return None

    def write(self, name: str, arrays: Arrays) -> None:
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
    return digest_code(*CODE, beside=map(version, ("torch", "av")))


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
            MisfitError: the corpus has not the frame rate or the size that a network needs.
        """
        rows = read_index(self.preprocess_dir, split=split)
        labels = read_index(self.preprocess_dir, columns=["labels"])["labels"]
        spread = spread_places(self.params.num_windows)
        places = (MIDDLE,) if split == "train" else spread
        if labels.str.contains(f'"{FOLD_TASK}"', regex=False).any():
            places = spread if spread == (MIDDLE,) else (MIDDLE, *spread)
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

    def _observe(self, clips: Clips, networks: Sequence[Observer]) -> list[Arrays]:
        index = read_index(self.preprocess_dir, columns=SHAPE)
        shapes = index[index["has_video"]].drop_duplicates()
        looks = [self._fit(network.look(clips.places), network, shapes) for network in networks]
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

    def _fit(self, look: Look, network: Observer, shapes: pd.DataFrame) -> Look:
        """Return `look` at stored videos of these rates and sizes: at every n-th of their frames.

        Raises MisfitError if the corpus does not hold what the network was trained on.
        """
        if shapes.empty or "video" not in look.task_input.modalities:
            return look
        rate, size_px = network.frame_rate_hz, look.task_input.clip.frame_size_px
        rates = sorted(set(shapes["frame_rate_hz"]))
        stride = max(1, round(rates[0] / rate))
        if not all(math.isclose(stored, stride * rate, rel_tol=1e-6) for stored in rates):
            found = ", ".join(f"{stored:g}" for stored in rates)
            raise MisfitError(
                f"{self.preprocess_dir}: has video at {found} frames per second, the network "
                f"{network.name} was trained at {rate:g}: preprocess.frame_rate_hz must be "
                f"{rate:g} or a multiple of it"
            )
        side_px = int(shapes[["height_px", "width_px"]].to_numpy().min())
        if side_px < size_px:
            raise MisfitError(
                f"{self.preprocess_dir}: has pictures of {side_px} pixels, the network "
                f"{network.name} was trained on {size_px}: preprocess.short_side_px must be "
                f"{size_px} or more"
            )
        seen = dataclasses.replace(look.task_input, frame_stride=stride)
        return dataclasses.replace(look, task_input=seen)
