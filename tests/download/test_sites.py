"""Videos of sites, through the real yt-dlp: its generic site plays a file of a local server."""

import errno
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import av
import pytest

from tests.download.misbehaving_server import Record, serve
from tests.made_media import Clip, write_clip
from vatt.core.errors import StageError
from vatt.download.fetch import STATE_DIR, fetch_all
from vatt.download.remote_files import FetchError, GoneError, HostError, SiteVideo
from vatt.download.sites import _classify, _options
from vatt.params import FetchParams

yt_dlp: Any = pytest.importorskip("yt_dlp")

QUICK = FetchParams(tries=4, backoff_s=0.01, stall_s=1.5, min_free_gb=0.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of 12 s."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, Clip(duration_s=12.0, flash_s=(6.0,)))
    return path.read_bytes()


def test_videos_of_a_site_end_right(clip: bytes) -> None:
    mended = ["well", "half", "500_twice", "busy", "stall_before"]
    with serve() as (address, record):
        record.files |= {f"/{kind}/v.mp4": clip for kind in mended}
        files = [SiteVideo(f"{kind}.mp4", f"{address}/{kind}/v.mp4") for kind in mended]
        files.append(SiteVideo("gone.mp4", f"{address}/refuse/404/v.mp4"))
        found = fetch_all(files, Path("out"), QUICK)
        assert {name for name, problem in found.items() if problem} == {"gone.mp4"}
        assert "404" in str(found["gone.mp4"])
        for kind in mended:
            assert Path(f"out/{kind}.mp4").read_bytes() == clip, kind
        assert any(record.ranges("/half/v.mp4"))  # the rest alone
        assert list((STATE_DIR / "partial" / "out").iterdir()) == []
        record.requests.clear()
        assert fetch_all(files, Path("out"), QUICK) == found
        assert record.requests == []


def fetch_section(
    server: tuple[str, Record], clip: bytes, end_s: float, kind: str = "well"
) -> str | None:
    address, record = server
    record.files[f"/{kind}/v.mp4"] = clip
    video = SiteVideo("v.mp4", f"{address}/{kind}/v.mp4", start_s=end_s - 4.0, end_s=end_s)
    return fetch_all([video], Path("out"), QUICK)["v.mp4"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_section_alone(clip: bytes) -> None:
    with serve() as server:
        assert fetch_section(server, clip, 9.0) is None
        with av.open("out/v.mp4") as container:
            assert container.duration is not None
            assert container.duration / 1e6 == pytest.approx(4.0, abs=0.3)
        before = Path("out/v.mp4").read_bytes()
        assert fetch_section(server, clip, 8.0) is None  # another section, another file
        assert Path("out/v.mp4").read_bytes() != before
        assert "section is empty" in str(fetch_section(server, clip, 9.0, "no_seeking"))


@pytest.mark.parametrize(
    ("section_s", "good", "bad", "message"),
    [
        ((), {"duration": 5.0}, {"is_live": True}, "is live"),
        ((30.0, 40.0), {"duration": 31}, {"duration": 30}, "ends at 30 s, before the section"),
    ],
)
def test_what_has_no_end_or_ends_too_soon(
    section_s: tuple[float, ...], good: dict[str, Any], bad: dict[str, Any], message: str
) -> None:
    if section_s and shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    video = SiteVideo("v", "http://x/v", None, None, *section_s)
    refuse = _options(video, Path("x"), QUICK, threading.Event())["match_filter"]
    assert refuse(good, incomplete=False) is None
    with pytest.raises(GoneError, match=message):
        refuse(bad, incomplete="is_live" in bad)


def test_a_section_without_ffmpeg(clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with serve() as server, pytest.raises(StageError, match="needs the program ffmpeg"):
        fetch_section(server, clip, 9.0)


def test_yt_dlp_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(StageError, match=r"pip install '\.\[sites\]'"):
        fetch_all([SiteVideo("v", "http://127.0.0.1:9/v")], Path("out"), QUICK)


def test_an_extractor_that_fails_costs_its_video_only(
    clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = yt_dlp.extractor.generic.GenericIE._real_extract
    raised = {"/type/": TypeError("no\nsubscript"), "/reset/": ConnectionResetError(104, "reset")}

    def fail(self: Any, address: str) -> Any:
        for part, error in raised.items():
            if part in address:
                raise error
        return extract(self, address)

    monkeypatch.setattr(yt_dlp.extractor.generic.GenericIE, "_real_extract", fail)
    with serve() as (address, record):
        record.files["/well/v.mp4"] = clip
        kinds = ("type", "reset", "well")
        files = [SiteVideo(kind, f"{address}/{kind}/v.mp4") for kind in kinds]
        assert fetch_all(files, Path("out"), QUICK) == {
            "type": "cannot be fetched: yt-dlp failed: TypeError: no",
            "reset": "cannot be fetched: yt-dlp failed: reset",
            "well": None,
        }
        raised["/well/"] = OSError(errno.EIO, "broken disk")
        Path("out/well").unlink()
        with pytest.raises(OSError, match="broken disk"):
            fetch_all(files, Path("out"), QUICK)


SAID = {
    "[youtube] x: Private video. Sign in if you've been granted access to this video": GoneError,
    "[youtube] x: Video unavailable. This video has been removed by the uploader": GoneError,
    "[youtube] x: Video unavailable": GoneError,
    "[youtube] x: This video has been removed for violating YouTube's Terms of Service": GoneError,
    "[youtube] x: Video unavailable. This video is no longer available because the YouTube account "
    "associated with this video has been terminated.": GoneError,
    "[youtube] x: Sign in to confirm your age. This video may be inappropriate": GoneError,
    "[youtube] x: The uploader has not made this video available in your country": GoneError,
    "[youtube] x: Join this channel to get access to members-only content": GoneError,
    "[youtube] x: Sign in to confirm you’re not a bot. Use --cookies": HostError,
    "[youtube] x: Video unavailable. This content isn't available, try again later. The current "
    "session has been rate-limited by YouTube": HostError,
    "unable to download video data: HTTP Error 429: Too Many Requests": HostError,
    "[youtube] x: Failed to extract any player response": FetchError,
}


@pytest.mark.parametrize("words", SAID)
def test_what_sites_say_is_told_apart(words: str) -> None:
    told = _classify(yt_dlp.utils.DownloadError(f"ERROR: {words}"), yt_dlp)
    assert type(told) is SAID[words]
    assert told.reason == words


def test_errors_are_told_apart_by_their_type() -> None:
    geo = yt_dlp.utils.GeoRestrictedError("Not here", countries=["FR"])
    refused = yt_dlp.networking.exceptions.TransportError("Connection reset by peer")
    for known, kind in ((geo, GoneError), (refused, HostError)):
        error = yt_dlp.utils.DownloadError("ERROR: x", exc_info=(type(known), known, None))
        assert type(_classify(error, yt_dlp)) is kind
