import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import webdataset

from tests.known_corpus import CLIPS, CORPUS_PARAMS
from tests.made_media import Clip, write_clip, write_zoo
from tests.preprocess.runs import PARAMS, digest_files, preprocess, read_quarantine
from tests.preprocess.test_fragments import DAMAGES
from vatt.core.errors import StageError
from vatt.corpus.index import read_index
from vatt.corpus.manifest import ManifestEntry, write_manifest
from vatt.corpus.shards import SUFFIXES
from vatt.download.folder import collect_folder
from vatt.params import FolderSource, PreprocessParams
from vatt.preprocess.corpus import _check_counts
from vatt.preprocess.fragment_maker import Finished, make_fragment
from vatt.preprocess.fragments import FragmentStore, digest_fragment_code


@pytest.mark.parametrize("num_workers", [1, 3])
def test_same_bytes_with_any_number_of_workers(
    corpus_dir: Path, download_dir: Path, tmp_path: Path, num_workers: int
) -> None:
    preprocess(download_dir, tmp_path / "out", CORPUS_PARAMS, num_workers)
    digests = digest_files(tmp_path / "out")
    assert digests == digest_files(corpus_dir)
    assert {"index.parquet", "quarantine.jsonl", "tokenizer.model"} < digests.keys()


@pytest.fixture
def with_vocabulary(tmp_path: Path) -> PreprocessParams:
    write_manifest(tmp_path, [])
    return PARAMS.model_copy(update={"vocabulary": tmp_path / "words.txt"})


def test_a_vocabulary_takes_the_place_of_the_tokenizer(
    tmp_path: Path, with_vocabulary: PreprocessParams
) -> None:
    (tmp_path / "words.txt").write_text("<pad>\n<unk>\nhello\n", encoding="utf-8")
    counts = preprocess(tmp_path, tmp_path / "out", with_vocabulary)
    assert (counts["vocab_size"], counts["near_duplicates"]) == (3, 0)
    words = (tmp_path / "out/vocabulary.txt").read_bytes()
    assert words == (tmp_path / "words.txt").read_bytes()
    assert not (tmp_path / "out/tokenizer.model").exists()
    # The corpus is empty, and has all files.
    assert len(read_index(tmp_path / "out")) == 0
    assert read_quarantine(tmp_path / "out") == {}


def test_a_wrong_vocabulary_is_refused_before_the_work(
    tmp_path: Path, with_vocabulary: PreprocessParams
) -> None:
    (tmp_path / "words.txt").write_text("hello\n", encoding="utf-8")
    with pytest.raises(StageError, match=r"words\.txt: line 1: expected <pad>"):
        preprocess(tmp_path, tmp_path / "out", with_vocabulary)
    assert not list((tmp_path / "out").iterdir())


def test_no_input_is_lost_without_notice(corpus_dir: Path) -> None:
    assert set(read_index(corpus_dir)["video_id"]) == set(CLIPS)
    assert read_quarantine(corpus_dir) == {"gone.mp4": "HTTP 404"}
    _check_counts(corpus_dir, Counter(inputs=len(CLIPS) + 1))
    with pytest.raises(RuntimeError, match="11 inputs became 9 with segments and 1 in quarantine"):
        _check_counts(corpus_dir, Counter(inputs=len(CLIPS) + 2))


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


PLACES = ["shard", "video_offset", "audio_offset", "meta_offset"]


def write_checked(download_dir: Path, out_dir: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return index and quarantine, which together hold each input once."""
    names = [path.name for path in sorted(download_dir.glob("*.mp4"))]
    write_manifest(download_dir, [ManifestEntry("s", name, "train", path=name) for name in names])
    counts = preprocess(download_dir, out_dir)
    index, quarantine = read_index(out_dir), read_quarantine(out_dir)
    assert sorted([*set(index["video_id"]), *quarantine]) == names
    assert counts["inputs"] == len(names)
    assert counts["quarantined"] == len(quarantine)
    assert counts["segments_train"] == len(index)
    return index, quarantine


def leave_out(index: pd.DataFrame, names: set[str]) -> pd.DataFrame:
    """Return the rows of the other videos without where they stand, which those decide, too."""
    return index[~index["video_id"].isin(names)].drop(columns=PLACES).reset_index(drop=True)


@pytest.mark.parametrize("num_clips", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_the_rest_of_a_damaged_corpus_is_as_it_was(tmp_path: Path, num_clips: int) -> None:
    """A tenth is damaged; it is indexed or quarantined."""
    download_dir = tmp_path / "download"
    for number in range(num_clips):
        clip = Clip(duration_s=0.6, flash_s=(0.04 * (number % 15),))
        write_clip(download_dir / f"{number}.mp4", clip)
    before, refused = write_checked(download_dir, tmp_path / "before")
    assert not refused
    rng = np.random.default_rng(0)
    damaged = {f"{number}.mp4" for number in rng.permutation(num_clips)[: num_clips // 10]}
    for place, name in enumerate(sorted(damaged)):
        content = bytearray((download_dir / name).read_bytes())
        DAMAGES[place % len(DAMAGES)](content, rng)
        (download_dir / name).write_bytes(content)
    after, refused = write_checked(download_dir, tmp_path / "after")
    assert refused.keys() <= damaged
    expected = leave_out(before, damaged)
    assert len(expected) == num_clips - len(damaged)
    pd.testing.assert_frame_equal(leave_out(after, damaged), expected)


def test_a_source_on_a_bad_sector_does_not_stop_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").symlink_to("/proc/self/mem")  # its first bytes are an I/O error
    try:
        (tmp_path / "bad.mp4").read_bytes()
    except OSError as error:
        if error.strerror != os.strerror(5):
            pytest.skip("needs a file that cannot be read")
    entry = ManifestEntry("s", "bad.mp4", "train", path="bad.mp4")
    store = FragmentStore(tmp_path / "store")
    found = make_fragment(tmp_path, store, PARAMS, digest_fragment_code(), entry)
    assert found == Finished("", "cannot be read: Input/output error")  # not kept: asked again
