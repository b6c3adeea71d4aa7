"""The gate that training passes before it starts: validate passed exactly this corpus."""

import json
from pathlib import Path

from vatt.core.errors import StageError
from vatt.corpus.index import digest_index


def require_passed(preprocess_dir: Path, verdict_path: Path) -> str:
    """Return the digest of the index of a corpus that validate lets pass.

    Raises:
        StageError: there is no verdict or no corpus, or the verdict is bad or on another corpus.
    """
    try:
        verdict = json.loads(verdict_path.read_text(encoding="utf-8"))
        digest = digest_index(preprocess_dir)
    except (OSError, ValueError) as error:
        raise StageError(
            f"{verdict_path} of {preprocess_dir}: cannot be read: {error}; run `dvc repro validate`"
        ) from error
    if verdict.get("index_digest") != digest:
        raise StageError(
            f"{verdict_path}: is on another corpus than {preprocess_dir}; run `dvc repro validate`"
        )
    if verdict.get("passed") is not True:
        raise StageError(f"{verdict_path}: the corpus did not pass; see data/validate/index.html")
    return digest
