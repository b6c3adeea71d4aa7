"""Parameters of fetching: how hard the web is asked for files, and how long it may take."""

from pydantic import Field

from vatt.params.section import Section


class FetchParams(Section):
    """Limits and patience of everything that comes over http or from a video site."""

    connections: int = Field(default=16, ge=1, le=256)
    """Files fetched at once."""
    connections_per_host: int = Field(default=4, ge=1, le=256)
    """Files fetched at once from one host."""
    tries: int = Field(default=5, ge=1)
    """Of one file in a run, before it is left to the next run; a try that brought 8 MiB is free."""
    backoff_s: float = Field(default=1.0, ge=0)
    """The wait after a first failure; it doubles with each further one, up to a minute."""
    stall_s: float = Field(default=60.0, gt=0)
    """A try ends where no byte came for so long, or fewer than 1000 a second."""
    patience_s: float = Field(default=3600.0, ge=0)
    """A host that answered nothing of use for so long is left to the next run."""
    min_free_gb: float = Field(default=2.0, ge=0)
    """Space of the disk (10^9 bytes) that is never filled; fetching stops with an error instead."""
    ask_gone_again: bool = False
    """Whether files that their host called gone (404, 410, a removed video) are asked for again."""
    site_height_px: int = Field(default=360, ge=144)
    """Of the videos of sites: the largest height up to this one."""
