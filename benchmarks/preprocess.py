"""Preprocess against the bare ffmpeg command that does the same transcode, and 1 % new videos.

Usage: python -m benchmarks.preprocess CLIPS [--copies N] [--only ffmpeg|one_percent], with a folder
of real videos and the program ffmpeg. The videos count as many times as there are copies. Sizes are
those of the paper. ffmpeg works on as many files at once as there are cores, on one thread each, as
preprocess does, with its filters and settings; only preprocess makes segments, index, captions and
measures.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av

from vatt.corpus.manifest import ManifestEntry, write_manifest
from vatt.params import PreprocessParams, load_params

SUFFIXES = {".mp4", ".mkv", ".webm"}
NUM_CORES = len(os.sched_getaffinity(0))
NUM_ROUNDS = 3
PAPER = {"frame_rate_hz": 10.0, "short_side_px": 256, "key_frame_interval": 10}
FLAGS = "accurate_rnd+bitexact+full_chroma_inp+full_chroma_int"


class Spent(NamedTuple):
    """The time that a piece of work took."""

    wall_s: float
    cpu_s: float


def measure(work: Callable[[], object]) -> Spent:
    """Run some work, here and in processes that end with it, and return what it took."""
    begin_s, cpu_s = time.perf_counter(), _read_cpu_s()
    work()
    return Spent(time.perf_counter() - begin_s, _read_cpu_s() - cpu_s)


def _read_cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def link_clips(clips: list[Path], download_dir: Path, num_copies: int, num_new: int = 0) -> None:
    """Write a manifest of copies of clips, and of the first clips once more as new videos."""
    names = [(f"{copy}/{clip.name}", clip) for copy in range(num_copies) for clip in clips]
    names += [(f"new/{clip.name}", clip) for clip in clips[:num_new]]
    for name, clip in names:
        path = download_dir / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            shutil.copyfile(clip, path)
    rows = [ManifestEntry("clips", name, "train", path=f"clips/{name}") for name, _ in names]
    write_manifest(download_dir, rows)


def build_command(clip: Path, params: PreprocessParams, out_path: Path) -> list[str]:
    """Return the ffmpeg command that does with a clip what preprocess does."""
    with av.open(str(clip)) as container:
        frame, has_sound = next(container.decode(video=0)), bool(container.streams.audio)
    side_px = params.short_side_px
    size = f"-2:{side_px}" if frame.width > frame.height else f"{side_px}:-2"
    kind = "area" if min(frame.width, frame.height) > side_px else "bicubic"
    filters = (
        f"fps={params.frame_rate_hz},scale={size}:flags={kind}+{FLAGS}"
        f":out_color_matrix=bt601:out_range=tv,format=yuv420p"
    )
    interval = params.key_frame_interval
    picture = f"-c:v libx264 -preset veryfast -crf {params.video_crf} -g {interval}"
    picture += " -bf 0 -sc_threshold 0 -x264-params mbtree=0 -threads 1"
    sound = "-c:a flac -compression_level 3 -ar 48000 -ac 1 -sample_fmt s16 -threads 1"
    return [
        *("ffmpeg", "-nostdin", "-v", "error", "-y", "-threads", "1", "-i", str(clip)),
        *("-filter_threads", "1", "-map", "0:v:0", "-vf", filters, *picture.split()),
        f"{out_path}.mp4",
        *(("-map", "0:a:0", *sound.split(), f"{out_path}.flac") if has_sound else ()),
    ]


def run_ffmpeg(commands: list[list[str]]) -> None:
    """Run commands, as many at once as there are cores."""
    with ThreadPoolExecutor(NUM_CORES) as pool:
        list(pool.map(partial(subprocess.run, check=True), commands))


def run_preprocess(folder: Path, params: PreprocessParams, store_dir: Path | None = None) -> None:
    """Preprocess `folder`/download into `folder`/out."""
    from vatt.preprocess.corpus import write_corpus  # not again in every process

    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    write_corpus(folder / "download", folder / "out", params, NUM_CORES, store_dir)


def compare_with_ffmpeg(
    clips: list[Path], folder: Path, num_copies: int, params: PreprocessParams
) -> None:
    """Print how fast both are, in turn, and the ratio of the medians."""
    link_clips(clips, folder / "download", num_copies)
    commands = [
        build_command(clip, params, folder / f"{clip.name}.{copy}")
        for copy in range(num_copies)
        for clip in clips
    ]
    works = partial(run_ffmpeg, commands), partial(run_preprocess, folder, params)
    rounds = [[measure(work) for work in works] for _ in range(NUM_ROUNDS)]
    for name, index in (("seconds", 0), ("core seconds", 1)):
        bare_s, our_s = (
            statistics.median(cost[index] for cost in costs) for costs in zip(*rounds, strict=True)
        )
        print(f"{name}: ffmpeg {bare_s:.1f}, preprocess {our_s:.1f}, ratio {bare_s / our_s:.2f}")


def measure_one_percent(
    clips: list[Path], folder: Path, num_copies: int, params: PreprocessParams
) -> None:
    """Print what all cost at first, and what 1 % more cost then."""
    num_new = max(1, len(clips) * num_copies // 100)
    run = partial(run_preprocess, folder, params, folder / "store")
    link_clips(clips, folder / "download", num_copies)
    whole = measure(run)
    link_clips(clips, folder / "download", num_copies, num_new)
    more = measure(run)
    print(
        f"{len(clips) * num_copies} files {whole.wall_s:.1f} s ({whole.cpu_s:.1f} core seconds), "
        f"{num_new} more {more.wall_s:.2f} s ({more.cpu_s:.2f}); "
        f"3 % and a second are {0.03 * whole.wall_s + 1:.2f} s ({0.03 * whole.cpu_s + 1:.2f})"
    )


def main() -> None:
    """Run both comparisons."""
    import vatt.preprocess.corpus  # noqa: F401 - the imports are not what is measured

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--only", choices=["ffmpeg", "one_percent"])
    arguments = parser.parse_args()
    clips = sorted(path for path in arguments.clips.rglob("*") if path.suffix in SUFFIXES)
    params = load_params(Path("params.yaml")).preprocess.model_copy(update=PAPER)
    comparisons = {"ffmpeg": compare_with_ffmpeg, "one_percent": measure_one_percent}
    for name, compare in comparisons.items():
        if arguments.only not in {None, name}:
            continue
        with tempfile.TemporaryDirectory() as folder:
            compare(clips, Path(folder), arguments.copies, params)


if __name__ == "__main__":
    main()
