"""Long files need no more memory than short ones, but for a few bytes a second.

As a program this module cuts the files of a folder one after the other, and prints for each the
number of segments and the peak of memory so far, in MB.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import av
import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS
from vatt.corpus.manifest import ManifestEntry
from vatt.preprocess.fragments import write_fragment

PART_S = 64  # whole frames of sound of 1024 samples
CLIP = Clip(duration_s=PART_S + 1.0, frame_rate_hz=2, sample_rate_hz=8000, num_channels=1)


def write_long_file(path: Path, num_parts: int) -> None:
    """Write a file that repeats the same `PART_S` seconds, which are encoded once."""
    part = write_clip(path.with_name(f"part of {path.name}"), CLIP)
    with av.open(str(part)) as source, av.open(str(path), "w") as target:
        copies = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        packets = [
            (packet, packet.pts, packet.dts)
            for packet in source.demux()
            if packet.pts is not None and 0 <= packet.pts * packet.time_base < PART_S
        ]
        for number in range(num_parts):
            for packet, pts, dts in packets:
                shift = round(number * PART_S / packet.time_base)
                packet.pts, packet.dts = pts + shift, dts + shift
                stream, packet.stream = packet.stream, copies[packet.stream]
                target.mux_one(packet)
                packet.stream = stream


def cut_files(folder: Path, names: list[str]) -> None:
    for name in names:
        with tempfile.TemporaryDirectory(dir=folder) as fragments:
            entry = ManifestEntry("s", name, "train", path=name)
            outcome = write_fragment(folder, Path(fragments), PARAMS, entry)
        problems = {segment.problem for segment in outcome.segments}
        assert problems == {None}, problems
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        peak_kb = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
        print(len(outcome.segments), peak_kb / 1024)


@pytest.mark.parametrize(
    ("num_parts", "max_growth_mb"),
    [
        (6, 20),  # all pictures would be 32 MB, all sound 37 MB
        pytest.param(563, 80, marks=pytest.mark.slow),  # 10 hours: 3.0 GB and 3.5 GB; found: 38 MB
    ],
)
def test_memory_does_not_grow_with_a_file(
    tmp_path: Path, num_parts: int, max_growth_mb: float
) -> None:
    write_long_file(tmp_path / "short.mkv", 1)
    write_long_file(tmp_path / "long.mkv", num_parts)
    command = [sys.executable, "-m", __name__, str(tmp_path), "short.mkv", "long.mkv"]
    finished = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    rows = [line.split() for line in finished.stdout.splitlines()]
    segments_per_part = round(PART_S / PARAMS.segment_s)
    assert [int(row[0]) for row in rows] == [segments_per_part, num_parts * segments_per_part]
    assert float(rows[1][1]) - float(rows[0][1]) < max_growth_mb


if __name__ == "__main__":
    cut_files(Path(sys.argv[1]), sys.argv[2:])
