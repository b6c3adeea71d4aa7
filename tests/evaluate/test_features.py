"""The clips of a split: which are one sample, what networks make of them, what is kept."""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.evaluate.world import describe, make_clips
from tests.preprocess.runs import PARAMS as PREPROCESS
from tests.tiny import TINY_MODEL
from tests.train.corpus import LAUNCH
from vatt.core.errors import StageError
from vatt.corpus.index import read_index
from vatt.corpus.shards import LocalShards
from vatt.corpus.tokenizer import Tokenizer
from vatt.evaluate import feature_store, features
from vatt.evaluate.feature_store import SPARED_S, FeatureStore, name_features
from vatt.evaluate.features import MisfitError, SplitReader
from vatt.evaluate.networks import Arrays, Embedder, Labeller, Observer
from vatt.loading.augmentation import centre_view
from vatt.loading.clips import ClipReader
from vatt.loading.tasks import TaskInput
from vatt.media.video import Box
from vatt.model.vatt import Vatt
from vatt.params import ClipParams, EvaluateParams
from vatt.weights.export import ExportedParams
from vatt.weights.inference import Exported


def test_parts_of_a_file_with_the_same_annotations_are_one_sample() -> None:
    names = ["a.mp4, 0 s", "a.mp4, 10 s", "a.mp4, 20 s", "b.mp4, 0 s", "b.mp4, 10 s", "c.mp4, 0 s"]
    labels = [{"t": ["x"]}, {"t": ["x"]}, {"t": ["y"]}, {"t": ["x"]}, {"t": ["x"]}, {}]
    texts = [("p",), ("p",), ("q",), ("p",), ("r",), ("p",)]
    clips = make_clips(names, labels, texts)
    described = describe(clips)
    assert described.find_pairs("text_to_video") == [[0, 1], [2], [3], [4], [5]]
    assert described.find_labelled("t", ["video"]) == [[0, 1], [2], [3], [4]]
    # Narration differs from clip to clip of one file: it makes no samples.
    assert clips.find_pairs("text_to_video") == [[0], [1], [2], [3], [4], [5]]
    assert clips.find_labelled("t", ["video"]) == [[0, 1], [2], [3, 4]]
    silent = describe(clips, has_audio=np.arange(6) != 1)
    assert silent.find_pairs("audio_to_video") == [[0], [2], [3], [4], [5]]
    assert silent.find_labelled("t", ["video", "audio"]) == [[0], [2], [3], [4]]


def test_events_apart_in_time_are_samples_of_their_own() -> None:
    """Of a match, kicks at 0 to 20, 30 to 40 and 50 to 60 s; then the next match begins."""
    times = [0, 10, 30, 50, 0]
    names = [f"{'b' if number == 4 else 'a'}.mp4, {time} s" for number, time in enumerate(times)]
    clips = make_clips(names, [{"t": ["kick"]}] * 5, [("A kick.",)] * 5)
    expected = [[0, 1], [2], [3], [4]]
    assert describe(clips).find_pairs("text_to_video") == expected
    assert clips.find_labelled("t", ["video"]) == expected
    # A part without sound does not part those around it.
    whole = describe(
        clips,
        start_s=[0, 10, 20.0000001, 30, 0],
        end_s=[10, 20, 30, 40, 10],
        has_audio=np.arange(5) != 1,
    )
    assert whole.find_labelled("t", ["audio"]) == [[0, 2, 3], [4]]


@pytest.mark.parametrize(
    ("places", "sample", "expected"),
    [
        ((0.0, 0.5, 1.0), [4], [(4, 0), (4, 0.5), (4, 1)]),
        # The middle, which is there for learning, is left out.
        ((0.5, 0.0, 0.5, 1.0), [4], [(4, 0), (4, 0.5), (4, 1)]),
        ((0.0, 0.5, 1.0), [1, 2, 3], [(1, 0), (2, 0.5), (3, 1)]),
        ((0.0, 1.0), [1, 2], [(1, 0), (2, 1)]),
        ((0.5,), [1, 2, 3], [(2, 0.5)]),
    ],
)
def test_windows_of_a_sample_are_spread_over_its_clips(
    places: tuple[float, ...], sample: list[int], expected: list[tuple[int, float]]
) -> None:
    clips = make_clips([str(number) for number in range(5)], [{}] * 5, [()] * 5, places=places)
    values = np.array([[(number, place) for place in places] for number in range(5)])
    assert [tuple(window) for window in clips.see_samples(values, [sample])[0]] == expected
    assert clips.see_samples(values, []).shape == (0, len(expected), 2)


CLIP = ClipParams(num_frames=4, frame_size_px=32, num_samples=9600, num_tokens=8, num_candidates=1)
MODEL = TINY_MODEL.model_copy(update={"audio_patch": 480})
PARAMS = EvaluateParams(model="here", num_windows=3, batch_size=6, lrc_steps=0, probe_tasks=None)
RATE_HZ = PREPROCESS.frame_rate_hz


def make_embedder(corpus: Path, seed: int) -> Embedder:
    torch.manual_seed(seed)
    tokenizer = Tokenizer(corpus / "tokenizer.model")
    network = Vatt(MODEL, CLIP, tokenizer.vocab_size).eval()
    sizes = {"frame_rate_hz": RATE_HZ, "vocab_size": tokenizer.vocab_size, "seed": seed}
    params = ExportedParams(clip=CLIP, model=MODEL, code_version="0", **sizes)
    return Embedder(Exported(network, tokenizer, params), f"embedder {seed}", "here")


def change_params(embedder: Embedder, **updates: object) -> Embedder:
    params = embedder.exported.params.model_copy(update=updates)
    return dataclasses.replace(
        embedder, exported=dataclasses.replace(embedder.exported, params=params)
    )


def make_labeller(network: nn.Module, seen: TaskInput) -> Labeller:
    return Labeller(network, seen, RATE_HZ, seen.task, "here")


def open_reader(corpus: Path, folder: Path) -> SplitReader:
    return SplitReader(corpus, CLIP, PARAMS, FeatureStore(folder), LAUNCH)


def read_one(corpus: Path, folder: Path, network: Observer) -> Arrays:
    return open_reader(corpus, folder).read("test", {0: network})[1][0]


def test_features_equal_a_slow_loop_over_single_windows(small_corpus: Path, tmp_path: Path) -> None:
    networks = [make_embedder(small_corpus, seed) for seed in (1, 2)]
    clips, features = open_reader(small_corpus, tmp_path).read("test", dict(enumerate(networks)))
    reader = ClipReader(small_corpus, CLIP)
    rows = read_index(small_corpus, split="test")
    assert clips.places == (0.0, 0.5, 1.0)
    assert len(clips.texts) == len(rows) == 5
    texts = [text for of_clip in clips.texts for text in of_clip]
    for own, embedder in enumerate(networks):
        network, arrays = embedder.exported.model, features[own]
        for number, (_, row) in enumerate(rows.iterrows()):
            for window, place in enumerate(clips.places):
                start = round(place * (row.num_frames - CLIP.num_frames))
                view = centre_view((int(row.height_px), int(row.width_px)), 32)
                video = reader.read_video(row, start, view) * 2 - 1
                audio = reader.read_audio(row, start)
                with torch.no_grad():
                    seen = network.encode_video(video[None])
                    heard = network.encode_audio(audio[None])
                    va, vt = network.video_projection(seen)
                    expected = {"video": seen, "audio": heard, "video_va": va, "video_vt": vt}
                    expected["audio_va"] = network.audio_projection(heard)
                for name, value in expected.items():
                    np.testing.assert_allclose(arrays[name][number, window], value[0], atol=2e-5)
        tokens = embedder.exported.tokenizer.encode(texts, CLIP.num_tokens)
        with torch.no_grad():
            read = network.text_projection(network.encode_text(tokens))
        np.testing.assert_allclose(arrays["text_vt"], read, atol=2e-5)
    assert not np.allclose(features[0]["video"], features[1]["video"])


def test_a_network_of_half_the_rate_sees_every_second_frame(
    small_corpus: Path, tmp_path: Path
) -> None:
    embedder = change_params(make_embedder(small_corpus, 1), frame_rate_hz=RATE_HZ / 2)
    arrays = read_one(small_corpus, tmp_path, embedder)
    reader = ClipReader(small_corpus, CLIP.model_copy(update={"num_frames": 8}))
    for number, (_, row) in enumerate(read_index(small_corpus, split="test").iterrows()):
        for window, place in enumerate((0.0, 0.5, 1.0)):
            start = round(place * (row.num_frames - 8))
            view = centre_view((int(row.height_px), int(row.width_px)), 32)
            frames = reader.read_video(row, start, view)[::2] * 2 - 1
            with torch.no_grad():
                expected = embedder.exported.model.encode_video(frames[None])[0]
            np.testing.assert_allclose(arrays["video"][number, window], expected, atol=2e-5)


class Brightness(nn.Module):
    """Says of a view how bright its left and its right half are, and how loud its sound is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        half = video.shape[3] // 2
        sides = [part.mean((1, 2, 3, 4)) for part in (video[..., :half, :], video[..., half:, :])]
        return torch.stack([*sides, audio.square().mean(1)], dim=1) * self.scale


def test_logits_are_averaged_over_crops(small_corpus: Path, tmp_path: Path) -> None:
    """Of a wide picture, three squares: at the left end, in the middle, at the right end."""
    labeller = make_labeller(Brightness(), TaskInput("audio_visual", CLIP, audio_stride=2))
    arrays = read_one(small_corpus, tmp_path, labeller)
    reader = ClipReader(small_corpus, CLIP)
    rows = read_index(small_corpus, split="test")
    shapes = set()
    for number, (_, row) in enumerate(rows.iterrows()):
        if not row.has_video:
            continue
        centre = centre_view((int(row.height_px), int(row.width_px)), 32)
        last = centre.size_px[1] - 32
        shapes.add(last > 0)
        for window, place in enumerate((0.0, 0.5, 1.0)):
            start = round(place * (row.num_frames - CLIP.num_frames))
            crops = [
                reader.read_video(row, start, centre._replace(part=Box(0, left, 32, 32))) * 2 - 1
                for left in (0, round(last / 2), last)
            ]
            sides = [[float(crop[..., a : a + 16, :].mean()) for a in (0, 16)] for crop in crops]
            sound = reader.read_audio(row, start)[::2]
            expected = [*np.mean(sides, axis=0), float(sound.square().mean())]
            np.testing.assert_allclose(arrays["logits"][number, window], expected, atol=1e-5)
    assert shapes == {True}  # of squares, all crops would be the same


def test_an_image_is_the_frame_in_the_middle(small_corpus: Path, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(2), nn.Linear(32 * 32 * 3, 1), nn.Flatten())
    labeller = make_labeller(network, TaskInput("image", CLIP))
    arrays = read_one(small_corpus, tmp_path, labeller)
    assert arrays["logits"].shape == (5, 1, 4)
    repeated = arrays["logits"][:, 0]
    np.testing.assert_allclose(repeated, repeated[:, :1].repeat(4, axis=1), atol=1e-6)


def test_each_clip_is_read_once_for_all_networks_and_then_never_again(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[str, int, int]] = []

    def read(self: LocalShards, shard: str, begin: int, end: int) -> bytes:
        reads.append((shard, begin, end))
        return original(self, shard, begin, end)

    original = LocalShards.read
    monkeypatch.setattr(LocalShards, "read", read)
    sound = TaskInput("audio", CLIP.model_copy(update={"num_samples": 4800}))
    network = nn.Sequential(nn.Linear(4800, 3))
    embedder = make_embedder(small_corpus, 1)
    observers: dict[str, Observer] = {
        "one": embedder,
        "two": make_embedder(small_corpus, 2),
        "sound": make_labeller(network, sound),
    }
    reader = open_reader(small_corpus, tmp_path)
    reader.read("test", {})
    narrated = list(reads)  # clips with words are opened for these, too
    assert len(narrated) == 4
    reads.clear()
    _, first = reader.read("test", observers)
    assert len(set(reads)) == len(reads) == 5
    reads.clear()
    again = open_reader(small_corpus, tmp_path)
    _, second = again.read("test", observers)
    assert reads == narrated
    assert first.keys() == second.keys() == observers.keys()
    for own, kept in zip(first.values(), (second[name] for name in first), strict=True):
        assert own.keys() == kept.keys()
        assert all(np.array_equal(own[name], kept[name]) for name in own)
    reads.clear()
    again.read("test", {"one": dataclasses.replace(embedder, digest="other weights")})
    assert len(set(reads)) == 5
    reads.clear()
    again.device_type = "meta"
    again.read("test", {"one": embedder})  # what other hardware made is kept apart
    assert len(set(reads)) == 5


def test_a_killed_run_goes_on_and_ranks_share_the_clips(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five clips are three parts: the first rank has seen two, then all else was killed."""
    monkeypatch.setattr(features, "BATCHES_PER_PART", 1)
    networks: dict[str, Observer] = {
        name: make_embedder(small_corpus, 1) for name in ("one", "two")
    }
    networks["two"] = make_embedder(small_corpus, 2)
    whole = open_reader(small_corpus, tmp_path / "whole")
    _, expected = whole.read("test", networks)
    reader, beats = open_reader(small_corpus, tmp_path / "shared"), []
    clips = reader.read_clips("test")
    assert [len(parts) for parts in reader.list_missing(clips, networks).values()] == [4, 4]
    reader.beat = lambda: beats.append(0)
    reader.observe(clips, networks, (0, 2))
    left = reader.list_missing(clips, networks)
    assert left == {name: [range(2, 4)] for name in networks}
    damaged = next((tmp_path / "shared").glob("*.0-2.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-3])
    again = open_reader(small_corpus, tmp_path / "shared")
    again.beat = lambda: beats.append(1)
    _, found = again.read("test", networks)
    # Clips 0, 1 and 4, the texts by both; narration, clips 2 and 3; again by one network 0 and 1.
    assert beats == [0] * 4 + [1] * 3
    for name, arrays in expected.items():
        assert arrays.keys() == found[name].keys()
        assert all(np.array_equal(arrays[key], found[name][key]) for key in arrays)
    assert len(list((tmp_path / "shared").iterdir())) == 2


def test_no_long_work_is_done_without_a_sign_of_life(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while narration is looked up, nor while many texts are read."""
    monkeypatch.setattr(features, "TEXTS_AT_ONCE", 2)
    reader, work = open_reader(small_corpus, tmp_path), [0]
    reader.beat = lambda: work.append(0)
    read_narration, read = ClipReader.read_narration, Embedder.read

    def look_up(self: ClipReader, *arguments: Any) -> list[str]:
        work[-1] += 1
        return read_narration(self, *arguments)

    def embed(self: Embedder, texts: Sequence[str]) -> Arrays:
        work[-1] += len(texts)
        return read(self, texts)

    monkeypatch.setattr(ClipReader, "read_narration", look_up)
    monkeypatch.setattr(Embedder, "read", embed)
    clips = reader.read_clips("test")
    assert (sum(work), max(work)) == (5, 2)
    work[:] = [0]
    reader.observe(clips, {0: make_embedder(small_corpus, 1)})
    assert (sum(work), max(work)) == (4, 2)  # a clip has no narration


def test_networks_that_do_not_fit_are_refused(small_corpus: Path, tmp_path: Path) -> None:
    embedder = make_embedder(small_corpus, 1)
    faster = change_params(embedder, frame_rate_hz=12.5)
    with pytest.raises(MisfitError, match=r"frame_rate_hz must be 12\.5 or a multiple of it"):
        read_one(small_corpus, tmp_path, faster)
    larger = change_params(embedder, clip=CLIP.model_copy(update={"frame_size_px": 128}))
    with pytest.raises(MisfitError, match=r"pictures of 64 pixels.*short_side_px must be 128 or"):
        read_one(small_corpus, tmp_path, larger)
    reader = open_reader(small_corpus, tmp_path)
    clips, arrays = reader.read("nothing", {"one": embedder})  # a split without clips
    assert (clips.texts, arrays) == ([], {"one": {}})
    with torch.no_grad():
        next(embedder.exported.model.parameters()).fill_(float("nan"))
    with pytest.raises(StageError, match="network here gives no finite numbers"):
        read_one(small_corpus, tmp_path, embedder)


def test_what_is_damaged_or_absent_is_not_there(tmp_path: Path) -> None:
    features = {"video": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2]}
    kept = FeatureStore(tmp_path)
    assert kept.read("a") is None
    kept.write("a", features)
    found = FeatureStore(tmp_path).read("a") or {}
    assert np.array_equal(found["video"], features["video"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert FeatureStore(tmp_path).read("a") is None


def test_what_a_run_did_not_use_goes(tmp_path: Path) -> None:
    first = FeatureStore(tmp_path)
    for name in ("a", "b"):
        first.write(name, {"x": np.zeros(1)})
    for name in ("c.safetensors.partial", "e.0-8.safetensors"):
        (tmp_path / name).write_bytes(b"")
    second = FeatureStore(tmp_path)
    second.read("b")
    second.write("d", {})
    second.remove_others()
    used = {"b.safetensors", "d.safetensors"}
    # Another evaluation may be making what is not whole.
    making = {"c.safetensors.partial", "e.0-8.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == used | making
    for name in making:
        os.utime(tmp_path / name, times=(0, time.time() - 1.1 * SPARED_S))
    second.remove_others()
    assert {path.name for path in tmp_path.iterdir()} == used


def test_what_decides_features_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [name_features("net", "data", "clips")]
    assert name_features("net", "data", "clips") == names[0]
    names += [name_features("other", "data", "clips"), name_features("net", "data", "others")]
    for folder in ("media", "download"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(feature_store, "CODE", ("media",))
    monkeypatch.setattr("vatt.core.code.PACKAGE_DIR", tmp_path)
    for path, content in (
        ("media/video.py", "one"),
        ("media/video.py", "two"),
        ("download/site.py", "how files came"),
    ):
        (tmp_path / path).write_text(content)
        feature_store._digest_code.cache_clear()
        names.append(name_features("net", "data", "clips"))
    feature_store._digest_code.cache_clear()
    assert len(set(names)) == 5
    assert names[-1] == names[-2]
