"""Stage `validate`: check that clips, sound and captions of the corpus agree."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.index import digest_index
from vatt.params import ValidateParams
from vatt.validate.tables import list_copies, read_corpus
from vatt.validate.verdict import MAX_EXAMPLES, validate_corpus

PREPROCESS_DIR = Path("data/preprocess")
OUT_DIR = Path("data/validate")


def main(validate: ValidateParams) -> Mapping[str, Any]:
    """Judge data/preprocess and write the Data Docs; the verdict is the stage's metrics.

    Raises:
        StageError: the corpus cannot be read, or a critical rule failed.
    """
    try:
        index_digest, corpus = digest_index(PREPROCESS_DIR), read_corpus(PREPROCESS_DIR)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StageError(
            f"{PREPROCESS_DIR}: cannot be read: {error}; run the preprocess stage",
            metrics={"passed": False, "index_digest": None},
        ) from error
    verdict, page = validate_corpus(corpus, validate)
    verdict["index_digest"] = index_digest
    with atomic_path(OUT_DIR) as partial:
        partial.mkdir()
        (partial / "index.html").write_text(page, encoding="utf-8")
    copies = list_copies(corpus.index)
    failed = [_describe(rule, copies) for rule in verdict["expectations"] if not rule["success"]]
    if not verdict["passed"]:
        raise StageError("\n".join([f"see {OUT_DIR / 'index.html'}", *failed]), metrics=verdict)
    for line in failed:
        print(f"validate: {line}", file=sys.stderr)
    return verdict


def _describe(rule: Mapping[str, Any], copies: Sequence[str]) -> str:
    """Say in one line which rule failed, what was found, and some of the rows that break it."""
    examples = f"; for example {', '.join(rule['examples'])}" if rule["examples"] else ""
    text = (
        f"{rule['severity']}: {rule['name']}: {rule['description']} "
        f"Found {rule.get('error', rule['observed'])}, asked {rule['threshold']}{examples}"
    )
    if rule["name"] == "leakage_of_files" and copies:
        text += (
            f". Equal are {'; '.join(copies[:MAX_EXAMPLES])}. Remove all but one of them, or give "
            "them one split by the column split of the source's labels_csv, then run download again"
        )
    return text
