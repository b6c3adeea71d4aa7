"""Makes long files, and cuts files while it looks at its memory.

Usage: python -m tests.preprocess.long_file FOLDER NAME...: cuts the files of a folder one
after the other and prints for each the number of segments and the peak of memory so far, in MB.
"""

import sys
import tempfile
from pathlib import Path

import av

from tests.made_media import Clip, write_clip
from tests.preprocess.parameters import PARAMS
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


def read_peak_mb() -> float:
    """Return the most memory that this process has had at once."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main() -> None:
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        with tempfile.TemporaryDirectory(dir=folder) as fragments:
            entry = ManifestEntry("s", name, "train", path=name)
            outcome = write_fragment(folder, Path(fragments), PARAMS, entry)
        problems = {segment.problem for segment in outcome.segments}
        assert problems == {None}, problems
        print(len(outcome.segments), read_peak_mb())


if __name__ == "__main__":
    main()
