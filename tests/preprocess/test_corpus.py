import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset

from tests.known_corpus import CLIPS, CORPUS_PARAMS
from tests.made_media import write_zoo
from tests.preprocess.parameters import PARAMS
from tests.preprocess.runs import digest_files, preprocess, read_quarantine
from vatt.core.errors import StageError
from vatt.corpus.index import read_index
from vatt.corpus.manifest import write_manifest
from vatt.corpus.shards import SUFFIXES
from vatt.download.folder import collect_folder
from vatt.params import FolderSource
from vatt.preprocess.corpus import _check_counts


@pytest.mark.parametrize("num_workers", [1, 3])
def test_same_bytes_with_any_number_of_workers(
    corpus_dir: Path, download_dir: Path, tmp_path: Path, num_workers: int
) -> None:
    preprocess(download_dir, tmp_path / "out", CORPUS_PARAMS, num_workers)
    digests = digest_files(tmp_path / "out")
    assert digests == digest_files(corpus_dir)
    assert {"index.parquet", "quarantine.jsonl", "tokenizer.model"} < digests.keys()


def test_a_vocabulary_takes_the_place_of_the_tokenizer(tmp_path: Path) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("<pad>\n<unk>\nhello\n", encoding="utf-8")
    params = PARAMS.model_copy(update={"vocabulary": vocabulary})
    write_manifest(tmp_path, [])
    assert preprocess(tmp_path, tmp_path / "out", params)["vocab_size"] == 3
    assert (tmp_path / "out/vocabulary.txt").read_bytes() == vocabulary.read_bytes()
    assert not (tmp_path / "out/tokenizer.model").exists()


def test_a_wrong_vocabulary_is_refused_before_the_work(download_dir: Path, tmp_path: Path) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("hello\n", encoding="utf-8")
    params = CORPUS_PARAMS.model_copy(update={"vocabulary": vocabulary})
    with pytest.raises(StageError, match=r"words\.txt: line 1: expected <pad>"):
        preprocess(download_dir, tmp_path / "out", params)
    assert not list((tmp_path / "out").iterdir())


def test_every_input_is_in_the_index_or_in_quarantine(corpus_dir: Path) -> None:
    index = read_index(corpus_dir)
    assert set(index["video_id"]) == set(CLIPS)
    assert read_quarantine(corpus_dir) == {"gone.mp4": "HTTP 404"}


def test_a_lost_input_would_be_noticed(corpus_dir: Path) -> None:
    num_inputs = len(CLIPS) + 1
    _check_counts(corpus_dir, Counter(inputs=num_inputs))
    with pytest.raises(RuntimeError, match="11 inputs became 9 with segments and 1 in quarantine"):
        _check_counts(corpus_dir, Counter(inputs=num_inputs + 1))


def test_the_index_describes_the_segments(corpus_dir: Path) -> None:
    index = read_index(corpus_dir)
    assert index["key"].is_monotonic_increasing
    assert index["key"].is_unique
    assert index["key"].str.fullmatch("[0-9a-z_]+").all()
    flashes = index[index["video_id"] == "flashes.mp4"].sort_values("start_s")
    np.testing.assert_allclose(flashes["start_s"], [0, 4, 8])
    np.testing.assert_allclose(flashes["end_s"], [4, 8, 12.6], atol=0.041)
    assert (flashes["num_samples"] == flashes["num_frames"] * 1920).all()
    assert set(zip(flashes["width_px"], flashes["height_px"], strict=True)) == {(128, 64)}
    assert flashes["num_captions"].tolist() == [4, 4, 5]
    assert flashes["num_context_captions"].tolist() == [14, 18, 20]
    assert set(flashes["captions_outside"]) == {7}
    np.testing.assert_allclose(flashes["caption_words_per_second"], [2, 2, 2], atol=0.2)
    assert set(flashes["labels"]) == {'{"group": ["flashes.mp4"]}'}
    assert set(flashes["descriptions"]) == {"[]"}
    silent = index[index["video_id"] == "silent.mp4"].iloc[0]
    assert not silent["has_audio"]
    assert np.isnan(silent["audio_duration_s"])
    assert np.isnan(silent["silent_rate"])
    sound = index[index["video_id"] == "sound.wav"].iloc[0]
    assert not sound["has_video"]
    assert sound["audio_duration_s"] == 4.0
    described = index[index["video_id"] == "test/described.mp4"].iloc[0]
    assert json.loads(described["labels"]) == {"group": ["test"], "shape": ["square", "box"]}
    assert json.loads(described["descriptions"]) == ["a square that moves", "a box on its way"]


def test_digests_are_those_of_the_files(corpus_dir: Path, download_dir: Path) -> None:
    for name, rows in read_index(corpus_dir).groupby("video_id"):
        content = (download_dir / "known" / str(name)).read_bytes()
        assert set(rows["source_digest"]) == {hashlib.blake2b(content, digest_size=16).hexdigest()}


def test_webdataset_reads_what_the_index_says(corpus_dir: Path) -> None:
    index = read_index(corpus_dir).set_index("key")
    shards = sorted((corpus_dir / "shards").iterdir())
    assert [shard.name for shard in shards] == [
        "test-000000.tar",  # 4 segments
        *("train-000000.tar", "train-000001.tar", "train-000002.tar"),  # 4 + 4 + 1
    ]
    samples = list(webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False))
    assert {sample["__key__"] for sample in samples} == set(index.index)
    for sample in samples:
        row = index.loc[sample["__key__"]]
        assert sample["__url__"].endswith(row["shard"])
        assert row["shard"].startswith(row["split"])
        for kind, suffix in SUFFIXES.items():
            content = sample.get(suffix[1:], b"")
            assert len(content) == row[f"{kind}_bytes"]
            if content:
                begin = row[f"{kind}_offset"]
                shard = (corpus_dir / "shards" / row["shard"]).read_bytes()
                assert shard[begin : begin + len(content)] == content
        meta = json.loads(sample["json"])
        assert meta["video_id"] == row["video_id"]
        assert meta["labels"] == json.loads(row["labels"])
        assert meta["descriptions"] == json.loads(row["descriptions"])
        assert len(meta["captions"]) == row["num_context_captions"]


def test_bad_inputs_end_in_quarantine_and_stop_nothing(tmp_path: Path) -> None:
    download_dir, out_dir = tmp_path / "download", tmp_path / "out"
    usable = write_zoo(tmp_path / "zoo")
    download_dir.mkdir()
    source = FolderSource(kind="folder", name="zoo", url=str(tmp_path / "zoo"))
    entries = collect_folder(source, download_dir).entries
    write_manifest(download_dir, entries)
    counts = preprocess(download_dir, out_dir, num_workers=2)
    index, quarantine = read_index(out_dir), read_quarantine(out_dir)
    # A new line in a name is written in another way in the manifest.
    inputs = {entry.video_id for entry in entries}
    assert set(index["video_id"]) | quarantine.keys() == inputs
    assert not set(index["video_id"]) & quarantine.keys()
    assert quarantine.keys() == {name for name, is_usable in usable.items() if not is_usable}
    assert all(quarantine.values())
    assert quarantine["zero_byte.mp4"] == "the file is empty"
    assert quarantine["encrypted.mp4"] == "the video is encrypted (DRM)"
    assert counts["inputs"] == len(usable)
    assert counts["quarantined"] == len(quarantine)
    problems = index.set_index("video_id")["problem"].dropna()
    assert list(problems.index) == ["captions_broken.mp4"]
    rows = index.set_index("video_id").to_dict("index")
    assert rows["captions_beyond_end.mp4"]["captions_outside"] == 1
    assert rows["captions_overlapping.mp4"]["num_captions"] == 2
    assert rows["captions_empty.mp4"]["num_captions"] == 1
    assert rows["one_frame.mp4"]["num_frames"] == 1
    assert rows["rotated.mp4"]["height_px"] == 86


def test_an_empty_corpus_has_all_files(tmp_path: Path) -> None:
    write_manifest(tmp_path, [])
    preprocess(tmp_path, tmp_path / "out")
    assert len(read_index(tmp_path / "out")) == 0
    assert read_quarantine(tmp_path / "out") == {}
