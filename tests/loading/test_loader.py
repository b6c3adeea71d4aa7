import dataclasses
import functools
import hashlib
import multiprocessing
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from vatt.core.batch import Batch
from vatt.core.errors import StageError
from vatt.corpus.index import read_index
from vatt.corpus.samples import SampleTable, write_samples
from vatt.corpus.shards import LocalShards, RangeCache, RemoteShards, ShardError
from vatt.loading.clips import Clip, ClipReader
from vatt.loading.loader import (
    LoaderOptions,
    TrainingClips,
    open_evaluation_loader,
    open_pretraining_loader,
)
from vatt.loading.order import Share, TrainingOrder
from vatt.params import ClipParams

CLIP = ClipParams(
    num_frames=8, frame_size_px=32, num_samples=15_360, num_tokens=8, num_candidates=5
)
NUM_TRAINING = 8  # segments of split train with a picture; all have sound or captions
ORDER = TrainingOrder(seed=3, batch_size=6, start_step=0, num_steps=5)


def load(
    corpus_dir: Path, order: TrainingOrder, num_workers: int = 0, clip: ClipParams = CLIP
) -> list[Batch]:
    return list(open_pretraining_loader(corpus_dir, clip, order, LoaderOptions(num_workers)))


def assert_same(batches: list[Batch], expected: list[Batch]) -> None:
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        for field in dataclasses.fields(Batch):
            assert torch.equal(getattr(batch, field.name), getattr(other, field.name)), field.name


@pytest.fixture(scope="module")
def batches(corpus_dir: Path) -> list[Batch]:
    return load(corpus_dir, ORDER)


def test_batches_have_the_shapes_and_ranges_of_the_contract(batches: list[Batch]) -> None:
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


def test_the_order_does_not_depend_on_workers(corpus_dir: Path, batches: list[Batch]) -> None:
    assert_same(load(corpus_dir, ORDER, num_workers=2), batches)


def test_ranks_share_the_batches_of_one_process(corpus_dir: Path, batches: list[Batch]) -> None:
    ranks = [
        load(corpus_dir, dataclasses.replace(ORDER, rank=rank, world_size=3)) for rank in range(3)
    ]
    joined = [
        Batch(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields))
        for parts in zip(*ranks, strict=True)
        for fields in [dataclasses.fields(Batch)]
    ]
    assert_same(joined, batches)


def test_resuming_gives_the_rest(corpus_dir: Path, batches: list[Batch]) -> None:
    assert_same(load(corpus_dir, dataclasses.replace(ORDER, start_step=3)), batches[3:])
    assert load(corpus_dir, dataclasses.replace(ORDER, start_step=5)) == []


def test_inception_crops_depend_on_the_sample_alone(corpus_dir: Path, batches: list[Batch]) -> None:
    augment = CLIP.augment.model_copy(update={"crop": "inception"})
    clip = CLIP.model_copy(update={"augment": augment})
    whole = load(corpus_dir, ORDER, clip=clip)
    resumed = dataclasses.replace(ORDER, start_step=3)
    assert_same(load(corpus_dir, resumed, 1, clip), whole[3:])
    for batch, other in zip(whole, batches, strict=True):
        assert batch.video.shape == other.video.shape
        assert -1 <= batch.video.min() < batch.video.max() <= 1
        assert not torch.equal(batch.video, other.video)
        assert torch.equal(batch.text, other.text)


def test_another_seed_gives_other_clips(corpus_dir: Path, batches: list[Batch]) -> None:
    others = load(corpus_dir, dataclasses.replace(ORDER, seed=4))
    assert not torch.equal(others[0].video, batches[0].video)


def test_a_sample_differs_from_epoch_to_epoch(corpus_dir: Path) -> None:
    order = TrainingOrder(seed=3, batch_size=NUM_TRAINING, start_step=0, num_steps=2)
    first, second = load(corpus_dir, order)
    assert len({float(audio.sum()) for audio in torch.cat([first.audio, second.audio])}) > 8
    [(drawn_first), (drawn_second)] = order.batches([Share(0, NUM_TRAINING)])
    place = [sample for _, sample in drawn_second].index(drawn_first[0][1])
    assert not torch.equal(first.video[0], second.video[place])


def test_the_loader_leaves_the_global_generator_alone(corpus_dir: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load(corpus_dir, ORDER)
    assert torch.equal(torch.rand(1), expected)


def test_a_corpus_without_training_segments_is_refused(corpus_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((corpus_dir / "tokenizer.model").read_bytes())
    table = pq.read_table(corpus_dir / "index.parquet")
    pq.write_table(table.filter(pc.field("split") == "test"), tmp_path / "index.parquet")
    write_samples(tmp_path)
    with pytest.raises(StageError, match="no segment of the split train has"):
        load(tmp_path, ORDER)


def test_clips_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match="6 clips cannot be shared by 4 ranks"):
        dataclasses.replace(ORDER, world_size=4)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_shard_is_named(corpus_dir: Path, tmp_path: Path, num_workers: int) -> None:
    for name in ("index.parquet", "samples.bin", "tokenizer.model"):
        (tmp_path / name).write_bytes((corpus_dir / name).read_bytes())
    named = rf"{tmp_path}/shards/train-00000\d\.tar: [0-9a-f]+_\d+\.\w+ at byte \d+: .*$"
    with pytest.raises(StageError, match=rf"^{named}"):
        load(tmp_path, ORDER, num_workers)


def test_evaluation_takes_every_segment_in_order(corpus_dir: Path) -> None:
    index = read_index(corpus_dir).query("split == 'test'")
    loaded = list(open_evaluation_loader(ClipReader(corpus_dir, CLIP), "test", 3, 3))
    assert [len(rows) for rows, _ in loaded] == [3, 1]
    assert list(chain.from_iterable(rows["key"] for rows, _ in loaded)) == list(index["key"])
    for rows, batch in loaded:
        assert len(batch.video) == 3 * len(rows)
        assert batch.text.shape == (len(batch.video), 1, 8)
        assert torch.equal(batch.audio_mask, torch.tensor(rows["has_audio"].repeat(3).to_numpy()))
        grey = (batch.video == 0).flatten(1).all(1)
        assert torch.equal(grey, ~torch.tensor(rows["has_video"].repeat(3).to_numpy()))


def test_evaluation_is_the_same_every_time(corpus_dir: Path) -> None:
    first = [
        batch for _, batch in open_evaluation_loader(ClipReader(corpus_dir, CLIP), "test", 2, 2)
    ]
    again = [
        batch for _, batch in open_evaluation_loader(ClipReader(corpus_dir, CLIP), "test", 2, 2, 1)
    ]
    assert_same(again, first)


def test_evaluation_windows_are_spaced_evenly(corpus_dir: Path) -> None:
    [(rows, four), (_, _)] = open_evaluation_loader(ClipReader(corpus_dir, CLIP), "test", 4, 3)
    [(_, whole), (_, _)] = open_evaluation_loader(
        ClipReader(corpus_dir, CLIP.model_copy(update={"num_frames": 104})), "test", 1, 3
    )
    number = rows["has_video"].to_list().index(True)
    last_start = rows["num_frames"].iloc[number] - 8
    for window in range(4):
        start = round(window * last_start / 3)
        expected = whole.video[number, start : start + 8]
        torch.testing.assert_close(four.video[4 * number + window], expected)


def digest(clip: Clip) -> bytes:
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in clip)).digest()


def split_batch(batch: Batch) -> list[Clip]:
    parts = [getattr(batch, field.name) for field in dataclasses.fields(Batch)]
    return [Clip(*clip) for clip in zip(*parts, strict=True)]


def test_ranks_and_workers_may_change_within_an_epoch(corpus_dir: Path) -> None:
    clips = TrainingClips(ClipReader(corpus_dir, CLIP), SampleTable(corpus_dir), ORDER.seed)
    epochs, num_steps = 3, 3 * NUM_TRAINING // 6
    expected = Counter(
        digest(clips[epoch, sample]) for epoch in range(epochs) for sample in range(NUM_TRAINING)
    )
    assert len(expected) == epochs * NUM_TRAINING
    drawn: Counter[bytes] = Counter()
    # After step 1 of 4 the first epoch has begun only; after step 3 the third has.
    for start, end, world_size, num_workers in [(0, 1, 1, 0), (1, 3, 2, 2), (3, num_steps, 3, 1)]:
        for rank in range(world_size):
            order = TrainingOrder(ORDER.seed, 6, start, end, rank, world_size)
            for batch in load(corpus_dir, order, num_workers):
                drawn.update(digest(clip) for clip in split_batch(batch))
    assert drawn == expected


def test_sources_are_mixed_by_weight(corpus_dir: Path, tmp_path: Path) -> None:
    table = pq.read_table(corpus_dir / "index.parquet")
    others = pc.if_else(pc.equal(table["video_id"], "untold.mp4"), "other", table["source"])
    place = table.schema.get_field_index("source")
    table = table.set_column(place, table.schema.field("source"), others.combine_chunks())
    pq.write_table(table, tmp_path / "index.parquet")
    write_samples(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((corpus_dir / "tokenizer.model").read_bytes())
    shards = LocalShards(corpus_dir / "shards")
    options = LoaderOptions(source_weights={"known": 2, "other": 1}, shards=shards)
    batches = list(open_pretraining_loader(tmp_path, CLIP, ORDER, options))
    # Of the training segments those of this video alone have no captions.
    untold = [int((~batch.text_mask.any(-1)).sum()) for batch in batches]
    assert untold == [2] * 5


@pytest.mark.parametrize("num_workers", [0, 2])
def test_remote_shards_give_the_same_batches(
    corpus_dir: Path, tmp_path: Path, batches: list[Batch], num_workers: int
) -> None:
    handler = functools.partial(QuietHandler, directory=corpus_dir / "shards")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cache = RangeCache(tmp_path / "cache", 2**26)
        shards = RemoteShards(f"http://127.0.0.1:{server.server_port}", cache)
        options = LoaderOptions(num_workers, shards=shards)
        assert_same(list(open_pretraining_loader(corpus_dir, CLIP, ORDER, options)), batches)
        server.shutdown()
    # The server is gone: all comes from the cache.
    assert_same(list(open_pretraining_loader(corpus_dir, CLIP, ORDER, options)), batches)


def test_a_remote_shard_that_is_gone_is_named(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vatt.corpus.shards.FIRST_PAUSE_S", 0.01)
    shards = RemoteShards("memory://nowhere", RangeCache(tmp_path / "cache", 2**26))
    options = LoaderOptions(1, shards=shards)
    named = r"^memory://nowhere/train-00000\d\.tar: [0-9a-f]+_\d+\.mp4 at byte \d+: .* 4 tries"
    with pytest.raises(ShardError, match=named):
        list(open_pretraining_loader(corpus_dir, CLIP, ORDER, options))


class QuietHandler(SimpleHTTPRequestHandler):
    """Sends whole files, whatever range is asked for."""

    def log_message(self, *_: object) -> None:
        pass


def test_a_killed_worker_is_told(corpus_dir: Path) -> None:
    order = dataclasses.replace(ORDER, num_steps=10_000)
    others = set(multiprocessing.active_children())
    batches = open_pretraining_loader(corpus_dir, CLIP, order, LoaderOptions(1))
    next(batches)
    [worker] = set(multiprocessing.active_children()) - others
    worker.kill()
    with pytest.raises(StageError, match=r"a process that decodes clips died: .*loader_workers"):
        list(batches)
