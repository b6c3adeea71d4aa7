"""Retrieval of YouCook2's steps, from the official list to the report, against a slow loop.

The loop decodes the media files themselves and knows nothing of segments, shards and the index.
"""

import json
import shutil
from contextlib import chdir
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from tests.download.made_files import write_files
from tests.preprocess.runs import PARAMS as PREPROCESS
from tests.stages.conftest import EVALUATE, EXPORTED, ROOT, RUN, SHORT, run_evaluate
from tests.tiny import LOSS
from tests.train.corpus import LAUNCH
from vatt import load
from vatt.core.files import write_json
from vatt.evaluate.networks import Embedder
from vatt.params import DownloadParams, load_params
from vatt.stages import download, evaluate, preprocess, pretrain, validate
from vatt.weights.export import build_untrained

RATE_HZ = PREPROCESS.frame_rate_hz
LENGTHS_S = {"soup_______": 14.0, "bread______": 9.0, "salad______": 8.0}
STEPS: dict[str, list[tuple[float, float, str]]] = {
    "soup_______": [
        (1, 3, "cut the red tomato"),
        (3, 6, "wash the green lettuce"),  # over the border of two segments
        (2.5, 11.3, "pour it into the blue bowl"),  # over several, and over the other steps
        (9, 13, "at the end add white salt"),
        (9, 13, "we salt it"),  # the same part
        (12.2, 14.7, "serve the soup"),  # rounded: the file ends at 14 s
        (12, 20, "eat the soup"),  # not in the file
        (30, 40, "wash the dishes"),
    ],
    "bread______": [
        (0, 9, "knead the dough"),
        (3.9, 4.3, "turn it"),  # shorter than a window
        (4, 8, "bake it"),  # a segment
    ],
    "salad______": [(0, 1, "mix"), (1, 2, "mix"), (2, 3.5, "stir"), (5, 7, "serve the soup")],
    "gone_______": [(0, 5, "boil water"), (5, 9, "boil more")],
    "broken_____": [(0, 5, "fry an egg")],
}
LEFT_OUT = {
    "youcook2/soup_______.mp4, 12.00–20.00 s": "no picture is stored from 14.00 to 20.00 s",
    "youcook2/soup_______.mp4, 30.00–40.00 s": "no picture is stored from 30.00 to 40.00 s",
    "youcook2/gone_______, 0.00–5.00 s": "its file is in quarantine.jsonl",
    "youcook2/gone_______, 5.00–9.00 s": "its file is in quarantine.jsonl",
    "youcook2/broken_____.mp4, 0.00–5.00 s": "its file is in quarantine.jsonl",
}
CLIP = EXPORTED.clip.model_copy(update={"frame_size_px": 64})  # as stored: nothing is scaled
CAPTIONS = "WEBVTT\n\n00:00.000 --> 00:08.000\ncut and wash it, pour and salt and serve the soup\n"


def write_video(path: Path, length_s: float, seed: int) -> None:
    """Write a video at 10 Hz of slow waves of grey, which no coding changes by more than a step."""
    rng = np.random.default_rng(seed)
    rates, phases = rng.uniform(0.3, 2.0, 4), rng.uniform(0, 6.3, 4)
    slopes = rng.uniform(-0.3, 0.3, (2, 4))
    angles = np.arange(64)[:, None, None] * slopes[0] + np.arange(64)[:, None] * slopes[1] + phases
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "0"})
        stream.width, stream.height = 64, 64
        for number in range(round(10 * length_s)):
            waves = np.sin(angles + rates * number / 10).mean(-1, keepdims=True)
            pixels = np.uint8(128 + 120 * waves).repeat(3, axis=2)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All stages on YouCook2; the folder, and what evaluate measured."""
    folder = tmp_path_factory.mktemp("youcook2")
    write_inputs(folder)
    recipes: dict[str, Any] = {"kind": "youcook2", "name": "youcook2"}
    narrated: dict[str, Any] = {"kind": "folder", "name": "narrated", "url": "narrated"}
    with chdir(folder):
        make_corpus(
            recipes | {"annotations": "lists", "media": "media"},
            narrated | {"validation_rate": 0.0, "test_rate": 0.0},
        )
        pretrain.main(RUN, CLIP, EXPORTED.model, LOSS, SHORT, LAUNCH)
        return folder, dict(run_evaluate())


def write_inputs(folder: Path) -> None:
    """Write videos of recipes with the official list, and narrated videos to learn from."""
    for seed, (name, length_s) in enumerate(LENGTHS_S.items()):
        write_video(folder / f"media/{name}.mp4", length_s, seed)
    for seed in range(8):
        write_video(folder / f"narrated/{seed}.mp4", 8.0, 100 + seed)
        write_files(folder / "narrated", {f"{seed}.vtt": CAPTIONS})
    database = {
        name: {
            "duration": 14.0,
            "subset": "validation",
            "recipe_type": "113",
            "annotations": [
                {"segment": [start, end], "id": number, "sentence": text}
                for number, (start, end, text) in enumerate(steps)
            ],
        }
        for name, steps in STEPS.items()
    }
    lists = {"youcookii_annotations_trainval.json": json.dumps({"database": database})}
    write_files(folder / "lists", lists)
    write_files(folder / "media", {"broken_____.mp4": "no video"})


def make_corpus(*sources: dict[str, Any]) -> None:
    """Run download, preprocess and validate in the current folder."""
    download.main(RUN, DownloadParams.model_validate({"sources": sources}))
    preprocess.main(PREPROCESS.model_copy(update={"video_crf": 0}), LAUNCH)
    limits = load_params(ROOT / "params.yaml").validation
    limits = limits.model_copy(update={"max_quarantined_rate": 0.5, "max_duplicate_rate": 1.0})
    write_json(Path("metrics/validate.json"), validate.main(limits))


def decode_slowly(path: Path) -> torch.Tensor:
    """Return what is shown at each fifth of a second of a grey video of 10 Hz, in [-1, 1]."""
    with av.open(str(path)) as container:
        lumas = [frame.to_ndarray()[:64] for frame in container.decode(video=0)]
    grey = (torch.from_numpy(np.stack(lumas[::2])).float() - 16) / 219  # from 16 to 235 in files
    return (2 * grey - 1)[..., None].expand(-1, -1, -1, 3)


def see_slowly(shown: torch.Tensor, start_s: float, end_s: float) -> torch.Tensor:
    """Return the windows of a part: the first and the last that lie in it."""
    own = [n for n in range(len(shown)) if start_s - 1e-6 <= n / RATE_HZ < end_s - 1e-6]
    starts = [0, max(0, len(own) - CLIP.num_frames)]
    assert EVALUATE.num_windows == len(starts)
    numbers = [own[first : first + CLIP.num_frames] for first in starts]
    frames = [[of[n % len(of)] for n in range(CLIP.num_frames)] for of in numbers]
    return torch.stack([shown[of] for of in frames])


def rank_slowly(network: Any, folder: Path) -> list[int]:
    """Return the rank of the own part of each sentence, by brute force."""
    parts: dict[tuple[str, float, float], list[str]] = {}
    for name, steps in STEPS.items():
        for start_s, end_s, text in steps:
            if end_s <= LENGTHS_S.get(name, 0.0) + 1:
                parts.setdefault((name, start_s, end_s), []).append(text)
    items, queries = [], []
    for number, ((name, start_s, end_s), texts) in enumerate(parts.items()):
        shown = decode_slowly(folder / f"media/{name}.mp4")
        windows = see_slowly(shown, start_s, end_s)
        items.append(network.embed_video(windows).vt.mean(0).double())
        queries += [(number, network.embed_text([text])[0].double()) for text in texts]
    ranks = []
    for own, query in queries:
        similarities = [float(torch.cosine_similarity(query, item, dim=0)) for item in items]
        ranks.append(1 + sum(other > similarities[own] for other in similarities))
    return ranks


def test_steps_are_searched_from_their_starts_to_their_ends(
    evaluated: tuple[Path, dict[str, Any]],
) -> None:
    folder, metrics = evaluated
    assert metrics["retrieval_left_out"] == LEFT_OUT
    assert metrics["retrieval_sources"] == {"youcook2": 13}
    assert (metrics["text_to_video_pairs"], metrics["text_to_video_items"]) == (13, 12)
    assert metrics["chance"]["text_to_video_r5"] == pytest.approx(5 / 12)
    trained = load(folder / "data/pretrain")
    untrained = replace(trained, model=build_untrained(trained.params).eval())
    for network, measured in ((trained, metrics), (untrained, metrics["untrained"])):
        ranks = np.array(rank_slowly(network, folder))
        for k in (1, 5, 10):
            assert measured[f"text_to_video_r{k}"] == pytest.approx((ranks <= k).mean())
        assert measured["text_to_video_median_rank"] == np.median(ranks)
    published = {(row["model"], row["measure"]): row["value"] for row in metrics["published"]}
    assert published["MIL-NCE", "r10"] == 0.512
    page = (folder / "data/evaluate/report.html").read_text(encoding="utf-8")
    for shown in (
        "Text to video, 13 queries among 12 clips",
        "12 clips are annotated parts, from their starts to their ends.",
        "5 annotated parts are left out. youcook2/broken_____.mp4, 0.00–5.00 s: its file is in",
    ):
        assert shown in page
    times = [f"{start:.1f}–{end:.1f}\u00a0s" for start, end, _ in STEPS["soup_______"]]
    assert any(shown in page for shown in times)


def test_a_labels_csv_may_have_times_for_some_videos(
    evaluated: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files without times are searched as before, and no text of a file with times gets lost."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(evaluated[0] / "data/pretrain", "data/pretrain")
    shutil.copytree(evaluated[0] / "narrated", "mine")
    labels = (
        "path,task,label,start,end,text,split\n"
        "0.mp4,caption,,3,6,wash the lettuce,test\n"
        "0.mp4,caption,,0.5,2,cut the tomato,test\n"
        "0.mp4,caption,,,,make a salad,test\n"  # the whole file
        "1.mp4,caption,,,,make a soup,test\n"  # both segments of it, which are one clip
        "2.mp4,kind,,,,,test\n"  # each segment with its narration
    )
    write_files(Path("mine"), {"labels.csv": labels})
    mine: dict[str, Any] = {"kind": "folder", "name": "mine", "url": "mine", "test_rate": 0.0}
    make_corpus(mine | {"labels_csv": "labels.csv", "validation_rate": 0.0})
    metrics = run_evaluate()
    assert (metrics["text_to_video_pairs"], metrics["text_to_video_items"]) == (6, 6)
    cut, parts = metrics["retrieval_notes"]
    assert "cut at fixed times" in cut
    assert parts.startswith("3 clips are annotated parts")
    assert metrics["retrieval_left_out"] == {}


def test_ranks_see_parts_as_one_process_does(
    evaluated: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them: nothing is left for the process of the stage."""
    monkeypatch.chdir(evaluated[0])
    shutil.rmtree(".cache/evaluate")
    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "see", None)
        two = LAUNCH.model_copy(update={"num_processes": 2})
        assert dict(evaluate.main(RUN, EVALUATE, two)) == evaluated[1]
