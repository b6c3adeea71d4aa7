"""What is free in a container: its limit less what its processes hold, as the kernel says it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vatt.train import speed

MIB = 2**20


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(str(64 * MIB), 64 * MIB - 40 * MIB + 8 * MIB), ("max", 2**40), (None, 2**40)],
)
def test_what_is_used_in_a_container_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int
) -> None:
    """Of 40 MiB in use, 8 are pages of files that can be dropped; the machine has a TiB."""
    if limit is not None:  # None: no container
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{40 * MIB}\n")
        (tmp_path / "memory.stat").write_text(f"anon {32 * MIB}\ninactive_file {8 * MIB}\n")
    monkeypatch.setattr(speed, "CONTAINER", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**40))
    assert speed._find_free_bytes() == expected
