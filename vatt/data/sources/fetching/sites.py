"""Videos of sites, through yt-dlp: the optional extra `pip install .[sites]`."""

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vatt.data.sources.fetching.disk import name_full_disk, require_space
from vatt.data.sources.fetching.remote_file import (
    FetchError,
    GoneError,
    HostError,
    SiteVideo,
    StoppedError,
)
from vatt.data.sources.fetching.transfer import Conditions
from vatt.params import StageError

GONE = (
    "private video", "video is private", "video unavailable", "video is unavailable",
    "video is not available", "not available in your country", "has been removed",
    "been terminated", "no longer available", "does not exist", "has been deleted",
    "members-only", "join this channel", "requires payment", "drm protected", "confirm your age",
    "unsupported url", "is not a valid url", "premieres in", "blocked it",
)  # fmt: skip
"""Words of sites for what stays so; yt-dlp passes them on as text."""
BUSY = ("too many requests", "rate-limited", "rate limit", "not a bot", "try again later")
"""Words of sites for "you ask too often"; looked for first."""


def fetch_video(file: SiteVideo, folder: Path, conditions: Conditions) -> Path:
    """Fetch a video, or a section of it, into `folder`; what an earlier try left there is used.

    Returns:
        The one file that came.

    Raises:
        FetchError: it did not come.
        StageError: yt-dlp or ffmpeg is not installed, or the disk is full.
        StoppedError: `conditions.stopped` was set.
    """
    yt_dlp = _import_yt_dlp()
    folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, 0, conditions.params.min_free_gb)
    options = _options(file, folder, conditions)
    try:
        with name_full_disk(folder), yt_dlp.YoutubeDL(options) as site:
            if file.start_s is not None:
                site.params["download_ranges"] = yt_dlp.utils.download_range_func(
                    None, [(file.start_s, file.end_s)]
                )
            found = site.extract_info(file.address, download=True)
    except yt_dlp.utils.DownloadError as error:
        if conditions.stopped.is_set():
            raise StoppedError from error
        raise _tell(error, yt_dlp) from error
    if found.get("_type") == "playlist":
        raise GoneError("the page holds a list of videos, not one")
    made = [Path(part["filepath"]) for part in found.get("requested_downloads") or []]
    if len(made) != 1 or not made[0].is_file():
        raise FetchError("the site gave no file")
    return made[0]


def _import_yt_dlp() -> Any:
    try:
        return importlib.import_module("yt_dlp")
    except ImportError as error:
        raise StageError(
            "download.sources: videos of sites need yt-dlp: pip install '.[sites]'"
        ) from error


def _options(file: SiteVideo, folder: Path, conditions: Conditions) -> dict[str, Any]:
    """Return yt-dlp's options: silent, one file, tries and waits left to the schedule."""
    ffmpeg = shutil.which("ffmpeg")
    if file.start_s is not None and ffmpeg is None:
        raise StageError("download.sources: a section of a site's video needs the program ffmpeg")

    def watch(progress: Mapping[str, Any]) -> None:
        if conditions.stopped.is_set():
            raise StoppedError
        if progress["status"] == "downloading":
            require_space(folder, 0, conditions.params.min_free_gb)

    return {
        # Without ffmpeg, picture and sound that come apart cannot be joined.
        "format": "bv*+ba/b" if ffmpeg else "b/bv*/ba",
        "format_sort": [f"res:{conditions.params.site_height_px}", "ext:mp4:m4a"],
        "outtmpl": str(folder / "video.%(ext)s").replace("%", "%%").replace("%%(ext)", "%(ext)"),
        "playlist_items": "1",
        "noplaylist": True,
        "progress_hooks": [watch],
        "socket_timeout": conditions.params.stall_s,
        "retries": 0,
        "fragment_retries": 3,
        "extractor_retries": 0,
        "throttledratelimit": None,
        "cachedir": False,
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silence(),
    }


class _Silence:
    """Takes yt-dlp's messages: its errors come as exceptions as well."""

    def debug(self, message: str) -> None:
        """Drop a message."""

    info = warning = error = debug


def _tell(error: Any, yt_dlp: Any) -> FetchError:
    """Tell failures for good from those that may pass, by the error's type, else by its words."""
    cause = error.exc_info[1] if error.exc_info else error
    root = getattr(cause, "cause", None) or cause
    words = str(cause).replace("ERROR: ", "").splitlines()[0]
    status = getattr(root, "status", None)
    lower = words.lower()
    if status in (429, 503) or any(word in lower for word in BUSY):
        return HostError(words)
    if status in (404, 410, 451) or isinstance(
        cause, (yt_dlp.utils.GeoRestrictedError, yt_dlp.utils.UnsupportedError)
    ):
        return GoneError(words)
    if any(word in lower for word in GONE):
        return GoneError(words)
    if isinstance(root, yt_dlp.networking.exceptions.TransportError):
        return HostError(words)
    return FetchError(words)
