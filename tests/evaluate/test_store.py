"""Features are kept whole or not at all, under names that say what decided them."""

from pathlib import Path

import numpy as np
import pytest

from vatt.evaluate import features
from vatt.evaluate.features import FeatureStore, name_features


def test_what_is_damaged_or_absent_is_not_there(tmp_path: Path) -> None:
    features = {"video": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2]}
    kept = FeatureStore(tmp_path)
    assert kept.read("a") is None
    kept.write("a", features)
    found = FeatureStore(tmp_path).read("a") or {}
    assert np.array_equal(found["video"], features["video"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert FeatureStore(tmp_path).read("a") is None


def test_what_a_run_did_not_use_goes(tmp_path: Path) -> None:
    first = FeatureStore(tmp_path)
    for name in ("a", "b"):
        first.write(name, {"x": np.zeros(1)})
    (tmp_path / "c.safetensors.partial").write_bytes(b"")
    second = FeatureStore(tmp_path)
    second.read("b")
    second.write("d", {})
    second.remove_others()
    assert {path.name for path in tmp_path.iterdir()} == {"b.safetensors", "d.safetensors"}


def test_another_network_other_data_or_code_has_another_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [name_features("net", "data", "clips")]
    assert name_features("net", "data", "clips") == names[0]
    names += [name_features("other", "data", "clips"), name_features("net", "data", "others")]
    for folder in ("media", "download"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(features, "CODE", ("media",))
    monkeypatch.setattr("vatt.core.code.PACKAGE_DIR", tmp_path)
    for path, content in (
        ("media/video.py", "one"),
        ("media/video.py", "two"),
        ("download/site.py", "how files came"),
    ):
        (tmp_path / path).write_text(content)
        features._digest_code.cache_clear()
        names.append(name_features("net", "data", "clips"))
    features._digest_code.cache_clear()
    assert len(set(names)) == 5
    assert names[-1] == names[-2]
