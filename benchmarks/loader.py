"""Training samples per second of one core: our shards against other readers of shards or sources.

Usage: python -m benchmarks.loader CLIPS, with a folder of real videos with sound, the program
ffmpeg and the extra `bench`. Each video is looped to 30 s of 1280 x 720 at 30 frames per second
(H.264, key frames 250 apart, AAC) and preprocessed with the sizes of the paper. A sample is the
same for all: a random window of 32 frames at 10 per second and 3.2 s of sound at 48 kHz, a random
crop of 224 pixels, random colours, noise. The others change colours by operations of torch; one
line has our compiled ones. Ours reads captions besides. All are measured in turn, a sample of each
at a time, on one thread, in processor time, which other programs on the machine disturb less.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import torch
import webdataset
from torch import Tensor
from torch.nn.functional import interpolate
from torchcodec.decoders import AudioDecoder, VideoDecoder

from benchmarks import torch_colours
from vatt.corpus.manifest import ManifestEntry, write_manifest
from vatt.corpus.samples import SampleTable
from vatt.loading.augmentation import add_noise, draw_view, jitter_colour
from vatt.loading.clips import ClipReader, View
from vatt.loading.colour import load_compiled
from vatt.loading.loader import TrainingWindows
from vatt.loading.tasks import TaskInput
from vatt.params import AUDIO_RATE_HZ, AugmentParams, ClipParams, load_params
from vatt.preprocess.corpus import write_corpus

SUFFIXES = {".mp4", ".mkv", ".webm"}
PAPER = {"frame_rate_hz": 10.0, "short_side_px": 256, "segment_s": 10.0, "min_segment_s": 3.2}
PAPER |= {"key_frame_interval": 10, "video_crf": 23}
SOURCE_S, SOURCE_RATE_HZ = 30.0, 30
CLIP_S = 3.2
Window = tuple[Tensor, Tensor]
"""Pictures in [-1, 1] (T H W 3) and sound in [-1, 1]."""


def make_sources(clips: list[Path], folder: Path) -> list[Path]:
    """Loop videos to 30 s and scale them to 720p, as a video site would send them."""
    folder.mkdir(parents=True)
    sources = []
    for number, clip in enumerate(clips):
        source = folder / f"{number}.mp4"
        fit = "scale=1280:720:force_original_aspect_ratio=decrease,pad=1280:720:-1:-1,setsar=1"
        command = ["ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", str(clip)]
        command += ["-t", str(SOURCE_S), "-map", "0:v:0", "-map", "0:a:0"]
        command += ["-vf", f"{fit},fps={SOURCE_RATE_HZ}", "-c:v", "libx264", "-preset", "veryfast"]
        command += ["-crf", "23", "-g", "250", "-pix_fmt", "yuv420p", "-c:a", "aac", str(source)]
        subprocess.run(command, check=True)
        sources.append(source)
    return sources


class Rivals:
    """Other ways to the same samples; each makes one from a random generator."""

    def __init__(
        self,
        clip: ClipParams,
        sources: list[Path],
        shards: list[Path],
        jitter: Callable[[Tensor, AugmentParams, np.random.Generator], Tensor],
    ) -> None:
        self._clip, self._sources, self._jitter = clip, sources, jitter
        self._stored = self._read_shards(shards)

    def read_with_webdataset(self, rng: np.random.Generator) -> Window:
        """Return a window of the next segment of our shards."""
        stored = next(self._stored)
        video = VideoDecoder(stored["mp4"], num_ffmpeg_threads=1, seek_mode="approximate")
        first = int(rng.integers(len(video) - self._clip.num_frames + 1))
        pictures = video.get_frames_in_range(first, first + self._clip.num_frames).data
        start_s = first / PAPER["frame_rate_hz"]
        sound = AudioDecoder(stored["flac"]).get_samples_played_in_range(start_s, start_s + CLIP_S)
        return self._finish(pictures, sound.data[0], rng)

    def read_with_torchcodec(self, rng: np.random.Generator) -> Window:
        """Return a window of a random source file."""
        path, times_s = self._draw_window(rng)
        video = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate")
        pictures = video.get_frames_played_at(times_s.tolist()).data
        return self._finish(pictures, self._read_sound(path, times_s[0]), rng)

    def read_with_decord(self, rng: np.random.Generator) -> Window:
        """Return a window of a random source file; its sound is read by torchcodec."""
        path, times_s = self._draw_window(rng)
        video = decord.VideoReader(path, num_threads=1)
        numbers = (times_s * SOURCE_RATE_HZ).round().astype(int)
        pictures = torch.from_numpy(video.get_batch(numbers.tolist()).asnumpy())
        return self._finish(pictures.permute(0, 3, 1, 2), self._read_sound(path, times_s[0]), rng)

    def read_with_pyav(self, rng: np.random.Generator) -> Window:
        """Return a window of a random source file; its sound is read by torchcodec."""
        path, times_s = self._draw_window(rng)
        pictures: list[Any] = []
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            container.seek(int(times_s[0] / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time >= times_s[len(pictures)] - 0.5 / SOURCE_RATE_HZ:
                    pictures.append(frame.to_ndarray(format="rgb24"))
                if len(pictures) == len(times_s):
                    break
        planes = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        return self._finish(planes, self._read_sound(path, times_s[0]), rng)

    def _read_shards(self, shards: list[Path]) -> Iterator[dict[str, Any]]:
        for _ in count():
            yield from webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False)

    def _draw_window(self, rng: np.random.Generator) -> tuple[str, np.ndarray[Any, Any]]:
        path = self._sources[int(rng.integers(len(self._sources)))]
        start_s = (
            int(rng.integers(int((SOURCE_S - CLIP_S - 0.2) * SOURCE_RATE_HZ))) / SOURCE_RATE_HZ
        )
        return str(path), start_s + np.arange(self._clip.num_frames) / PAPER["frame_rate_hz"]

    def _read_sound(self, path: str, start_s: float) -> Tensor:
        decoder = AudioDecoder(path, sample_rate=AUDIO_RATE_HZ, num_channels=1)
        sound: Tensor = decoder.get_samples_played_in_range(start_s, start_s + CLIP_S).data[0]
        return sound

    def _finish(self, planes: Tensor, audio: Tensor, rng: np.random.Generator) -> Window:
        """Crop, scale, flip, colour and add noise."""
        clip = self._clip
        size_px = (planes.shape[2], planes.shape[3])
        view = draw_view(size_px, clip.frame_size_px, clip.augment, rng)
        pictures = scale(planes, view).permute(0, 2, 3, 1)
        video = self._jitter(pictures, clip.augment, rng)
        return video, add_noise(audio[: clip.num_samples].contiguous(), clip.augment, rng)


def scale(planes: Tensor, view: View) -> Tensor:
    """Show a view of pictures (T 3 H W) by the fastest bilinear scaling of torch."""
    if view.box is not None:
        top_px, left_px, height_px, width_px = view.box
        planes = planes[:, :, top_px : top_px + height_px, left_px : left_px + width_px]
    shown = interpolate(planes, view.size_px, mode="bilinear")
    if view.part is not None:
        top_px, left_px, height_px, width_px = view.part
        shown = shown[:, :, top_px : top_px + height_px, left_px : left_px + width_px]
    return shown.flip(3) if view.is_flipped else shown


def measure(readers: dict[str, Callable[[int], object]], num_samples: int) -> dict[str, float]:
    """Return the mean milliseconds of processor time of a sample, the first one left out."""
    times_s: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(num_samples + 1):
        for name, read in readers.items():
            begin_s = time.process_time()
            read(number)
            times_s[name].append(time.process_time() - begin_s)
    return {name: 1000 * statistics.mean(times[1:]) for name, times in times_s.items()}


def open_readers(
    clip: ClipParams, sources: list[Path], preprocess_dir: Path
) -> dict[str, Callable[[int], object]]:
    """Return ours and the others, each by its name."""
    load_compiled()  # takes longer than a sample
    table = SampleTable(preprocess_dir)
    task_input = TaskInput("audio_visual", clip)
    ours = TrainingWindows(ClipReader(preprocess_dir, clip), task_input, table, 0)
    shards = sorted((preprocess_dir / "shards").glob("*.tar"))
    rivals = Rivals(clip, sources, shards, torch_colours.jitter_colour)
    helped = Rivals(clip, sources, shards, jitter_colour)
    others = {
        "webdataset + torchcodec, our shards": rivals.read_with_webdataset,
        "the same with our compiled colours": helped.read_with_webdataset,
        "torchcodec, source files": rivals.read_with_torchcodec,
        "decord2, source files": rivals.read_with_decord,
        "PyAV, source files": rivals.read_with_pyav,
    }

    def bind(read: Callable[[np.random.Generator], Window]) -> Callable[[int], object]:
        return lambda number: read(np.random.default_rng([9, number]))

    return {
        "vatt, our shards": lambda number: ours[number // len(table), number % len(table)],
        **{name: bind(read) for name, read in others.items()},
    }


def main() -> None:
    """Print a table for each kind of crop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", type=Path)
    parser.add_argument("--samples", type=int, default=36)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = sorted(path for path in arguments.clips.rglob("*") if path.suffix in SUFFIXES)
    params = load_params(Path("configs/mbs.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        download_dir, preprocess_dir = Path(folder) / "download", Path(folder) / "preprocess"
        sources = make_sources(clips, download_dir / "real")
        names = [source.name for source in sources]
        rows = [ManifestEntry("real", name, "train", path=f"real/{name}") for name in names]
        write_manifest(download_dir, rows)
        preprocess_dir.mkdir()
        update = PAPER | {"vocab_size": 512, "vocabulary": None}
        preprocess = params.preprocess.model_copy(update=update)
        write_corpus(download_dir, preprocess_dir, preprocess, len(os.sched_getaffinity(0)))
        for crop in ("inception", "vgg"):
            augment = params.clip.augment.model_copy(update={"crop": crop})
            clip = params.clip.model_copy(update={"augment": augment})
            print_table(
                crop, measure(open_readers(clip, sources, preprocess_dir), arguments.samples)
            )
        shutil.rmtree(preprocess_dir)


def print_table(crop: str, times_ms: dict[str, float]) -> None:
    """Print samples per second of a core and how many times as many ours are."""
    ours_ms, *_ = times_ms.values()
    print(f"\ncrop: {crop}\n{'':38}samples/s/core  ours against it")
    for name, time_ms in times_ms.items():
        print(f"{name:38}{1000 / time_ms:14.1f}{time_ms / ours_ms:17.2f}")


if __name__ == "__main__":
    main()
