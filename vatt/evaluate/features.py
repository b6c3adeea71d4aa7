"""The clips of a split, and what networks make of them: each is read once for all of these."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from vatt.core.errors import StageError
from vatt.corpus.index import digest_index, read_index
from vatt.evaluate.feature_store import FeatureStore, join_arrays, name_features
from vatt.evaluate.networks import Arrays, Observer, choose_device
from vatt.evaluate.selection import EVERYTHING, Subset, has_folds, read_rows
from vatt.loading.loader import MIDDLE, FixedWindows, Look, load_views, spread_places
from vatt.loading.parts import PartReader
from vatt.params import ClipParams, EvaluateParams, LaunchParams

SHAPE = ["has_video", "frame_rate_hz", "width_px", "height_px"]
"""The columns of the index that show whether a network can see its videos."""
Name = TypeVar("Name", bound=Hashable)
BATCHES_PER_PART = 8
"""What is lost at most when a process is killed, and what ranks take at once."""
TEXTS_AT_ONCE = 512
TEXTS_PART = "texts"
NO_CLIPS = range(0)
"""The part that holds what networks make of the texts."""
SampleClips = Sequence[int]
"""Clips that are one sample, in order of time: parts of one file or of one of its parts."""
TOUCHING_S = 1e-3  # clips that are this near in time are neighbours: what is less is rounding


@dataclass(frozen=True)
class Clips:
    """The clips of a split that were read, each called by its number among them."""

    rows: pd.DataFrame
    """The rows of the index."""
    texts: Sequence[tuple[str, ...]]
    """The annotated descriptions of each clip, else the narration nearest to its middle, if any."""
    places: tuple[float, ...]
    """Where the windows start that networks see, as in `Look`."""
    digest: str
    """The digest of all of these: results on equal ones can be compared."""
    num_parts: int = 0
    """The last so many are annotated parts of files, not segments of the index."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """The annotated parts that cannot be searched, by name, and why."""

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
    launch: LaunchParams
    subset: Subset = EVERYTHING
    """What linear classifiers learn from."""
    device_type: str = field(default_factory=lambda: choose_device().type)
    """Where features are made: what other hardware made is kept apart."""
    beat: Callable[[], None] = lambda: None
    """Called again and again while clips and texts are read and seen."""
    _clips: dict[str, Clips] = field(default_factory=dict, init=False)

    def read(
        self, split: str, networks: Mapping[Name, Observer]
    ) -> tuple[Clips, dict[Name, Arrays]]:
        """Return the clips of a split and what each of the networks makes of them.

        What is not in the store is made, part by part: a killed run goes on after the last one.

        Raises:
            StageError: the corpus cannot be read, or a network gives no numbers.
            MisfitError: the corpus has not the frame rate or the size that a network needs.
        """
        clips = self.read_clips(split)
        return clips, self.see(clips, networks)

    def see(self, clips: Clips, networks: Mapping[Name, Observer]) -> dict[Name, Arrays]:
        """Return what each of the networks makes of clips; errors as those of `read`."""
        parts, files = self._list_parts(clips, networks), self._name_files(clips, networks)
        known: dict[Name, Arrays] = {}
        for name, file in files.items():
            arrays = self.store.read(file)
            while arrays is None:
                self.observe(clips, networks)
                arrays = self.store.join(file, [*map(_name_part, parts), TEXTS_PART])
            known[name] = arrays
        return known

    def read_clips(self, split: str) -> Clips:
        """Return the clips of a split that are needed; see `selection.read_rows`.

        Of a clip of the split train only the middle window is seen, as in the paper; of others,
        windows spread over it. A corpus with folds needs both: the middle comes first.

        Raises ShardError if a shard is damaged.
        """
        if split in self._clips:
            return self._clips[split]
        rows = read_rows(self.preprocess_dir, split, self.params.probe_tasks, self.subset)
        spread = spread_places(self.params.num_windows)
        places = (MIDDLE,) if split == "train" else spread
        if has_folds(self.preprocess_dir):
            places = spread if spread == (MIDDLE,) else (MIDDLE, *spread)
        texts: list[tuple[str, ...]] = [()] * len(rows)
        if split == "test":
            texts = list(self._read_texts(rows))
        content = rows.to_csv(index=False) + json.dumps([texts, places])
        digest = hashlib.sha256(content.encode()).hexdigest()
        self._clips[split] = Clips(rows, texts, places, digest)
        return self._clips[split]

    def _read_texts(self, rows: pd.DataFrame) -> Iterator[tuple[str, ...]]:
        reader = self._open()
        for number, (_, segment) in enumerate(rows.iterrows()):
            if number % TEXTS_AT_ONCE == 0:
                self.beat()
            middle_start = (int(segment.num_frames) - self.clip.num_frames) // 2
            described = json.loads(segment.descriptions)
            yield tuple(described or reader.read_narration(segment, middle_start, 1))

    def list_missing(
        self, clips: Clips, networks: Mapping[Name, Observer]
    ) -> dict[Name, list[range]]:
        """Return the numbers of the clips that networks have not yet seen, by part.

        NO_CLIPS among them stands for the texts.
        """
        parts = [*self._list_parts(clips, networks), NO_CLIPS]
        return {
            name: [part for part in parts if not self.store.has(f"{file}.{_name_part(part)}")]
            for name, file in self._name_files(clips, networks).items()
            if not self.store.has(file)
        }

    def observe(
        self, clips: Clips, networks: Mapping[Name, Observer], share: tuple[int, int] = (0, 1)
    ) -> None:
        """Let networks see each clip that they have not yet seen, and store what they make of it.

        `share` is the rank of this process and the number of ranks, which take parts in turn; the
        first takes the texts. Errors as those of `read`.
        """
        rank, num_ranks = share
        own = [*self._list_parts(clips, networks)[rank::num_ranks], *[NO_CLIPS][rank:]]
        missing = {
            name: set(own).intersection(parts)
            for name, parts in self.list_missing(clips, networks).items()
        }
        names = [name for name, parts in missing.items() if parts]
        for name in names:
            networks[name].network.to(choose_device())
        own = [part for part in own if any(part in parts for parts in missing.values())]
        if any(own):
            self._observe_parts(clips, networks, names, [part for part in own if part])
        files = self._name_files(clips, networks)
        for name in names:
            if NO_CLIPS in missing[name]:
                read = self._read(networks[name], [text for own in clips.texts for text in own])
                self._write(f"{files[name]}.{TEXTS_PART}", read, networks[name])

    def _observe_parts(
        self,
        clips: Clips,
        networks: Mapping[Name, Observer],
        names: Sequence[Name],
        parts: Sequence[range],
    ) -> None:
        """Let the networks of some names see parts, in the same batches as if all of them did."""
        files = self._name_files(clips, networks)
        shapes = read_index(self.preprocess_dir, columns=SHAPE)
        shapes = shapes[shapes["has_video"]].drop_duplicates()
        looks = {name: self._fit(networks[name], clips.places, shapes) for name in names}
        distinct = list(dict.fromkeys(looks.values()))
        rows = clips.rows.iloc[[number for part in parts for number in part]]
        windows = FixedWindows(self._open(), rows.iloc, distinct)
        num_clips = self._count_at_once(clips, networks)
        workers = self.launch.loader_workers
        batches = (batch for _, batch in load_views(windows, len(rows), num_clips, workers))
        for part in parts:
            made: dict[Name, list[Arrays]] = {name: [] for name in names}
            for batch in islice(batches, -(-len(part) // num_clips)):
                for name, look in looks.items():
                    views = [of_clip[distinct.index(look)] for of_clip in batch]
                    made[name].append(self._compute(networks[name].see, views))
                self.beat()
            for name, pieces in made.items():
                arrays = join_arrays(pieces)
                self._write(f"{files[name]}.{_name_part(part)}", arrays, networks[name])

    def _read(self, network: Observer, texts: Sequence[str]) -> Arrays:
        read = []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            read.append(self._compute(network.read, texts[first : first + TEXTS_AT_ONCE]))
            self.beat()
        return join_arrays(read)

    def _open(self) -> PartReader:
        return PartReader(self.preprocess_dir, self.clip)

    def _compute(self, function: Callable[[Any], Arrays], argument: Any) -> Arrays:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.launch.precision)
        with torch.autocast(choose_device().type, dtype, enabled=dtype is not None):
            return function(argument)

    def _write(self, name: str, arrays: Arrays, network: Observer) -> None:
        wrong = [key for key, values in arrays.items() if not np.isfinite(values).all()]
        if wrong:  # else it would be ranked as if it were a number
            raise StageError(
                f"the network {network.name} gives no finite numbers ({', '.join(wrong)}): its "
                "weights are damaged, or training diverged"
            )
        self.store.write(name, arrays)

    def _name_files(self, clips: Clips, networks: Mapping[Name, Observer]) -> dict[Name, str]:
        data = (self._index_digest, clips.digest, self.device_type, self.launch.precision)
        return {name: name_features(own.digest, *data) for name, own in networks.items()}

    @cached_property
    def _index_digest(self) -> str:
        return digest_index(self.preprocess_dir)

    def _count_at_once(self, clips: Clips, networks: Mapping[Name, Observer]) -> int:
        """Return the clips of a batch: `batch_size` views of the network that looks at most."""
        views = (network.look(clips.places).num_views for network in networks.values())
        return max(1, self.params.batch_size // max(views))

    def _list_parts(self, clips: Clips, networks: Mapping[Name, Observer]) -> list[range]:
        """Return the numbers of the clips in whole batches, the same for any number of ranks."""
        numbers = range(len(clips.rows))
        size = BATCHES_PER_PART * self._count_at_once(clips, networks) if networks else 1
        return [numbers[first : first + size] for first in numbers[::size]]

    def _fit(self, network: Observer, places: tuple[float, ...], shapes: pd.DataFrame) -> Look:
        """Return how a network looks at stored videos of these rates and sizes.

        It sees every n-th frame of videos of a multiple of its rate.

        Raises MisfitError if the corpus does not hold what the network was trained on.
        """
        look = network.look(places)
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


def _name_part(part: range) -> str:
    return f"{part.start}-{part.stop}" if part else TEXTS_PART
