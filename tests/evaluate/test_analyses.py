"""The analyses: against slow loops, constructed features, hooks of the test, and other orders."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluate.world import make_clips
from tests.stages.conftest import EXPORTED
from tests.tiny import TINY_MODEL
from tests.train.corpus import SHARED_MODEL
from vatt.corpus.tokenizer import Tokenizer
from vatt.evaluate import drawn
from vatt.evaluate.analyses import (
    EDGES,
    Points,
    analyse_modalities,
    analyse_similarities,
    collect,
    compare_pairs,
    keep_whole,
    reduce,
    tell_modalities,
)
from vatt.evaluate.drawn import draw_inner
from vatt.evaluate.features import Clips
from vatt.evaluate.networks import Embedder, InnerEmbedder
from vatt.evaluate.retrieval import Search
from vatt.loading.loader import Views
from vatt.model.vatt import Vatt
from vatt.params import ModelParams
from vatt.weights.inference import Exported

Random = np.random.Generator


@pytest.fixture
def random() -> Random:
    return np.random.default_rng(0)


def make_search(random: Random, num_clips: int, texts_of_each: int) -> Search:
    """Texts near to their videos, some of them equally near to another."""
    items = random.normal(size=(num_clips, 5))
    items[1:2] = items[:1]
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    right = np.repeat(np.arange(num_clips), texts_of_each)
    queries = items[right] + 0.3 * random.normal(size=(len(right), 5))
    queries[:1] = items[:1]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    texts = [f"text {number}" for number in range(len(right))]
    samples = [[number] for number in range(num_clips)]
    return Search(queries, items, right, samples, texts, [f"a/{n}.mp4" for n in right])


def test_similarities_are_those_of_slow_loops_in_any_order(random: Random) -> None:
    search = make_search(random, 12, 2)
    own, others, shares = [], [], []
    for query, right in zip(search.queries, search.right, strict=True):
        values = [float(sum(query * item)) for item in search.items]
        wrong = [value for number, value in enumerate(values) if number != right]
        own.append(values[right])
        others += wrong
        shares += [(values[right] > x) + (abs(values[right] - x) < 1e-12) / 2 for x in wrong]
    found = compare_pairs(search)
    np.testing.assert_allclose(sorted(found[0]), sorted(own), atol=1e-6)
    np.testing.assert_allclose(sorted(found[1]), sorted(others), atol=1e-6)
    assert found[2] == pytest.approx(np.mean(shares), abs=1e-3)

    analysis = analyse_similarities(
        {"text_to_video": search, "audio_to_video": make_search(random, 0, 2)}
    )
    assert analysis is not None
    assert set(analysis.data["direction"]) == {"text to video"}  # of the other there is nothing
    for name, values in (("pairs", own), ("others", others)):
        for start, end, density in zip(EDGES[:-1], EDGES[1:], analysis.data[name], strict=True):
            last = end == EDGES[-1]
            inside = sum(start <= value and (value < end or last) for value in values)
            assert density == pytest.approx(inside / len(values) / (end - start), abs=1e-6)

    order = random.permutation(len(search.right))
    turned = search._replace(
        queries=search.queries[order],
        right=search.right[order],
        texts=[search.texts[number] for number in order],
        videos=[search.videos[number] for number in order],
    )
    again = analyse_similarities({"text_to_video": turned})
    assert again is not None
    assert again.svg == analysis.svg


def make_points(random: Random, shift: float, num_files: int = 40) -> tuple[Points, list[str]]:
    """Two modalities, `shift` apart along one of eight axes; each file has a point of both."""
    features = random.normal(size=(2 * num_files, 8))
    features[num_files:, 3] += shift
    modalities = ["video"] * num_files + ["text"] * num_files
    clips = np.tile(np.arange(num_files), 2)
    return Points(features, modalities, clips), [f"{clip}.mp4" for clip in clips]


def test_modalities_are_told_apart_where_they_are_apart_and_only_there(random: Random) -> None:
    apart, files = make_points(random, 20.0)
    assert tell_modalities(apart, files) == 1
    mixed, files = make_points(random, 0.0, 400)
    accuracy = tell_modalities(mixed, files)
    assert accuracy == pytest.approx(0.5, abs=0.06)
    order = random.permutation(800)
    turned = Points(mixed.features[order], [mixed.modalities[n] for n in order], mixed.clips[order])
    assert tell_modalities(turned, [files[n] for n in order]) == pytest.approx(accuracy, abs=1e-3)
    assert tell_modalities(apart, ["one.mp4"] * 80) is None
    assert tell_modalities(Points(apart.features, ["video"] * 80, apart.clips), files) is None


def test_what_is_learned_of_a_file_says_nothing_of_another(random: Random) -> None:
    """Each file has an axis of its own, by which both of its points, of one kind, are known."""
    features = np.repeat(np.eye(40), 2, axis=0)
    modalities = np.repeat(random.permutation(["video", "text"] * 20), 2).tolist()
    points = Points(features, modalities, np.arange(80))
    known = tell_modalities(points, [f"{number}.mp4" for number in range(80)])
    unknown = tell_modalities(points, [f"{number // 2}.mp4" for number in range(80)])
    assert known is not None
    assert unknown is not None
    assert known > 0.85
    assert unknown < 0.65


def test_tsne_keeps_neighbours_and_its_bytes(random: Random) -> None:
    centres = 30 * np.eye(3, 16)
    groups = np.repeat(np.arange(3), 20)
    features = centres[groups] + random.normal(size=(60, 16))
    plane = reduce(features)
    assert plane is not None
    distances = np.linalg.norm(plane[:, None] - plane, axis=2) + np.diag([np.inf] * 60)
    assert (groups[distances.argmin(axis=1)] == groups).all()
    again = reduce(features.copy())
    assert again is not None
    assert again.tobytes() == plane.tobytes()
    assert reduce(features[:9]) is None
    assert reduce(np.ones((60, 16))) is None


def make_inner(
    random: Random, num_clips: int, widths: tuple[int, int, int]
) -> tuple[Clips, dict[str, Any]]:
    """Every third clip is silent, every fourth has no text."""
    numbers = np.arange(num_clips)
    names = [f"demo/{number}.mp4" for number in numbers]
    texts = [(f"text {n}", "another") if n % 4 else () for n in numbers]
    clips = make_clips(names, [{}] * num_clips, texts, has_audio=numbers % 3 > 0, key=names)
    arrays = {}
    for name, width in zip(("video", "audio", "text"), widths, strict=True):
        rows = numbers[numbers % 4 > 0] if name == "text" else numbers
        for kind in ("input", "feature"):
            arrays[f"{name}_{kind}"] = np.repeat(rows[:, None] + 1.0, width, axis=1)
    for name in ("video_va", "audio_va", "video_vt", "text_vt"):
        rows = numbers[numbers % 4 > 0] if name == "text_vt" else numbers
        arrays[name] = random.normal(size=(len(rows), 6))
    return clips, arrays


def test_points_are_of_the_clips_that_have_a_modality(random: Random) -> None:
    clips, arrays = make_inner(random, 12, (3, 2, 5))
    points = collect(clips, arrays, "encoder input")
    counts = {name: points.modalities.count(name) for name in ("video", "audio", "text")}
    assert counts == {"video": 12, "audio": 8, "text": 9}
    for row, name, clip in zip(points.features, points.modalities, points.clips, strict=True):
        width = {"video": 3, "audio": 2, "text": 5}[name]
        assert row.tolist() == [clip + 1.0] * width + [0.0] * (5 - width)
    whole = keep_whole(points)
    assert sorted(whole.clips.tolist()) == sorted([1, 2, 5, 7, 10, 11] * 3)
    shared = collect(clips, arrays, "video-text space")
    np.testing.assert_allclose(np.linalg.norm(shared.features, axis=1), 1)
    wordless = {name: values for name, values in arrays.items() if "text" not in name}
    assert set(collect(clips, wordless, "encoder input").modalities) == {"video", "audio"}
    analysis = analyse_modalities(clips, wordless, "made of numbers")
    assert analysis is not None
    # One modality alone is compared with nothing.
    assert "video-text space" not in set(analysis.data["space"])
    assert ">text<" not in analysis.svg


def test_the_same_clips_are_drawn_from_any_order(
    random: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn, "MAX_CLIPS", 7)
    clips, _ = make_inner(random, 30, (1, 1, 1))
    first, _ = draw_inner(clips, {})
    order = random.permutation(30)
    texts = [clips.texts[number] for number in order]
    turned = dataclasses.replace(clips, rows=clips.rows.iloc[order], texts=texts)
    second, _ = draw_inner(turned, {})
    assert (len(first.rows), first.digest) == (7, second.digest)
    for key, own in zip(first.rows["key"], first.texts, strict=True):
        number = int(key.removeprefix("demo/").removesuffix(".mp4"))
        assert own == ((f"text {number}",) if number % 4 else ())
    assert len({row["key"] for _, row in first.rows.iterrows()}) == 7


def open_inner(model: ModelParams, tokenizer: Tokenizer) -> InnerEmbedder:
    params = EXPORTED.model_copy(update={"model": model, "vocab_size": tokenizer.vocab_size})
    torch.manual_seed(4)
    network = Vatt(model, params.clip, params.vocab_size).eval()
    return InnerEmbedder(Embedder(Exported(network, tokenizer, params), "digest", "name"))


@pytest.mark.parametrize(("model", "shares"), [(SHARED_MODEL, True), (TINY_MODEL, False)])
def test_nodes_and_inputs_are_what_a_hook_of_the_test_sees(
    small_corpus: Path, model: ModelParams, shares: bool
) -> None:
    tokenizer = Tokenizer(small_corpus / "tokenizer.model")
    inner = open_inner(model, tokenizer)
    network, clip = inner.network, inner.observed.exported.params.clip
    video = torch.rand(3, clip.num_frames, clip.frame_size_px, clip.frame_size_px, 3) * 2 - 1
    audio = torch.rand(3, clip.num_samples) * 2 - 1
    texts = ["it begins", "it goes on and on"]
    ids = tokenizer.encode(texts, clip.num_tokens)
    views = [Views({"video": video[n : n + 1], "audio": audio[n : n + 1]}, 1) for n in range(3)]
    found = {**inner.see(views), **inner.read(texts)}
    signals = {"video": video, "audio": audio, "text": ids}
    for name, signal in signals.items():
        tower: Any = getattr(network, name)
        for number, one in enumerate(signal):
            entered: list[torch.Tensor] = []
            outputs: list[torch.Tensor] = []
            handles = [
                tower.encoder.blocks[0].register_forward_pre_hook(
                    lambda _, arguments, seen=entered: seen.append(arguments[0])
                ),
                *(
                    block.mlp[-1].register_forward_hook(
                        lambda _, __, output, seen=outputs: seen.append(output)
                    )
                    for block in tower.encoder.blocks
                ),
            ]
            with torch.no_grad():
                feature = tower(one[None], all_tokens=True)[0, 0]
            for handle in handles:
                handle.remove()
            is_kept = [True] + ([bool(x) for x in one] if name == "text" else [True] * 10**6)
            kept = [place for place in range(len(entered[0])) if is_kept[place]]
            expected = {"input": entered[0][kept[1:]].mean(0), "feature": feature}
            if shares:
                expected["nodes"] = torch.stack([output[kept].mean(0) for output in outputs])
            for what, values in expected.items():
                np.testing.assert_allclose(
                    found[f"{name}_{what}"][number], values, atol=1e-5, err_msg=f"{name} {what}"
                )
        assert (f"{name}_nodes" in found) == shares
    usual = inner.observed.see(views)
    for name in ("video_va", "audio_va", "video_vt"):
        np.testing.assert_allclose(found[name], usual[name][:, 0], atol=1e-5)
    np.testing.assert_allclose(found["text_vt"], inner.observed.read(texts)["text_vt"], atol=1e-6)
