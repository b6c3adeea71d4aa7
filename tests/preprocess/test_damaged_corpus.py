"""A tenth of a corpus is damaged: that is indexed or quarantined, and the rest is as it was."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.parameters import PARAMS
from tests.preprocess.runs import preprocess, read_quarantine
from tests.preprocess.test_fragments import DAMAGES
from vatt.corpus.index import read_index
from vatt.corpus.manifest import ManifestEntry, write_manifest
from vatt.preprocess.fragment_maker import Finished, make_fragment
from vatt.preprocess.fragments import FragmentStore, digest_fragment_code

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


def check_tenth_damaged(folder: Path, num_clips: int) -> None:
    download_dir = folder / "download"
    for number in range(num_clips):
        clip = Clip(duration_s=0.6, flash_s=(0.04 * (number % 15),))
        write_clip(download_dir / f"{number}.mp4", clip)
    before, refused = write_checked(download_dir, folder / "before")
    assert not refused
    rng = np.random.default_rng(0)
    damaged = {f"{number}.mp4" for number in rng.permutation(num_clips)[: num_clips // 10]}
    for place, name in enumerate(sorted(damaged)):
        content = bytearray((download_dir / name).read_bytes())
        DAMAGES[place % len(DAMAGES)](content, rng)
        (download_dir / name).write_bytes(content)
    after, refused = write_checked(download_dir, folder / "after")
    assert refused.keys() <= damaged
    expected = leave_out(before, damaged)
    assert len(expected) == num_clips - len(damaged)
    pd.testing.assert_frame_equal(leave_out(after, damaged), expected)


def leave_out(index: pd.DataFrame, names: set[str]) -> pd.DataFrame:
    """Return the rows of the other videos without where they stand, which those decide, too."""
    return index[~index["video_id"].isin(names)].drop(columns=PLACES).reset_index(drop=True)


def test_the_rest_of_a_damaged_corpus_is_as_it_was(tmp_path: Path) -> None:
    check_tenth_damaged(tmp_path, 20)


@pytest.mark.slow
def test_the_rest_of_a_large_damaged_corpus_is_as_it_was(tmp_path: Path) -> None:
    check_tenth_damaged(tmp_path, 300)


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
