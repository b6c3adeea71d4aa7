"""A click and a flash at one time stay together from any source file to a training sample."""

from dataclasses import replace

import numpy as np
import pytest

from tests.made_media import Clip
from tests.preprocess.runs import PARAMS, preprocess, write_clips
from vatt.corpus.index import read_index
from vatt.corpus.manifest import write_manifest
from vatt.loading.augmentation import centre_view
from vatt.loading.clips import ClipReader
from vatt.params import ClipParams

FRAME_RATE_HZ = 25.0
FLASHES_S = (0.48, 1.6, 2.88, 4.24, 5.36, 6.64)
STEADY = Clip(duration_s=8.0, flash_s=FLASHES_S)
SOURCES = {
    "steady.mp4": STEADY,
    "steady.mkv": replace(STEADY, sample_rate_hz=32_000, num_channels=1),
    "steady.webm": replace(STEADY, sample_rate_hz=48_000),
    "fast.mov": replace(STEADY, frame_rate_hz=50),
    "surround.mp4": replace(STEADY, num_channels=6, sample_rate_hz=48_000),
    "reordered.avi": replace(STEADY, num_b_frames=3, audio_codec="pcm_s16le"),
    "reordered.wmv": replace(STEADY, num_b_frames=3, audio_codec="pcm_s16le"),
    "xvid.avi": replace(STEADY, video_codec="mpeg4", num_b_frames=2, audio_codec="pcm_s16le"),
    "uneven.mkv": replace(
        STEADY, frame_times_s=tuple(0.04 * np.arange(200) + 0.012 * (np.arange(200) % 2))
    ),
}
CLIP = ClipParams(
    num_frames=25, frame_size_px=48, num_samples=48_000, num_tokens=4, num_candidates=1
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ClipReader:
    folder = tmp_path_factory.mktemp("flashes")
    write_manifest(folder, write_clips(folder, SOURCES))
    params = PARAMS.model_copy(update={"frame_rate_hz": FRAME_RATE_HZ})
    preprocess(folder, folder / "out", params, num_workers=2)
    return ClipReader(folder / "out", CLIP)


@pytest.mark.parametrize("name", SOURCES)
def test_click_and_flash_stay_together(reader: ClipReader, name: str) -> None:
    num_seen = 0
    rows = read_index(reader.preprocess_dir).query("video_id == @name")
    for _, segment in rows.iterrows():
        for start_frame in (0, 10, 35, 62):
            view = centre_view((int(segment.height_px), int(segment.width_px)), 48)
            video = reader.read_video(segment, start_frame, view).numpy()
            audio = reader.read_audio(segment, start_frame).numpy()
            start_s = segment.start_s + start_frame / FRAME_RATE_HZ
            white_s = _firsts(video.mean((1, 2, 3)) > 0.7, FRAME_RATE_HZ)
            loud_s = _firsts(np.abs(audio) > 0.2, 48_000)
            inside_s = [f - start_s for f in FLASHES_S if 0.02 < f - start_s < 0.98]
            for flash_s in inside_s:
                assert np.abs(np.array(white_s) - flash_s).min() <= 1 / FRAME_RATE_HZ + 1e-6
                assert np.abs(np.array(loud_s) - flash_s).min() <= 0.01
            num_seen += len(inside_s)
    assert num_seen >= len(FLASHES_S)


def _firsts(is_there: np.ndarray, rate_hz: float) -> list[float]:
    """Return the times at which something begins that has not been there for 0.1 s."""
    (places,) = np.nonzero(is_there)
    begins = np.diff(places, prepend=-rate_hz) > 0.1 * rate_hz
    return [float(place / rate_hz) for place in places[begins]]
