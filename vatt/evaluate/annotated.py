"""The annotated parts of a split, from their starts to their ends, as further clips to be searched.

A part has a picture and the sentences about it, no sound and no labels: only who searches by text
finds it. A file that has parts is searched by them alone, also where all of them are left out.
"""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vatt.corpus.annotated import AnnotatedPart, read_parts
from vatt.evaluate.features import Clips, Name, SplitReader
from vatt.evaluate.networks import Arrays, Embedder, Observer
from vatt.loading.parts import UncoveredError, cover_part


class Annotated(NamedTuple):
    """The annotated parts of a split."""

    clips: Clips
    """Those whose pictures the corpus has, with `pieces` in their rows, for `PartReader`."""
    files: frozenset[str]
    """The files of all parts, whether they came or not: the source, a slash, the id."""
    left_out: Mapping[str, str]
    """By the name of each other part, why it cannot be searched."""


def read_test(
    reader: SplitReader, networks: Mapping[Name, Observer]
) -> tuple[Clips, dict[Name, Arrays]]:
    """Return the clips and annotated parts of the split test, and what networks make of them.

    The segments of files with parts lose their texts. Of the arrays, `video_vt` and `text_vt` have
    the parts, too.

    Raises:
        StageError: as `SplitReader.read`; or the list of the parts is damaged.
    """
    clips, arrays = reader.read("test", networks)
    parts, files, left_out = find_annotated(reader.preprocess_dir, "test", clips)
    if not files:
        return clips, arrays
    is_kept = np.array([file not in files for file in clips.videos], dtype=bool)
    is_text_kept = np.repeat(is_kept, list(map(len, clips.texts)))
    for name, added in reader.see(parts, pick_embedders(networks)).items():
        own = dict(arrays[name])
        if "text_vt" in own:
            own["text_vt"] = own["text_vt"][is_text_kept]
        for key in {"video_vt", "text_vt"} & added.keys():
            own[key] = np.concatenate([own[key], added[key]]) if key in own else added[key]
        arrays[name] = own
    texts = [own if kept else () for own, kept in zip(clips.texts, is_kept, strict=True)]
    everything = dataclasses.replace(
        parts,
        rows=pd.concat([own for own in (clips.rows, parts.rows) if len(own)], ignore_index=True),
        texts=[*texts, *parts.texts],
        num_parts=len(parts.rows),
        left_out=left_out,
    )
    return everything, arrays


def pick_embedders(networks: Mapping[Name, Observer]) -> dict[Name, Observer]:
    """Return the networks that are searched by text, as they see parts: without sound."""
    return {
        name: dataclasses.replace(network, task="video")
        for name, network in networks.items()
        if isinstance(network, Embedder) and not network.exported.why_textless
    }


def find_annotated(preprocess_dir: Path, split: str, clips: Clips) -> Annotated:
    """Return the annotated parts of a split, of which `clips` are all segments.

    Several sentences about the same time are about one part.

    Raises:
        StageError: the list of the parts is damaged.
    """
    parts: defaultdict[tuple[str, float, float | None], list[AnnotatedPart]] = defaultdict(list)
    for part in read_parts(preprocess_dir, split):
        parts[f"{part.source}/{part.video_id}", part.start_s, part.end_s].append(part)
    files = frozenset(file for file, _, _ in parts)
    segments: defaultdict[str, list[Any]] = defaultdict(list)
    has_parts = [file in files for file in clips.videos]
    for row in clips.rows[has_parts].itertuples():
        segments[f"{row.source}/{row.video_id}"].append(row)
    found, texts, left_out = [], [], {}
    for (file, start_s, end_s), same in parts.items():
        own = segments[file]
        try:
            pieces = cover_part(own, start_s, end_s)
        except UncoveredError as error:
            end = "" if end_s is None else f"{end_s:.2f}"
            left_out[f"{file}, {start_s:.2f}–{end} s"] = str(error)
            continue
        times = {"start_s": start_s, "end_s": own[-1].end_s if end_s is None else end_s}
        fields = own[0]._asdict() | times | {"pieces": pieces}
        fields |= {"num_frames": sum(piece.num_frames for piece in pieces), "labels": "{}"}
        fields |= {"has_video": True, "has_audio": False, "descriptions": "[]"}
        fields |= {"height_px": pieces[0].sample.height_px, "width_px": pieces[0].sample.width_px}
        found.append(fields)
        texts.append(tuple(dict.fromkeys(part.text for part in same)))
    rows = pd.DataFrame(found, columns=[*clips.rows, "pieces"])
    content = rows.to_csv(index=False) + json.dumps([texts, clips.digest, sorted(files)])
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Annotated(Clips(rows, texts, clips.places, digest), files, left_out)
