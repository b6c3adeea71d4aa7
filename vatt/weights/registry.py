"""The champion: the best export so far, with the record of why it was chosen.

It lives in data/promote/champion. While it is being replaced, the complete new one already stands
at data/promote/champion.next and counts: so there is one champion at every moment.
"""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, write_json
from vatt.params import PromoteParams, Section

CHAMPION, NEXT = "champion", "champion.next"
REGISTRY_DIR = Path("data/promote")
RECORD, CARD = "record.json", "README.md"


class Decision(Section):
    """Whether an export became the champion, and by which numbers; None was not measurable."""

    promoted: bool
    reason: str
    metric: str
    challenger: float | None = None
    champion: float | None = None


class Record(Section):
    """What is known of a champion: record.json beside its weights."""

    export_digest: str
    data_version: str
    """The digest of the index of the corpus that the champion was evaluated on."""
    test_data: str
    """The digest of the test split that it was evaluated on."""
    code_version: str
    """The git commit, or "unknown"."""
    parameters: Mapping[str, Any]
    metrics: Mapping[str, Any]
    decision: Decision


class Champion(NamedTuple):
    """The folder of the champion and its record."""

    path: Path
    record: Record


def find_export(name: str | Path, registry_dir: Path = REGISTRY_DIR) -> Path:
    """Return the folder of an export: that of the champion for "champion", else `name` itself.

    Raises StageError if there is no champion yet.
    """
    if name != CHAMPION:
        return Path(name)
    for folder in (registry_dir / NEXT, registry_dir / CHAMPION):
        if folder.is_dir():
            return folder
    raise StageError(
        f"{registry_dir / CHAMPION}: there is no champion yet; the first finished run of "
        "promote makes one, or name the folder of an export"
    )


def read_champion(registry_dir: Path = REGISTRY_DIR) -> Champion | None:
    """Return the champion with its record, None where there is none.

    Raises StageError if the record is missing or damaged.
    """
    try:
        path = find_export(CHAMPION, registry_dir)
    except StageError:
        return None
    file = path / RECORD
    try:
        return Champion(path, Record.model_validate_json(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise StageError(f"{file}: is not the record of a champion: {error}") from error


def decide(params: PromoteParams, challenger: float, champion: float) -> Decision:
    """Compare a new export with the standing champion, both measured on the same test data."""
    promoted = challenger >= champion - params.tolerance
    verdict = "not worse" if promoted else "worse"
    reason = (
        f"{params.metric} {challenger:.4f} is {verdict} than the champion's {champion:.4f} "
        f"(tolerance {params.tolerance:g})"
    )
    measured = {"challenger": challenger, "champion": champion}
    return Decision(promoted=promoted, reason=reason, metric=params.metric, **measured)


def replace_champion(
    export_dir: Path, record: Record, card: str, registry_dir: Path = REGISTRY_DIR
) -> None:
    """Make a copy of the export the champion, with its record and the model card in Markdown.

    Killed at any moment, the old or the new one stands.
    """
    settle_champion(registry_dir)
    with atomic_path(registry_dir / NEXT) as partial:
        shutil.copytree(export_dir, partial, copy_function=shutil.copyfile)
        for folder in (partial, *partial.rglob("*/")):  # copytree also copies that one is read-only
            folder.chmod(0o700 | folder.stat().st_mode)
        write_json(partial / RECORD, record.model_dump(mode="json"))
        (partial / CARD).write_text(card, encoding="utf-8")
    settle_champion(registry_dir)


def settle_champion(registry_dir: Path = REGISTRY_DIR) -> None:
    """Give a champion that a killed process left under its second name its own."""
    waiting, settled = registry_dir / NEXT, registry_dir / CHAMPION
    if waiting.is_dir():
        if settled.is_dir():
            shutil.rmtree(settled)  # the waiting one counts already
        waiting.rename(settled)


def digest_export(export_dir: Path) -> str:
    """Return a digest of the names and bytes of all files of an export but its record and card."""
    digests = {
        file.relative_to(export_dir).as_posix(): digest_file(file)
        for file in export_dir.rglob("*")
        if file.is_file() and file not in (export_dir / RECORD, export_dir / CARD)
    }
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_code_version() -> str:
    """Return the git commit of the current folder, or "unknown" outside a repository.

    It ends in "-dirty" where tracked files differ from the commit.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
