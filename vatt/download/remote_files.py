"""Files of a source before they are fetched, archives and videos of sites; how fetching fails."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from vatt.core.files import MAX_NAME_BYTES

MAX_PATH = 1000
HIDDEN = "is hidden: a name that starts with a dot"


@dataclass(frozen=True)
class StoredFile:
    """A file that a source names; or something that is no file, with the reason."""

    name: str
    """The POSIX path below the folder of the source, always UTF-8; a folder's ends with a slash."""
    address: str
    problem: str | None = field(default=None, kw_only=True)
    """Why it cannot be fetched."""


@dataclass(frozen=True)
class RemoteFile(StoredFile):
    """A file behind an http address."""

    sha256: str | None = None
    """What its bytes must give, in hexadecimal digits; or `md5`, where only that is published."""
    md5: str | None = None

    @property
    def host(self) -> str:
        """Server and port of the address: what limits are kept for."""
        return urlsplit(self.address).netloc.rpartition("@")[2].lower()

    @property
    def identity(self) -> str:
        """What the bytes depend on: when it changes, the file is fetched anew."""
        return self.address


@dataclass(frozen=True)
class RemoteArchive(RemoteFile):
    """A zip, tar or compressed tar; `name` is the folder that it is unpacked to."""


@dataclass(frozen=True)
class SiteVideo(RemoteFile):
    """A video behind the address of its page, fetched by yt-dlp."""

    start_s: float | None = None
    end_s: float | None = None
    """The section to fetch; both or none, for all of it."""

    @property
    def identity(self) -> str:
        """Address and section."""
        return f"{self.address}#t={self.start_s},{self.end_s}" if self.end_s else self.address


def stays_inside(name: str) -> bool:
    """Whether a relative POSIX path names something below its folder."""
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def check_name(name: str) -> str | None:
    """Return why a file of this name is not taken, None if it can be."""
    if problem := _check_place(name):
        return problem
    return HIDDEN if any(part.startswith(".") for part in name.split("/")) else None


def check_remote(file: RemoteFile) -> str | None:
    """Return why a file cannot be fetched under its name or from its address; else None."""
    if problem := _check_place(file.name):
        return problem
    try:
        parts = urlsplit(file.address)
        hostname, _ = parts.hostname, parts.port  # a bad port raises when it is read
    except ValueError as error:
        return f"the address cannot be read: {error}"
    if parts.scheme not in ("http", "https") or not hostname:
        return f"the address must begin with http:// or https:// and a host: {file.address!r}"
    return None


def _check_place(name: str) -> str | None:
    """Return why no file can be written under a name below a folder, None if one can."""
    if not stays_inside(name):
        return "the name leaves the folder"
    try:
        longest = max(len(part.encode()) for part in name.split("/"))
    except UnicodeEncodeError:
        return "the name cannot be written in UTF-8"
    if longest > MAX_NAME_BYTES or len(name) > MAX_PATH:
        return f"the name is too long: {MAX_NAME_BYTES} bytes a part, {MAX_PATH} letters in all"
    return None


class FetchError(Exception):
    """One try failed; another one may succeed."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        """How long the host asks to be left alone, if it says."""


class HostError(FetchError):
    """The host did not answer, or with an error of its own: its other files wait, too."""


class GoneError(FetchError):
    """The file is not to be had: asking again is no use."""


def describe(error: BaseException) -> str:
    """Say in one line what went wrong, without the address."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}".splitlines()[0]
