from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.known_corpus import FLASHES_S
from vatt.corpus.index import read_index
from vatt.corpus.shards import ShardError
from vatt.loading.augmentation import centre_view
from vatt.loading.clips import ClipReader, View, decode_video
from vatt.media.video import Box
from vatt.params import ClipParams

CLIP = ClipParams(
    num_frames=16, frame_size_px=64, num_samples=30_720, num_tokens=8, num_candidates=5
)
VIEW = View((64, 128), Box(0, 32, 64, 64))


@pytest.fixture(scope="module")
def reader(corpus_dir: Path) -> ClipReader:
    return ClipReader(corpus_dir, CLIP)


def row_of(reader: ClipReader, video_id: str, number: int = 0) -> Any:
    rows = read_index(reader.preprocess_dir).query("video_id == @video_id").sort_values("start_s")
    return rows.iloc[number]


@pytest.mark.parametrize("start_frame", [0, 3, 11, 17, 24, 29])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_flash_and_click_are_at_the_same_place_of_a_window(
    reader: ClipReader, number: int, start_frame: int
) -> None:
    segment = row_of(reader, "flashes.mp4", number)
    start_s = segment.start_s + start_frame / 25
    video = reader.read_video(segment, start_frame, VIEW)
    audio = reader.read_audio(segment, start_frame)
    assert video.shape == (16, 64, 64, 3)
    assert audio.shape == (30_720,)
    white = torch.nonzero(video.mean((1, 2, 3)) > 0.7).flatten() / 25
    loud = torch.nonzero(audio.abs() > 0.2).flatten() / 48_000
    expected = [time - start_s for time in FLASHES_S if 0 <= time - start_s < 0.64]
    if not expected:
        assert len(white) == len(loud) == 0
    else:
        assert float(white[0]) == pytest.approx(expected[0], abs=1 / 25)
        assert float(loud[0]) == pytest.approx(expected[0], abs=0.01)


@pytest.mark.parametrize("start_frame", [1, 4, 5, 6, 50, 84])
def test_a_window_is_a_part_of_the_whole(reader: ClipReader, start_frame: int) -> None:
    segment = row_of(reader, "flashes.mp4")
    longer = reader.resize(CLIP.model_copy(update={"num_frames": 100, "num_samples": 192_000}))
    whole, sound = longer.read_video(segment, 0, VIEW), longer.read_audio(segment, 0)
    part = reader.read_video(segment, start_frame, VIEW)
    torch.testing.assert_close(part, whole[start_frame : start_frame + 16])
    first = start_frame * 1920
    torch.testing.assert_close(
        reader.read_audio(segment, start_frame), sound[first : first + 30_720]
    )


def test_what_is_short_repeats(reader: ClipReader) -> None:
    segment = row_of(reader, "short.mp4")  # 0.64 s with the sound: exactly as long as a window
    longer = reader.resize(CLIP.model_copy(update={"num_frames": 40, "num_samples": 76_800}))
    video, audio = longer.read_video(segment, 0, VIEW), longer.read_audio(segment, 0)
    num_frames, num_samples = int(segment.num_frames), int(segment.num_samples)
    assert num_frames < 40
    rest = 40 - num_frames
    torch.testing.assert_close(video[num_frames:], video[:num_frames].repeat(3, 1, 1, 1)[:rest])
    torch.testing.assert_close(
        audio[num_samples:], audio[:num_samples].repeat(3)[: 76_800 - num_samples]
    )


def test_views_cut_scale_and_flip(reader: ClipReader) -> None:
    segment = row_of(reader, "flashes.mp4")
    left, right = (
        reader.read_video(segment, 0, View((64, 128), Box(0, left_px, 64, 64)))
        for left_px in (0, 64)
    )
    middle = reader.read_video(segment, 0, VIEW)
    whole = torch.cat([left, right], dim=2)
    torch.testing.assert_close(reader.read_video(segment, 0, View((64, 128))), whole)
    torch.testing.assert_close(middle, whole[:, :, 32:96])
    flipped = reader.read_video(segment, 0, VIEW._replace(is_flipped=True))
    torch.testing.assert_close(flipped, middle.flip(2))
    small = reader.read_video(segment, 0, centre_view((64, 128), 64))
    torch.testing.assert_close(small, middle)


def resize_slowly(picture: npt.NDArray[np.float64], size_px: int) -> npt.NDArray[np.float64]:
    """Scale rows, then columns; a pixel is a sum of old ones weighted by a triangle around it."""
    for _ in range(2):
        length = len(picture)
        scale = length / size_px
        rows = []
        for number in range(size_px):
            middle = (number + 0.5) * scale - 0.5
            weights = [max(0.0, 1 - abs(k - middle) / max(scale, 1)) for k in range(length)]
            # What hangs over the edge goes to the last pixel.
            weights[0] += max(0.0, -middle) if scale < 1 else 0
            weights[-1] += max(0.0, middle - (length - 1)) if scale < 1 else 0
            rows.append(np.tensordot(np.array(weights) / sum(weights), picture, 1))
        picture = np.stack(rows).swapaxes(0, 1)
    return picture


@pytest.mark.parametrize(
    "box", [Box(7, 31, 40, 25), Box(0, 0, 64, 128), Box(1, 3, 20, 40), Box(33, 101, 31, 27)]
)
def test_a_box_is_cut_out_of_the_stored_picture_and_scaled(reader: ClipReader, box: Box) -> None:
    segment = row_of(reader, "flashes.mp4")
    stored = reader._decode(segment, "video", bytes)
    frames = decode_video(stored, 20, 16, View((64, 128))).astype(np.float64)
    window = reader.read_video(segment, 20, View((64, 64), box=box))
    flipped = reader.read_video(segment, 20, View((64, 64), box=box, is_flipped=True))
    torch.testing.assert_close(flipped, window.flip(2))
    rows = slice(box.top_px, box.top_px + box.height_px)
    columns = slice(box.left_px, box.left_px + box.width_px)
    for number in (0, 5, 6, 15):  # the flash at 1.0 s is frame 25
        expected = resize_slowly(frames[number, rows, columns], 64)
        np.testing.assert_allclose(window[number].numpy() * 255, expected, atol=1)


def test_what_is_missing_is_grey_or_silent(reader: ClipReader) -> None:
    grey = reader.read_video(row_of(reader, "sound.wav"), 0, VIEW)
    assert torch.equal(grey, torch.full((16, 64, 64, 3), 0.5))
    silent = reader.read_audio(row_of(reader, "silent.mp4"), 0)
    assert torch.equal(silent, torch.zeros(30_720))
    assert reader.read_narration(row_of(reader, "untold.mp4"), 0, 5) == []


def test_captions_are_those_of_mil_nce_around_the_middle(reader: ClipReader) -> None:
    segment = row_of(reader, "flashes.mp4", 1)  # from 4 to 8 s; a caption each second
    texts = reader.read_narration(segment, 50, 5)  # 6.0 to 6.64 s: the middle is 6.32 s
    # All neighbours are equally long, and of equals MIL-NCE takes the one before.
    assert texts == ["second 6", "second 5", "second 4", "second 3", "second 2"]


def test_texts_are_padded_and_masked(reader: ClipReader) -> None:
    silent = row_of(reader, "silent.mp4")
    encoded = reader.encode_texts(silent, ["second 6", "\u200b"], 4)
    assert encoded["text"].shape == (4, 8)
    assert encoded["text_mask"].tolist() == [True, False, False, False]  # one text is invisible
    assert not encoded["audio_mask"]


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_a_damaged_member_is_named(reader: ClipReader, tmp_path: Path, kind: str) -> None:
    segment = row_of(reader, "flashes.mp4")
    content = bytearray((reader.preprocess_dir / "shards" / segment.shard).read_bytes())
    offset, size = segment[f"{kind}_offset"], segment[f"{kind}_bytes"]
    content[offset : offset + size] = np.random.default_rng(0).bytes(size)
    for name in ("index.parquet", "tokenizer.model"):
        (tmp_path / name).write_bytes((reader.preprocess_dir / name).read_bytes())
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / segment.shard).write_bytes(content)
    damaged = ClipReader(tmp_path, CLIP)
    message = f"{segment.shard}: {segment.key}.* at byte {offset}: "
    with pytest.raises(ShardError, match=message):
        damaged.read_video(segment, 3, VIEW) if kind == "video" else damaged.read_audio(segment, 3)
