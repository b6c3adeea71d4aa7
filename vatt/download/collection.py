"""What a source brings: rows of the manifest, files that are no input, and counts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from vatt.corpus.manifest import Annotation, ManifestEntry, Split

Outcome = Literal["found", "missing", "unusable"]


class IgnoredFile(NamedTuple):
    """A file, or a row of an official list, that is no input."""

    source: str
    path: str
    reason: str


@dataclass
class ListCounts:
    """What became of the items of a data set's official list."""

    outcomes: Counter[tuple[Split, Outcome]] = field(default_factory=Counter)
    unused: int = 0
    """Items that this fold or protocol leaves out."""

    def to_metrics(self) -> dict[str, Any]:
        """Return listed = found + missing + unusable, in all and by split, and what is unused."""
        splits = [name for name in get_args(Split) if name in {split for split, _ in self.outcomes}]
        by_split = {split: self._sum(split) for split in splits}
        return {**self._sum(*splits), "unused": self.unused, "by_split": by_split}

    def _sum(self, *splits: Split) -> dict[str, int]:
        counts = {
            outcome: sum(self.outcomes[split, outcome] for split in splits)
            for outcome in get_args(Outcome)
        }
        return {"listed": sum(counts.values()), **counts}


@dataclass
class Collection:
    """What a source holds: a row for each input, and the files that are none."""

    source: str
    entries: list[ManifestEntry] = field(default_factory=list)
    ignored: list[IgnoredFile] = field(default_factory=list)
    listed: ListCounts | None = None
    """Only where there is an official list."""

    def add(
        self,
        name: str,
        split: Split,
        annotations: tuple[Annotation, ...] = (),
        captions: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        """Add the row of a file that is here, or for the reason given is not."""
        status: Literal["ok", "failed"] = "failed" if reason else "ok"
        path = None if reason else f"{self.source}/{name}"
        row = ManifestEntry(
            self.source, name, split, status, path, reason, annotations=annotations,
            **(captions or {}),
        )  # fmt: skip
        self.entries.append(row)

    def transcribe(self) -> None:
        """Let preprocess transcribe the files that have no captions."""
        self.entries = [
            replace(row, transcribe=row.status == "ok" and row.captions_path is None)
            for row in self.entries
        ]

    def ignore(self, name: str, reason: str) -> None:
        """Note a file that is no input."""
        self.ignored.append(IgnoredFile(self.source, name, reason))


def describe_captions(source: str, name: str, problem: str | None = None) -> dict[str, Any]:
    """Return the fields of a manifest row for its caption file, which may not have come."""
    if problem:
        return {"caption_problem": f"{name}: {problem}"}
    return {"captions_path": f"{source}/{name}"}
