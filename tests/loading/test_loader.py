"""Batches of random and of fixed windows, compared with the reader of the corpus."""

import functools
import multiprocessing
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from tests.train.tasks import TASK
from vatt.core.batch import Batch, LabelledBatch
from vatt.core.errors import StageError
from vatt.corpus.index import read_index
from vatt.corpus.samples import SampleTable, write_samples
from vatt.corpus.shards import LocalShards, RangeCache, RemoteShards, ShardError, Shards
from vatt.loading.augmentation import centre_view
from vatt.loading.clips import ClipReader, Window
from vatt.loading.loader import (
    FixedWindows,
    Look,
    TrainingWindows,
    load_views,
    open_labelled_validation_loader,
    open_validation_loader,
    spread_places,
)
from vatt.loading.order import Share, TrainingOrder
from vatt.loading.tasks import MODALITIES, LabelledSplit, TaskInput, read_labelled
from vatt.params import TASKS, ClipParams, TaskName

CLIP = ClipParams(
    num_frames=8, frame_size_px=32, num_samples=15_360, num_tokens=8, num_candidates=5
)
GROUP = TASK.model_copy(update={"label": "group"})
CLASSES = ["flashes.mp4", "more.mkv", "short.mp4", "silent.mp4", "sound.wav"]
NUM_TRAINING = 8  # segments of split train with a picture; all have sound or captions
ORDER = TrainingOrder(seed=3, batch_size=6, start_step=0, num_steps=5)
assert_same = functools.partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.fixture
def reader(corpus_dir: Path) -> ClipReader:
    return ClipReader(corpus_dir, CLIP)


def open_split(corpus_dir: Path, task: TaskName) -> LabelledSplit:
    """Return the segments of the split train; all have one label of the task "group"."""
    return read_labelled(corpus_dir, task, GROUP, ("train",), CLASSES).splits["train"]


def open_batches(
    corpus_dir: Path,
    order: TrainingOrder = ORDER,
    num_workers: int = 0,
    shards: Shards | None = None,
    weights: Mapping[str, float] | None = None,
) -> Iterator[Batch]:
    return load_from(ClipReader(corpus_dir, CLIP, shards), order, num_workers, weights)


def load_from(
    reader: ClipReader,
    order: TrainingOrder,
    num_workers: int = 0,
    weights: Mapping[str, float] | None = None,
) -> Iterator[Batch]:
    samples, task_input = SampleTable(reader.preprocess_dir), TaskInput("audio_visual", reader.clip)
    windows = TrainingWindows(reader, task_input, samples, order.seed)
    return windows.load(order, weights, num_workers)


def load_task(
    corpus_dir: Path, task: TaskName, order: TrainingOrder = ORDER, num_workers: int = 0
) -> list[LabelledBatch]:
    task_input, split = TaskInput(task, CLIP, audio_stride=2), open_split(corpus_dir, task)
    windows = TrainingWindows(ClipReader(corpus_dir, CLIP), task_input, split, order.seed)
    return list(windows.load(order, num_workers=num_workers))


def join(batches: Iterable[Batch | LabelledBatch]) -> Window:
    """Return the windows of all batches in their order."""
    parts = [
        vars(batch) if isinstance(batch, Batch) else {**batch.signals, "labels": batch.labels}
        for batch in batches
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def load(corpus_dir: Path, order: TrainingOrder, num_workers: int, *, labelled: bool) -> Window:
    if labelled:
        return join(load_task(corpus_dir, "audio_visual", order, num_workers))
    return join(open_batches(corpus_dir, order, num_workers))


def test_batches_have_the_shapes_and_ranges_of_the_contract(corpus_dir: Path) -> None:
    batches = list(open_batches(corpus_dir))
    assert len(batches) == 5
    for batch in batches:
        assert batch.video.shape == (6, 8, 32, 32, 3)
        assert batch.audio.shape == (6, 15_360)
        assert batch.text.shape == (6, 5, 8)
        assert batch.video.dtype == batch.audio.dtype == torch.float32
        assert batch.text.dtype == torch.int64
        assert -1 <= batch.video.min() < -0.5
        assert batch.video.max() <= 1
        assert torch.equal(batch.text_mask, (batch.text != 0).any(-1))
        assert torch.equal(batch.audio_mask, (batch.audio != 0).any(-1))
    assert not all(batch.audio_mask.all() for batch in batches)
    assert not all(batch.text_mask.all() for batch in batches)


@pytest.mark.parametrize("task", TASKS)
def test_batches_have_what_the_task_needs(corpus_dir: Path, task: TaskName) -> None:
    for batch in load_task(corpus_dir, task):
        assert tuple(batch.signals) == MODALITIES[task]
        if "video" in batch.signals:
            assert batch.signals["video"].shape == (6, 8, 32, 32, 3)
            assert -1 <= batch.signals["video"].min() < -0.5
            assert batch.signals["video"].max() <= 1
        if "audio" in batch.signals:
            assert batch.signals["audio"].shape == (6, 7_680)
        assert set(batch.labels.sum(1).tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("labelled", [False, True])
def test_the_order_depends_neither_on_workers_nor_on_ranks_nor_on_where_it_starts(
    corpus_dir: Path, labelled: bool
) -> None:
    load_order = functools.partial(load, corpus_dir, labelled=labelled)
    whole = load_order(ORDER, 0)
    assert_same(load_order(ORDER, 2), whole)
    late = {name: values[18:] for name, values in whole.items()}
    assert_same(load_order(replace(ORDER, start_step=3), 0), late)
    assert not list(open_batches(corpus_dir, replace(ORDER, start_step=5)))
    ranks = [load_order(replace(ORDER, rank=rank, world_size=3), 0) for rank in range(3)]
    by_step = {
        name: torch.stack([rank[name].unflatten(0, (5, 2)) for rank in ranks], 1).flatten(0, 2)
        for name in whole
    }
    assert_same(by_step, whole)


def test_inception_crops_depend_on_the_sample_alone(corpus_dir: Path) -> None:
    augment = CLIP.augment.model_copy(update={"crop": "inception"})
    reader = ClipReader(corpus_dir, CLIP.model_copy(update={"augment": augment}))
    whole, other = join(load_from(reader, ORDER)), join(open_batches(corpus_dir))
    resumed = join(load_from(reader, replace(ORDER, start_step=3), num_workers=1))
    assert_same(resumed, {name: values[18:] for name, values in whole.items()})
    assert -1 <= whole["video"].min() < whole["video"].max() <= 1
    assert whole["video"].shape == other["video"].shape
    assert not torch.equal(whole["video"][:6], other["video"][:6])
    assert torch.equal(whole["text"], other["text"])


def test_another_seed_gives_other_clips(corpus_dir: Path) -> None:
    first, other = (next(open_batches(corpus_dir, replace(ORDER, seed=seed))) for seed in (3, 4))
    assert not torch.equal(first.video, other.video)


def test_a_sample_differs_from_epoch_to_epoch(corpus_dir: Path) -> None:
    order = TrainingOrder(seed=3, batch_size=NUM_TRAINING, start_step=0, num_steps=2)
    first, second = open_batches(corpus_dir, order)
    assert len({float(audio.sum()) for audio in torch.cat([first.audio, second.audio])}) > 8
    [(drawn_first), (drawn_second)] = order.batches([Share(0, NUM_TRAINING)])
    place = [sample for _, sample in drawn_second].index(drawn_first[0][1])
    assert not torch.equal(first.video[0], second.video[place])


def test_the_loader_leaves_the_global_generator_alone(corpus_dir: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(open_batches(corpus_dir))
    assert torch.equal(torch.rand(1), expected)


def copy_files(corpus_dir: Path, folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes((corpus_dir / name).read_bytes())


def test_a_corpus_without_training_segments_is_refused(corpus_dir: Path, tmp_path: Path) -> None:
    copy_files(corpus_dir, tmp_path, "tokenizer.model")
    table = pq.read_table(corpus_dir / "index.parquet")
    pq.write_table(table.filter(pc.field("split") == "test"), tmp_path / "index.parquet")
    write_samples(tmp_path)
    with pytest.raises(StageError, match="no segment of the split train has"):
        open_batches(tmp_path)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_shard_is_named(corpus_dir: Path, tmp_path: Path, num_workers: int) -> None:
    copy_files(corpus_dir, tmp_path, "index.parquet", "samples.bin", "tokenizer.model")
    named = rf"{tmp_path}/shards/train-00000\d\.tar: [0-9a-f]+_\d+\.\w+ at byte \d+: .*$"
    with pytest.raises(StageError, match=rf"^{named}"):
        list(open_batches(tmp_path, num_workers=num_workers))


def test_sources_are_mixed_by_weight(corpus_dir: Path, tmp_path: Path) -> None:
    table = pq.read_table(corpus_dir / "index.parquet")
    others = pc.if_else(pc.equal(table["video_id"], "untold.mp4"), "other", table["source"])
    place = table.schema.get_field_index("source")
    table = table.set_column(place, table.schema.field("source"), others.combine_chunks())
    pq.write_table(table, tmp_path / "index.parquet")
    write_samples(tmp_path)
    copy_files(corpus_dir, tmp_path, "tokenizer.model")
    shards = LocalShards(corpus_dir / "shards")
    batches = open_batches(tmp_path, shards=shards, weights={"known": 2, "other": 1})
    # Of the training segments those of this video alone have no captions.
    assert [int((~batch.text_mask.any(-1)).sum()) for batch in batches] == [2] * 5


class QuietHandler(SimpleHTTPRequestHandler):
    """Sends whole files, whatever range is asked for."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("num_workers", [0, 2])
def test_remote_shards_give_the_same_batches(
    corpus_dir: Path, tmp_path: Path, num_workers: int
) -> None:
    expected = join(open_batches(corpus_dir))
    handler = functools.partial(QuietHandler, directory=corpus_dir / "shards")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cache = RangeCache(tmp_path / "cache", 2**26)
        shards = RemoteShards(f"http://127.0.0.1:{server.server_port}", cache)
        assert_same(join(open_batches(corpus_dir, ORDER, num_workers, shards)), expected)
        server.shutdown()
    # The server is gone: all comes from the cache.
    assert_same(join(open_batches(corpus_dir, ORDER, num_workers, shards)), expected)


def test_a_remote_shard_that_is_gone_is_named(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vatt.corpus.shards.FIRST_PAUSE_S", 0.01)
    shards = RemoteShards("memory://nowhere", RangeCache(tmp_path / "cache", 2**26))
    named = r"^memory://nowhere/train-00000\d\.tar: [0-9a-f]+_\d+\.mp4 at byte \d+: .* 4 tries"
    with pytest.raises(ShardError, match=named):
        list(open_batches(corpus_dir, ORDER, 1, shards))


def test_a_killed_worker_is_told(corpus_dir: Path) -> None:
    others = set(multiprocessing.active_children())
    batches = open_batches(corpus_dir, replace(ORDER, num_steps=10_000), 1)
    next(batches)
    [worker] = set(multiprocessing.active_children()) - others
    worker.kill()
    with pytest.raises(StageError, match=r"a process that decodes clips died: .*loader_workers"):
        list(batches)


def test_training_windows_of_sound_lie_all_over_a_segment(corpus_dir: Path) -> None:
    task_input, split = TaskInput("audio", CLIP), open_split(corpus_dir, "audio")
    number = max(range(len(split)), key=lambda at: split[at].num_samples)
    last = task_input.find_last_start(split[number])
    assert last > 10

    class Recorder(ClipReader):
        def read_audio(self, segment: object, start_frame: float) -> torch.Tensor:  # noqa: ARG002
            starts.append(start_frame)
            return torch.zeros(self.clip.num_samples)

    starts: list[float] = []
    windows = TrainingWindows(Recorder(corpus_dir, CLIP), task_input, split, seed=1)
    for epoch in range(100):
        windows[epoch, number]
    assert 0 <= min(starts) < 0.1 * last
    assert 0.9 * last < max(starts) <= last
    assert len(set(starts)) == 100


def test_validation_takes_every_segment_in_order(reader: ClipReader) -> None:
    index = read_index(reader.preprocess_dir).query("split == 'test'")
    loaded = list(open_validation_loader(reader, "test", 3))
    assert [len(rows) for rows, _ in loaded] == [3, 1]
    assert list(chain.from_iterable(rows["key"] for rows, _ in loaded)) == list(index["key"])
    for rows, batch in loaded:
        assert batch.text.shape == (len(batch.video), 1, 8)
        assert torch.equal(batch.audio_mask, torch.tensor(rows["has_audio"].to_numpy()))
        assert torch.equal(batch.text_mask, (batch.text != 0).any(-1))
        grey = (batch.video == 0).flatten(1).all(1)
        assert torch.equal(grey, ~torch.tensor(rows["has_video"].to_numpy()))


def test_fixed_windows_are_spaced_evenly_and_the_same_every_time(reader: ClipReader) -> None:
    rows = reader.read_rows("test")
    look = Look(TaskInput("audio_visual", CLIP), spread_places(4), has_texts=True)
    windows = FixedWindows(reader, rows.iloc, [look])
    first, again = (list(load_views(windows, len(rows), 2, workers)) for workers in (0, 1))
    assert [numbers for numbers, _ in first] == [[0, 1], [2, 3]]
    views = [views for _, clips in first for (views,) in clips]
    assert_same([v.signals for _, clips in again for (v,) in clips], [v.signals for v in views])
    number = rows["has_video"].to_list().index(True)
    segment, video = rows.iloc[number], views[number].signals["video"]
    whole = _read(reader.resize(CLIP.model_copy(update={"num_frames": 104})), segment, 0)
    assert views[number].num_windows == len(video) == len(views[number].signals["text"]) == 4
    for window in range(4):
        start = round(window * (segment.num_frames - 8) / 3)
        torch.testing.assert_close(video[window], whole[start : start + 8])


def _read(reader: ClipReader, segment: Any, frame: int) -> torch.Tensor:
    size_px = (int(segment.height_px), int(segment.width_px))
    view = centre_view(size_px, reader.clip.frame_size_px)
    return 2 * reader.read_video(segment, frame, view) - 1


def load_middle(
    reader: ClipReader, task: TaskName
) -> tuple[dict[str, torch.Tensor], LabelledSplit]:
    """Return the middle windows of the split train, and its segments."""
    split, task_input = open_split(reader.preprocess_dir, task), TaskInput(task, CLIP, 3)
    batches = list(open_labelled_validation_loader(reader, task_input, split, len(split), 4))
    labels = torch.cat([batch.labels for batch in batches])
    assert torch.equal(labels, torch.stack([split.mark(at) for at in range(len(split))]))
    names = batches[0].signals
    return {name: torch.cat([b.signals[name] for b in batches]) for name in names}, split


def test_an_image_is_the_middle_frame_repeated(reader: ClipReader) -> None:
    found, split = load_middle(reader, "image")
    video = found["video"]
    assert -1 <= video.min() < -0.5
    assert 0.5 < video.max() <= 1
    assert torch.equal(video, video[:, :1].expand_as(video))
    one = reader.resize(CLIP.model_copy(update={"num_frames": 1}))
    for number in range(len(split)):
        segment = split[number]
        # Of an even number of frames the one before or behind the middle.
        frames = {(segment.num_frames - 1) // 2, segment.num_frames // 2}
        assert any(torch.equal(video[number, :1], _read(one, segment, at)) for at in frames)


def test_a_stride_hears_every_so_many_samples_of_the_middle(reader: ClipReader) -> None:
    """Sound without pictures, too; a window of it begins anywhere, not at frames only."""
    found, split = load_middle(reader, "audio")
    assert any(not split[number].has_video for number in range(len(split)))
    for number in range(len(split)):
        segment = split[number]
        num_frames = CLIP.num_samples / 48_000 * segment.frame_rate_hz
        heard = reader.read_audio(segment, max(0.0, segment.num_frames - num_frames) / 2)
        assert torch.equal(found["audio"][number], heard[::3]), segment.key
