import ast
import importlib.metadata
import sys
from pathlib import Path

from tests.closure import files_used_by
from tests.preprocess.parameters import PARAMS
from vatt.core.code import PACKAGE_DIR, list_code
from vatt.corpus.manifest import Annotation, ManifestEntry
from vatt.params import PreprocessParams
from vatt.preprocess.fragments import CODE, LIBRARIES, make_key

ENTRY = ManifestEntry("s", "a.mp4", "train", path="s/a.mp4")


def key(
    entry: ManifestEntry = ENTRY,
    digests: tuple[str, str | None] = ("file", "captions"),
    params: PreprocessParams = PARAMS,
    code: str = "code",
) -> str:
    return make_key(entry, digests, params, code)


def test_whatever_a_fragment_is_made_from_is_in_its_key() -> None:
    others = [
        key(ManifestEntry("s", "b.mp4", "train", path="s/a.mp4")),
        key(ManifestEntry("s", "a.mp4", "test", path="s/a.mp4")),
        key(ManifestEntry("s", "a.mp4", "train", path="s/a.mp4", annotations=(Annotation("t"),))),
        key(ManifestEntry("s", "a.mp4", "train", path="s/a.mp4", caption_problem="HTTP 404")),
        key(digests=("other", "captions")),
        key(digests=("file", "other")),
        key(digests=("file", None)),
        key(params=PARAMS.model_copy(update={"video_crf": 21})),
        key(params=PARAMS.model_copy(update={"segment_s": 5.0})),
        key(code="other"),
    ]
    assert len({key(), *others}) == 1 + len(others)
    assert key() == key()


def test_what_plays_no_part_is_not() -> None:
    changes = {"segments_per_shard": 9, "vocab_size": 999, "time_limit_s": 1.5}
    assert key(params=PARAMS.model_copy(update=changes)) == key()


def test_the_code_of_fragments_is_all_that_they_use() -> None:
    used = files_used_by(PACKAGE_DIR / "preprocess" / "fragments.py")
    values = {path for path in used if path.parent.name in {"params", "core"}}
    assert used - values - set(list_code(*CODE)) == set()


def imports_of(path: Path) -> set[str]:
    """Return the packages outside the standard library that a module imports, as in `import`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"vatt"}


def test_the_versions_of_all_packages_that_fragments_are_made_with_count() -> None:
    # The same modules read whole corpora, for which they need more than fragments do.
    readers = {"vatt/corpus/index.py", "vatt/corpus/shards.py"}
    of_corpora = {"pandas", "pyarrow", "fsspec", "aiohttp"}
    imported = set()
    for path in list_code(*CODE):
        is_reader = str(path.relative_to(PACKAGE_DIR.parent)) in readers
        imported |= imports_of(path) - (of_corpora if is_reader else set())
    packages = importlib.metadata.packages_distributions()
    used = {package.lower() for name in imported for package in packages[name]}
    # The first two check types and rows; they compute nothing. The network is read from its file.
    assert used - {"jaxtyping", "pydantic"} | {"silero-vad"} == set(LIBRARIES)
