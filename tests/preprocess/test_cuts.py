import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_media import VARIABLE_TIMES_S, Clip, make_frames, write_clip
from tests.preprocess.runs import PARAMS
from vatt.corpus.manifest import Annotation
from vatt.media.captions import Caption
from vatt.media.decoding import MediaError
from vatt.params import PreprocessParams
from vatt.preprocess.cuts import Cut, annotate, cut_file, measure_words, overlap_s, select_context

RATE_HZ = 25.0
AT_25_HZ = PARAMS.model_copy(update={"frame_rate_hz": RATE_HZ})
FLASHES_S = (0.52, 3.96, 4.0, 7.48)
FRAME_S = 1 / RATE_HZ


def cut(
    path: Path, params: PreprocessParams = AT_25_HZ, problems: list[str] | None = None
) -> list[Cut]:
    return list(cut_file(path, params, [] if problems is None else problems))


def find_flashes(cuts: list[Cut]) -> npt.NDArray[np.float64]:
    """Times in the file at which the picture turns white."""
    means = np.concatenate([np.mean(piece.hold_pictures(), (1, 2, 3)) for piece in cuts])
    white = np.flatnonzero(np.diff(means > 180, prepend=False) & (means > 180))
    return cuts[0].start_s + white / RATE_HZ


def find_clicks(cuts: list[Cut]) -> npt.NDArray[np.float64]:
    """Times in the file at which the sound becomes loud after at least 20 ms of less."""
    samples = np.concatenate([piece.sound.samples for piece in cuts]).astype(float)
    loud = np.flatnonzero(np.abs(samples) > 6000)
    return cuts[0].start_s + loud[np.diff(loud, prepend=-9999) > 960] / 48_000


def remux(source: Path, target: Path, change: Callable[[av.Packet], None]) -> Path:
    """Copy a file packet by packet, each after `change`; one that has no time then is left out."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = [new.add_stream_from_template(stream) for stream in old.streams]
        for packet in old.demux():
            if packet.dts is not None:
                change(packet)
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


def delay(packet: av.Packet, offset_s: float) -> None:
    shift = round(offset_s / packet.time_base)
    packet.pts += shift
    packet.dts += shift


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_sound_and_picture_stay_together(suffix: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", Clip(duration_s=9.0, flash_s=FLASHES_S))
    cuts = cut(path)
    np.testing.assert_allclose(find_clicks(cuts), FLASHES_S, atol=0.01)
    # The flashes at 3.96 and 4.0 are one: two frames follow each other.
    np.testing.assert_allclose(find_flashes(cuts), [0.52, 3.96, 7.48], atol=FRAME_S + 1e-9)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("kind", ["audio", "video"])
def test_a_stream_that_starts_later_is_heard_and_seen_later(
    suffix: str, kind: str, tmp_path: Path
) -> None:
    offset_s = 0.48
    source = write_clip(tmp_path / f"in{suffix}", Clip(flash_s=(1.0,)))

    def delay_kind(packet: av.Packet) -> None:
        if packet.stream.type == kind:
            delay(packet, offset_s)

    cuts = cut(remux(source, tmp_path / f"out{suffix}", delay_kind))
    late_s = find_clicks(cuts) - find_flashes(cuts)
    sign = 1 if kind == "audio" else -1
    np.testing.assert_allclose(late_s, [sign * offset_s], atol=0.01 + FRAME_S)
    assert cuts[0].start_offset_s == pytest.approx(sign * offset_s, abs=0.03)
    if kind == "audio":
        assert np.abs(cuts[0].sound.samples[: int(0.4 * 48_000)]).max() == 0
    else:
        assert cuts[0].pictures[3] is None


def test_sound_after_a_gap_is_where_it_was(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", Clip(duration_s=5.0, flash_s=(0.48, 3.52)))

    def drop_a_second(packet: av.Packet) -> None:
        if packet.stream.type == "audio" and 1 < packet.pts * packet.time_base < 2:
            packet.dts = None

    cuts = cut(remux(source, tmp_path / "out.mkv", drop_a_second))
    np.testing.assert_allclose(find_clicks(cuts), [0.48, 3.52], atol=0.01)
    covered_s = sum(piece.sound.num_covered for piece in cuts) / 48_000
    assert covered_s == pytest.approx(4.0, abs=0.1)


def test_variable_frame_rate_shows_each_frame_at_its_time(tmp_path: Path) -> None:
    clip = Clip(frame_times_s=VARIABLE_TIMES_S, flash_s=(0.4, 2.2), duration_s=3.0)
    cuts = cut(write_clip(tmp_path / "clip.mkv", clip))
    times_s = np.array(VARIABLE_TIMES_S)
    shown_s = [times_s[np.searchsorted(times_s, flash_s - 1e-9)] for flash_s in (0.4, 2.2)]
    assert ((find_flashes(cuts) - shown_s >= -0.001) & (find_flashes(cuts) - shown_s < 0.041)).all()


@pytest.mark.parametrize(
    ("duration_s", "lengths_s"),
    [(0.4, [0.4]), (1.2, [1.2]), (4.0, [4.0]), (5.0, [5.0]), (6.0, [4.0, 2.0]), (9.2, [4.0, 5.2])],
)
@pytest.mark.parametrize("kind", ["video", "audio"])
def test_a_short_rest_joins_the_piece_before_it(
    kind: str, duration_s: float, lengths_s: list[float], tmp_path: Path
) -> None:
    clip = Clip(duration_s=duration_s, video=kind == "video", audio=kind == "audio")
    cuts = cut(write_clip(tmp_path / ("clip.mp4" if clip.video else "clip.wav"), clip), PARAMS)
    assert [len(piece.pictures) / PARAMS.frame_rate_hz for piece in cuts] == lengths_s
    assert [len(piece.sound.samples) / 48_000 for piece in cuts] == lengths_s
    starts_s = np.cumsum([0.0, *lengths_s[:-1]])
    np.testing.assert_allclose([piece.start_s for piece in cuts], starts_s)
    assert all(piece.num_pictures for piece in cuts) == (kind == "video")
    assert all(piece.sound.num_covered for piece in cuts) == (kind == "audio")


def test_covers_are_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    source = write_clip(tmp_path / "sound.mp4", Clip(duration_s=2.0, video=False))
    with av.open(str(source)) as old, av.open(str(path), "w", format="mp4") as new:
        audio = new.add_stream_from_template(old.streams.audio[0])
        cover = new.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in old.demux(audio=0):
            if packet.dts is not None:
                packet.stream = audio
                new.mux(packet)
        new.mux(cover.encode(next(make_frames(Clip())).reformat(format="yuvj420p")))
        new.mux(cover.encode(None))
    cuts = cut(path)
    assert [piece.num_pictures for piece in cuts] == [0]
    assert cuts[0].sound.num_covered > 1.9 * 48_000


def test_what_is_left_of_a_broken_off_file_is_kept(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", Clip(duration_s=9.0))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    problems: list[str] = []
    cuts = cut(path, problems=problems)
    assert 2 < sum(len(piece.pictures) for piece in cuts) / RATE_HZ < 7
    assert any("the file ends at" in problem for problem in problems)


def test_damage_in_the_middle_costs_only_the_middle(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", Clip(duration_s=9.0, flash_s=(8.0,)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    cuts = cut(path)
    assert cuts[-1].start_s + len(cuts[-1].pictures) / RATE_HZ == pytest.approx(9.0, abs=0.1)
    np.testing.assert_allclose(find_flashes(cuts)[-1], 8.0, atol=FRAME_S)


def test_absurd_time_stamps_are_refused(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", Clip(audio=False))

    def jump(packet: av.Packet) -> None:
        if packet.pts * packet.time_base > 2:
            delay(packet, 86_400.0)

    with pytest.raises(MediaError, match="time stamps jump from 2"):
        cut(remux(source, tmp_path / "out.mkv", jump))


def test_play_lists_do_not_open_other_files(tmp_path: Path) -> None:
    secret = write_clip(tmp_path / "secret.ts", replace(Clip(), audio=False))
    hls = tmp_path / "list.m3u8"
    hls.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{secret}\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "clip.mp4"
    concat.write_text(f"ffconcat version 1.0\nfile '{secret.name}'\n")
    for play_list in (hls, concat):
        with pytest.raises(MediaError):
            cut(play_list)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"<html>404</html>", "cannot be opened")]
)
def test_what_is_no_media_file_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=reason):
        cut(path)
    with pytest.raises(MediaError, match="No such file"):
        cut(tmp_path / "missing.mp4")


CAPTIONS = [
    Caption(0.0, 2.0, "one two"),
    Caption(3.0, 5.0, "three four five six"),
    Caption(9.0, 10.0, "seven"),
    Caption(30.0, 31.0, "far"),
]


def test_context_reaches_beyond_the_segment_and_is_relative_to_it() -> None:
    assert select_context(CAPTIONS, 4.0, 8.0, 2.5) == [
        Caption(-4.0, -2.0, "one two"),
        Caption(-1.0, 1.0, "three four five six"),
        Caption(5.0, 6.0, "seven"),
    ]
    assert select_context(CAPTIONS, 4.0, 8.0, 0.0) == [Caption(-1.0, 1.0, "three four five six")]


def test_words_of_a_caption_count_by_its_share() -> None:
    # Half of the caption from 3 to 5 s, four words long, lies in the segment of 4 s.
    for start_s, expected in [(4.0, (1, 2 / 4)), (0.0, (2, (2 + 2) / 4))]:
        np.testing.assert_allclose(measure_words(CAPTIONS, start_s, start_s + 4), expected)
    count, words_per_second = measure_words(CAPTIONS, 12.0, 16.0)
    assert count == 0
    assert math.isnan(words_per_second)


def test_labels_hold_where_they_cover_half_of_the_segment() -> None:
    annotations = [
        Annotation("place", "kitchen"),
        Annotation("action", "cut", 0.0, 5.0),
        Annotation("action", "stir", 5.0, 9.0),
        Annotation("caption", None, 0.0, 6.1, "A person cuts."),
        Annotation("caption", None, 6.1, 20.0, "A person stirs."),
        Annotation("event", "bang", 4.0, 4.5),
    ]
    labels, descriptions = annotate(annotations, 4.0, 8.0)
    assert labels == {"place": ["kitchen"], "action": ["stir"]}
    assert descriptions == ["A person cuts."]
    assert annotate(annotations, 12.0, 16.0) == ({"place": ["kitchen"]}, ["A person stirs."])
    assert annotate([], 0.0, 4.0) == ({}, [])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.1, 30.0), st.floats(0.0, 60.0), st.sampled_from([4.0, 10.0]), st.floats(61.0, 90.0)
)
def test_no_description_is_lost_however_short(
    length_s: float, start_s: float, segment_s: float, file_s: float
) -> None:
    """Files are cut into segments of equal length and a rest of 2 s or more."""
    step = Annotation("caption", None, start_s, min(start_s + length_s, file_s), "Stir.")
    starts = [segment_s * number for number in range(int((file_s - 2) / segment_s) + 1)]
    ends = [*starts[1:], file_s]
    overlaps = [overlap_s(step, *times) for times in zip(starts, ends, strict=True)]
    holds = [bool(annotate([step], *times)[1]) for times in zip(starts, ends, strict=True)]
    assert holds[overlaps.index(max(overlaps))]
    assert all(overlap > 0 for overlap, held in zip(overlaps, holds, strict=True) if held)
    # Labels are of what is trained on: one that holds for a moment is none of the segment.
    moment = Annotation("event", "bang", start_s, start_s + 0.1)
    assert annotate([moment], 0.0, segment_s)[0] == {}


def test_all_labels_and_descriptions_are_kept_the_longest_first() -> None:
    annotations = [
        Annotation("event", "bark", 0.0, 3.0),
        Annotation("event", "speech"),
        Annotation("event", "bark", 0.0, 4.0),
        Annotation("caption", text="A dog.", start_s=0.0, end_s=2.0),
        Annotation("event", "music", 0.0, 3.0),
        Annotation("caption", text="A dog barks."),
        Annotation("caption", text="A dog."),
    ]
    labels, descriptions = annotate(annotations, 0.0, 4.0)
    assert labels == {"event": ["speech", "bark", "music"]}
    assert descriptions == ["A dog barks.", "A dog."]
    equal = [Annotation("action", "b"), Annotation("action", "a")]  # in the manifest's order
    assert annotate(equal, 0.0, 1.0)[0] == {"action": ["b", "a"]}
