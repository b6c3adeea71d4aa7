"""The stage writes its page and verdict, and stops the command line on a critical rule."""

import hashlib
import json
from pathlib import Path
from unittest import mock

import pytest

from tests.stages.conftest import ROOT, run_module
from tests.validate.clean import clean_index
from vatt.core.errors import StageError
from vatt.params import load_params
from vatt.stages import validate
from vatt.validate.tables import REQUIRED_COLUMNS
from vatt.validate.verdict import validate_corpus

PARAMS = load_params(ROOT / "params.yaml").validation


@pytest.fixture
def preprocess_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a clean index and an empty quarantine list, below the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/preprocess")
    folder.mkdir(parents=True)
    clean_index().to_parquet(folder / "index.parquet")
    for name in ("quarantine", "duplicates"):
        (folder / f"{name}.jsonl").touch()
    return folder


def test_a_clean_corpus_passes_with_the_digest_of_its_index(preprocess_dir: Path) -> None:
    metrics = validate.main(PARAMS)
    content = (preprocess_dir / "index.parquet").read_bytes()
    assert metrics["passed"]
    assert metrics["index_digest"] == hashlib.blake2b(content, digest_size=16).hexdigest()
    assert [path.name for path in Path("data/validate").iterdir()] == ["index.html"]


def test_columns_that_no_rule_needs_are_not_read(
    preprocess_dir: Path,
) -> None:
    clean_index().assign(picture_hashes="0123").to_parquet(preprocess_dir / "index.parquet")
    with mock.patch.object(validate, "validate_corpus", wraps=validate_corpus) as judge:
        assert validate.main(PARAMS)["passed"]
    assert list(judge.call_args.args[0].index.columns) == REQUIRED_COLUMNS


def test_a_warning_is_printed_and_does_not_stop(
    preprocess_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = clean_index()
    index.loc[:9, "silent_rate"] = 1.0
    index.to_parquet(preprocess_dir / "index.parquet")
    assert validate.main(PARAMS)["passed"]
    error = capfd.readouterr().err
    assert "silence_mostly" in error
    assert index["key"][0] in error
    assert len(error.splitlines()) == 1  # no progress bars


def test_the_command_line_stops_on_a_critical_rule_and_keeps_the_verdict(
    preprocess_dir: Path,
) -> None:
    index = clean_index()
    index.loc[0, "split"] = "test"
    index.to_parquet(preprocess_dir / "index.parquet")
    done = run_module("vatt", "--params", f"{ROOT}/params.yaml", "validate", check=False)
    assert done.returncode == 1
    assert "leakage_of_videos" in done.stderr
    assert index["key"][0] in done.stderr
    assert "Traceback" not in done.stderr
    verdict = json.loads(Path("metrics/validate.json").read_text(encoding="utf-8"))
    assert not verdict["passed"]
    assert Path("data/validate/index.html").is_file()


def test_equal_files_in_two_splits_are_named_with_what_to_do(preprocess_dir: Path) -> None:
    index = clean_index()
    index.loc[[0, 1], "video_id"] = ["v.mp4", "v (1).mp4"]
    index.loc[[0, 1], "split"] = ["train", "test"]
    index.loc[[0, 1], "source_digest"] = "f" * 32
    index.to_parquet(preprocess_dir / "index.parquet")
    with pytest.raises(StageError, match="leakage_of_files") as raised:
        validate.main(PARAMS)
    message = str(raised.value)
    for part in ("v.mp4 (train)", "v (1).mp4 (test)", " = ", "labels_csv", "Remove all but one"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [("index", None), ("index", 500), ("index", 0), ("quarantine", 1), ("duplicates", 1)],
)
def test_an_unreadable_corpus_is_refused_by_name(
    preprocess_dir: Path, name: str, num_bytes: int | None
) -> None:
    (path,) = preprocess_dir.glob(f"{name}.*")
    content = path.read_bytes() or b"{"
    path.unlink()
    if num_bytes is not None:
        path.write_bytes(content[:num_bytes])
    with pytest.raises(StageError, match="data/preprocess") as raised:
        validate.main(PARAMS)
    assert raised.value.metrics == {"passed": False, "index_digest": None}
