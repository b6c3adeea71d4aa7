"""Videos of sites, through yt-dlp: the optional extra `pip install .[sites]`."""

import errno
import importlib
import logging
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av

from vatt.core.disk import name_disk_errors, require_space
from vatt.core.errors import StageError
from vatt.download.remote_files import FetchError, GoneError, HostError, SiteVideo, describe
from vatt.params import FetchParams

GONE = (
    "private video", "video is private", "video unavailable", "video is unavailable",
    "video is not available", "in your country", "has been removed",
    "been terminated", "no longer available", "does not exist", "has been deleted",
    "members-only", "join this channel", "requires payment", "drm protected", "confirm your age",
    "unsupported url", "is not a valid url", "premieres in", "blocked it",
)  # fmt: skip
"""Words of sites for what stays so; yt-dlp passes them on as text."""
BUSY = ("too many requests", "rate-limited", "rate limit", "not a bot", "try again later")
"""Words of sites for "you ask too often"; looked for first."""
SILENCE = logging.getLogger("vatt.silence")
"""Takes yt-dlp's messages: its errors come as exceptions as well."""
SILENCE.disabled = True


class _StoppedError(Exception):
    """Fetching was stopped from outside; what came so far is kept."""


def fetch_video(
    file: SiteVideo, folder: Path, params: FetchParams, stopped: threading.Event
) -> Path:
    """Fetch a video, or a section of it, into `folder`; what an earlier try left there is used.

    Returns:
        The one file that came.

    Raises:
        FetchError: it did not come.
        StageError: yt-dlp or ffmpeg is not installed, or the disk is full.
        Exception: `stopped` was set meanwhile.
    """
    yt_dlp = _import_yt_dlp()
    folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, 0, params.min_free_gb)
    options = _options(file, folder, params, stopped)
    if file.start_s is not None:
        section = (file.start_s, file.end_s)
        options["download_ranges"] = yt_dlp.utils.download_range_func(None, [section])
    try:
        with name_disk_errors(folder), yt_dlp.YoutubeDL(options) as site:
            found = site.extract_info(file.address, download=True) or {}
    except yt_dlp.utils.YoutubeDLError as error:
        if stopped.is_set():
            raise _StoppedError from error
        if os.strerror(errno.ENOSPC) in str(error):
            raise StageError(
                f"{folder}: cannot be written: {error}; make room, run again"
            ) from error
        raise _classify(error, yt_dlp) from error
    except (_StoppedError, StageError, FetchError):
        raise
    except Exception as error:  # a site that changed: its extractor fails in any way
        if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)):
            raise
        raise FetchError(f"yt-dlp failed: {describe(error)}") from error
    made = [Path(part["filepath"]) for part in found.get("requested_downloads") or []]
    if len(made) != 1 or not made[0].is_file():
        raise GoneError("the page holds no single video, or none at all")
    if file.start_s is not None and _is_empty(made[0]):
        made[0].unlink()
        raise GoneError("the section is empty: the server cannot send a part of a file")
    return made[0]


def _import_yt_dlp() -> Any:
    try:
        return importlib.import_module("yt_dlp")
    except ImportError as error:
        raise StageError(
            "download.sources: videos of sites need yt-dlp: pip install '.[sites]'"
        ) from error


def _options(
    file: SiteVideo, folder: Path, params: FetchParams, stopped: threading.Event
) -> dict[str, Any]:
    """Return yt-dlp's options: silent, one file, tries and waits left to the schedule."""
    ffmpeg = shutil.which("ffmpeg")
    if file.start_s is not None and ffmpeg is None:
        raise StageError("download.sources: a section of a site's video needs the program ffmpeg")

    def watch(progress: Mapping[str, Any]) -> None:
        if stopped.is_set():
            raise _StoppedError
        if progress["status"] == "downloading":
            require_space(folder, 0, params.min_free_gb)

    def refuse(info: Mapping[str, Any], *, incomplete: bool) -> str | None:
        if info.get("is_live"):
            raise GoneError("the video is live: it has no end")
        duration_s = info.get("duration")
        if not incomplete and duration_s and (file.start_s or 0.0) >= duration_s:
            raise GoneError(f"the video ends at {duration_s} s, before the section")
        return None

    return {
        # Without ffmpeg, picture and sound that come apart cannot be joined.
        "format": "bv*+ba/b" if ffmpeg else "b/bv*/ba",
        "format_sort": [f"res:{params.site_height_px}", "ext:mp4:m4a"],
        "paths": {"home": str(folder)},
        "outtmpl": "video.%(ext)s",
        "playlist_items": "1",
        "noplaylist": True,
        "match_filter": refuse,
        "progress_hooks": [watch],
        "socket_timeout": params.stall_s,
        "external_downloader_args": {"ffmpeg_i": ["-rw_timeout", f"{params.stall_s * 1e6:.0f}"]},
        "retries": 0,
        "extractor_retries": 0,
        "cachedir": False,
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": SILENCE,
    }


def _is_empty(path: Path) -> bool:
    """Whether a file holds not one packet of picture or sound."""
    try:
        with av.open(str(path)) as container:
            return not any(packet.size for packet in container.demux())
    except av.FFmpegError:
        return True


def _classify(error: BaseException, yt_dlp: Any) -> FetchError:
    """Return whether a failure is for good, by the errors' types, else by their words."""
    errors: list[Any] = [error]
    if getattr(error, "exc_info", None):
        errors.append(error.exc_info[1])  # type: ignore[attr-defined]
    errors += [cause for known in errors if (cause := getattr(known, "cause", None))]
    reason = str(error).removeprefix("ERROR: ").splitlines()[0]
    statuses = {getattr(known, "status", None) for known in errors}
    words, types = reason.lower(), yt_dlp.utils
    if statuses & {429, 503} or any(word in words for word in BUSY):
        return HostError(reason)
    for_good = (types.GeoRestrictedError, types.UnsupportedError, types.UnavailableVideoError)
    is_gone = statuses & {404, 410, 451} or any(isinstance(known, for_good) for known in errors)
    if is_gone or any(word in words for word in GONE):
        return GoneError(reason)
    if any(isinstance(known, yt_dlp.networking.exceptions.TransportError) for known in errors):
        return HostError(reason)
    return FetchError(reason)
