"""Generated media for all tests: clips whose picture and sound are known, and a zoo of bad input.

A clip shows a bright square that moves to the right on a dark ground, with a quiet tone. At each
`flash_s` the whole picture is white for one frame, and the sound clicks: loud for 10 ms.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

CLICK_S = 0.01
AUDIO_CODECS = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame"}
AUDIO_CODECS |= {".ogg": "libopus", ".webm": "libopus"}
VIDEO_CODECS = {".webm": "libvpx-vp9"}
VIDEO_OPTIONS = {"libx264": {"preset": "ultrafast"}, "libvpx-vp9": {"deadline": "realtime"}}
FORMATS = {".wmv": "asf"}
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


@dataclass(frozen=True)
class Clip:
    """What `write_clip` writes; the suffix of the path chooses container and codecs."""

    duration_s: float = 3.0
    frame_rate_hz: int = 25
    width_px: int = 64
    height_px: int = 48
    sample_rate_hz: int = 44_100
    num_channels: int = 2
    flash_s: tuple[float, ...] = (1.0,)
    video: bool = True
    audio: bool = True
    frame_times_s: tuple[float, ...] | None = None
    """Times of the frames where they are not evenly spaced; `frame_rate_hz` is ignored then."""
    title: str = ""
    audio_codec: str | None = None
    """In place of the one that the suffix of the path chooses."""
    video_codec: str | None = None
    """The same for the picture."""
    num_b_frames: int = 0
    """Frames in a row that are coded after the one that follows them."""
    audio_start_s: float = 0.0
    """Time stamp of the first sample."""
    samples: npt.NDArray[np.float32] | None = None
    """Mono sound in [-1, 1] in place of the tone with clicks."""


def write_clip(path: Path, clip: Clip | None = None) -> Path:
    """Write a clip (H.264 and AAC in MP4, MKV, MOV; VP9 and Opus in WebM) and return its path."""
    clip = clip or Clip()
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=FORMATS.get(path.suffix)) as container:
        container.metadata["title"] = clip.title
        streams: list[tuple[Any, Iterator[Any]]] = []
        if clip.video:
            codec = clip.video_codec or VIDEO_CODECS.get(path.suffix, "libx264")
            options = VIDEO_OPTIONS.get(codec, {})
            video = container.add_stream(codec, rate=clip.frame_rate_hz, options=options)
            video.width, video.height = clip.width_px, clip.height_px
            is_odd = clip.width_px % 2 or clip.height_px % 2
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv444p" if is_odd else "yuv420p"
            # MPEG-4 counts in 16 bits.
            video.codec_context.time_base = Fraction(1, 60_000 if codec == "mpeg4" else 90_000)
            if clip.num_b_frames:
                video.codec_context.max_b_frames = clip.num_b_frames
            streams.append((video, make_frames(clip)))
        if clip.audio:
            codec = clip.audio_codec or AUDIO_CODECS.get(path.suffix, "aac")
            rate_hz = 48_000 if codec == "libopus" else clip.sample_rate_hz
            audio = container.add_stream(codec, rate=rate_hz, layout=LAYOUTS[clip.num_channels])
            streams.append((audio, _audio_frames(clip)))
        for stream, frames in streams:
            for frame in frames:
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def make_frames(clip: Clip) -> Iterator[av.VideoFrame]:
    """Yield the frames of a clip; the first one at or after each flash time is white."""
    times_s = np.arange(round(clip.duration_s * clip.frame_rate_hz)) / clip.frame_rate_hz
    if clip.frame_times_s is not None:
        times_s = np.array(clip.frame_times_s)
    flashes = {int(np.searchsorted(times_s, flash_s - 1e-9)) for flash_s in clip.flash_s}
    side_px = max(2, clip.height_px // 3)
    for number, time_s in enumerate(times_s):
        image = np.full((clip.height_px, clip.width_px, 3), 40, np.uint8)
        left_px = int(time_s * 20) % max(1, clip.width_px - side_px)
        image[side_px : 2 * side_px, left_px : left_px + side_px] = (200, 160, 60)
        if number in flashes:
            image[:] = 255
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = round(time_s * 90_000), Fraction(1, 90_000)
        yield frame


def _audio_frames(clip: Clip) -> Iterator[av.AudioFrame]:
    """Yield the sound of a clip: a quiet 440 Hz tone with loud 2 kHz clicks, or its own samples."""
    sound = clip.samples
    if sound is None:
        times_s = np.arange(round(clip.duration_s * clip.sample_rate_hz)) / clip.sample_rate_hz
        tone = 0.02 * np.sin(2 * np.pi * 440 * times_s)
        for flash_s in clip.flash_s:
            in_click = (times_s >= flash_s) & (times_s < flash_s + CLICK_S)
            tone[in_click] = 0.8 * np.sin(2 * np.pi * 2000 * (times_s[in_click] - flash_s))
        sound = tone.astype(np.float32)
    samples = np.tile(sound, (clip.num_channels, 1))
    for start in range(0, samples.shape[1], 1024):
        part = np.ascontiguousarray(samples[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(part, "fltp", LAYOUTS[clip.num_channels])
        frame.sample_rate = clip.sample_rate_hz
        frame.pts = start + round(clip.audio_start_s * clip.sample_rate_hz)
        frame.time_base = Fraction(1, clip.sample_rate_hz)
        yield frame


def rotate(path: Path) -> None:
    """Turn the picture of an MP4 by 90 degrees in its display matrix; the stored frames stay."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    turned = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, signed=True) for value in turned)
    path.write_bytes(content)


def write_encrypted(path: Path) -> Path:
    """Write a clip under Common Encryption (ISO/IEC 23001-7), as films are sold, without a key."""
    write_clip(path)
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 32}
    options["encryption_kid"] = "f" * 32
    content = BytesIO()
    with av.open(str(path)) as clear, av.open(content, "w", "mp4", options) as container:
        streams = [container.add_stream_from_template(stream) for stream in clear.streams]
        for packet in clear.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    path.write_bytes(content.getvalue())
    return path


VARIABLE_TIMES_S = tuple(np.cumsum([0.0] + [0.02, 0.05, 0.1, 0.03] * 15).tolist())
"""Frames between 20 and 100 ms apart, over 3 s."""

ODD_NAMES = (
    "with spaces.mp4",
    'it\'s "quoted".mp4',
    "emoji \U0001f600 é.mp4",
    "two..dots.mp4",
    "per%20cent #1?.mp4",
    "-dash;$(x)&.mp4",
    "new\nline.mp4",
)

CAPTIONS = {
    "captions_beyond_end": "WEBVTT\n\n00:00.500 --> 00:01.500\ninside\n\n"
    "00:09.000 --> 00:10.000\nbeyond\n",
    "captions_overlapping": "WEBVTT\n\n00:00.000 --> 00:02.000\none\n\n"
    "00:01.000 --> 00:03.000\ntwo\n",
    "captions_empty": "WEBVTT\n\n00:00.000 --> 00:02.000\n\n\n00:02.000 --> 00:03.000\nlast\n",
    "captions_broken": "this is no caption file\n",
}


def write_zoo(folder: Path) -> dict[str, bool]:
    """Fill a folder with one file of each kind of odd or bad input.

    Returns:
        For each media file: whether it holds a picture or sound that can be used. All captions
        belong to usable clips; those of captions_broken.mp4 cannot be read.
    """
    good = Clip()
    clips = {
        "good.mp4": good,
        "no_audio.mp4": replace(good, audio=False),
        "no_video.mp4": replace(good, video=False),
        "sound.wav": replace(good, video=False),
        "variable_rate.mp4": replace(good, frame_times_s=VARIABLE_TIMES_S),
        "odd_size.mp4": replace(good, width_px=63, height_px=47),
        "tall.webm": replace(good, width_px=48, height_px=96),
        "one_frame.mp4": replace(good, frame_times_s=(0.0,), audio=False),
        "mono_8khz.mp4": replace(good, sample_rate_hz=8000, num_channels=1),
        **{f"{name}.mp4": good for name in CAPTIONS},
    }
    for name, clip in clips.items():
        write_clip(folder / name, clip)
    for name, content in CAPTIONS.items():
        (folder / f"{name}.vtt").write_text(content, encoding="utf-8")
    rotate(write_clip(folder / "rotated.mp4"))
    titled = write_clip(folder / "bad_metadata.mp4", Clip(title="TITLE"))
    titled.write_bytes(titled.read_bytes().replace(b"TITLE", b"caf\xe9\xff"))  # not UTF-8
    for name in ODD_NAMES:
        shutil.copy(folder / "good.mp4", folder / name)
    whole = (folder / "good.mp4").read_bytes()  # its index is at the end
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    write_encrypted(folder / "encrypted.mp4")
    (folder / "zero_byte.mp4").touch()
    (folder / "not_media.mp4").write_text("<html>404 not found</html>", encoding="utf-8")
    usable = [*clips, "rotated.mp4", "bad_metadata.mp4", *ODD_NAMES]
    bad = ["truncated.mp4", "encrypted.mp4", "zero_byte.mp4", "not_media.mp4"]
    return dict.fromkeys(usable, True) | dict.fromkeys(bad, False)
