"""A server that misbehaves: every file ends right, and is asked for no more than needed."""

import hashlib
import signal
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.download import made_files
from tests.download.misbehaving_server import Record, content_of, serve
from vatt.core.errors import StageError
from vatt.download.fetch import STATE_DIR, fetch_all
from vatt.download.ledger import open_ledger
from vatt.download.remote_files import RemoteFile
from vatt.params import FetchParams

QUICK = made_files.QUICK.model_copy(update={"stall_s": 0.8})
Server = tuple[str, Record]


def files_of(server: Server, *names: str) -> list[RemoteFile]:
    return [RemoteFile(name, f"{server[0]}/{name}") for name in names]


def fetch(files: Sequence[RemoteFile], params: FetchParams = QUICK) -> dict[str, str | None]:
    return fetch_all(files, Path("out"), params)


def rows(*columns: str) -> dict[str, tuple[object, ...]]:
    """Read the ledger with another connection."""
    with sqlite3.connect(STATE_DIR / "ledger.sqlite") as ledger:
        names = ", ".join(("name", *columns))
        return {row[0]: row[1:] for row in ledger.execute(f"SELECT {names} FROM items")}


def test_every_misbehaviour_ends_right(misbehaving: Server) -> None:
    mended = [
        *("well/a", "half/a", "half_chunk/a", "no_ranges/a", "changed/a", "changed_rudely/a"),
        *("other_range/a", "untagged/a", "stall_before/a", "stall_within/a", "drip/a"),
        *("500_twice/a", "busy/a", "close/a", "redirect/a", "well/empty", "well/é ü%20#1"),
    ]
    broken = {
        "refuse/404/a": "the server answers 404 Not Found",
        "refuse/410/a": "the server answers 410 Gone",
        "refuse/403/a": "the server answers 403 Forbidden",
        "refuse/500/a": "the server answers 500 Internal Server Error",
        "always_half/a": "150000 of 300000 bytes arrived",
        "stall_always/a": "no answer within 0.8 s",
        "close_always/a": "no connection: ServerDisconnectedError: Server disconnected",
        "loop/a": "more than 10 redirects",
        "elsewhere/a": (
            "the address cannot be used: NonHttpUrlRedirectClientError: file:///etc/hostname"
        ),
    }
    misbehaving[1].files["/well/empty"] = b""
    names = {"well/é ü%20#1": "well/%C3%A9%20%C3%BC%2520%231"}
    files = [RemoteFile(name, f"{misbehaving[0]}/{names.get(name, name)}") for name in mended]
    found = fetch([*files, *files_of(misbehaving, *broken, "drip_always/a")])
    slow = found.pop("drip_always/a")
    assert slow is not None
    assert "bytes in 0.8 s" in slow
    assert found == {
        **dict.fromkeys(mended),
        **{name: f"cannot be fetched: {reason}" for name, reason in broken.items()},
    }
    sent = misbehaving[1].files
    for name in mended:
        path = f"/well/{name}" if name == "redirect/a" else f"/{names.get(name, name)}"
        assert Path("out", name).read_bytes() == sent[path], name
    assert len([path for path in Path("out").rglob("*") if path.is_file()]) == len(mended)
    ledger = rows("state", "gone", "digest", "num_bytes")
    for name in mended:
        content = Path("out", name).read_bytes()
        expected = ("done", 0, hashlib.sha256(content).hexdigest(), len(content))
        assert ledger[name] == expected
    gone = {name for name, (state, is_gone, *_) in ledger.items() if is_gone}
    assert gone == {"refuse/404/a", "refuse/410/a", "loop/a", "elsewhere/a"}
    assert misbehaving[1].ranges("/half/a") == [None, "bytes=150000-"]
    assert misbehaving[1].ranges("/untagged/a") == [None, None]
    assert misbehaving[1].count("/refuse/404/a") == 1
    assert misbehaving[1].count("/refuse/500/a") == 3


def test_a_second_run_asks_only_for_what_is_missing(misbehaving: Server) -> None:
    names = ["well/a", "well/b", "refuse/404/a", "refuse/500/a", "refuse/403/a"]
    first = fetch(files_of(misbehaving, *names))
    Path("out/well/b").write_bytes(b"somebody cut it")
    misbehaving[1].requests.clear()
    assert fetch(files_of(misbehaving, *names, "well/c")) == {**first, "well/c": None}
    asked = {path for path, _ in misbehaving[1].requests}
    assert asked == {"/well/b", "/well/c", "/refuse/500/a", "/refuse/403/a"}
    assert Path("out/well/b").read_bytes() == content_of("/well/b")

    misbehaving[1].requests.clear()
    fetch(files_of(misbehaving, *names), QUICK.model_copy(update={"ask_gone_again": True}))
    assert misbehaving[1].count("/refuse/404/a") == 1


def test_what_was_gone_is_asked_for_under_another_address(misbehaving: Server) -> None:
    name = "a.mp4"
    assert fetch([RemoteFile(name, f"{misbehaving[0]}/refuse/404/a")])[name]
    assert fetch([RemoteFile(name, f"{misbehaving[0]}/well/a")]) == {name: None}
    assert fetch([RemoteFile(name, f"{misbehaving[0]}/well/b")]) == {name: None}
    assert Path("out", name).read_bytes() == content_of("/well/b")


def test_a_web_folder_is_asked_what_changed(misbehaving: Server) -> None:
    kinds = ["well", "plain", "deaf"]
    files = files_of(
        misbehaving, *(f"{kind}/{name}" for kind in kinds for name in "ab"), "500_twice/a"
    )
    fetch(files)
    misbehaving[1].requests.clear()  # from now on it fails again
    before = {kind: Path(f"out/{kind}/a").stat().st_ino for kind in [*kinds, "500_twice"]}
    for kind in kinds:
        misbehaving[1].files[f"/{kind}/b"] = b"new"
    found = fetch_all(files, Path("out"), QUICK, recheck=True)
    assert found == {file.name: None for file in files}
    for kind in kinds:
        assert Path(f"out/{kind}/b").read_bytes() == b"new"
        assert misbehaving[1].count(f"/{kind}/a") == 1
        assert misbehaving[1].count(f"/{kind}/b") == 2
    assert {kind: Path(f"out/{kind}/a").stat().st_ino for kind in before} == before


def test_digests_are_checked(misbehaving: Server) -> None:
    content = content_of("/well/a")
    sha256, md5 = hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest()
    good = [
        RemoteFile("sha256", f"{misbehaving[0]}/well/a", sha256.upper()),
        RemoteFile("md5", f"{misbehaving[0]}/well/a", md5=md5),
    ]
    bad = RemoteFile("bad", f"{misbehaving[0]}/well/a", sha256="0" * 64)
    found = fetch([*good, bad])
    assert (found["sha256"], found["md5"]) == (None, None)
    assert found["bad"] == f"cannot be fetched: its sha256 is {sha256}, not {'0' * 64}"
    assert misbehaving[1].count("/well/a") == 4  # the same wrong bytes twice are enough
    assert fetch([*good, bad]) == found
    assert misbehaving[1].count("/well/a") == 4
    assert not Path("out/bad").exists()
    assert sorted(path.name for path in Path("out").iterdir()) == ["md5", "sha256"]


def test_files_that_are_there_without_a_ledger_are_taken_over(misbehaving: Server) -> None:
    files = files_of(misbehaving, "well/a", "well/b")
    wrong = RemoteFile("well/c", f"{misbehaving[0]}/well/c", hashlib.sha256(b"right").hexdigest())
    misbehaving[1].files["/well/c"] = b"right"
    Path("out/well").mkdir(parents=True)
    Path("out/well/a").write_bytes(b"from a backup")
    Path("out/well/c").write_bytes(b"wrong")
    assert set(fetch([*files, wrong]).values()) == {None}
    assert sorted(path for path, _ in misbehaving[1].requests) == ["/well/b", "/well/c"]
    assert Path("out/well/a").read_bytes() == b"from a backup"
    assert Path("out/well/c").read_bytes() == b"right"


@pytest.mark.parametrize(("per_host", "connections"), [(2, 8), (8, 3)])
def test_limits_are_kept_and_used(per_host: int, connections: int) -> None:
    params = QUICK.model_copy(update={"connections_per_host": per_host, "connections": connections})
    with serve() as one, serve() as other:
        for _, record in (one, other):
            record.delay_s = 0.03
        files = [
            RemoteFile(f"{host}/{number}", f"{address}/well/{number}")
            for host, (address, _) in enumerate((one, other))
            for number in range(12)
        ]
        assert set(fetch(files, params).values()) == {None}
        most = [record.most_running for _, record in (one, other)]
    assert max(most) <= per_host
    assert sum(most) > 2
    if per_host == 2:
        assert most == [2, 2]  # both at once: a host at its limit does not hold up the other
    assert max(most) <= connections


def test_retry_after_is_honoured_for_the_whole_host(misbehaving: Server) -> None:
    names = ["busy/a", *(f"well/{number}" for number in range(5))]
    params = QUICK.model_copy(update={"connections_per_host": 1})
    assert set(fetch(files_of(misbehaving, *names), params).values()) == {None}
    (first, second) = (
        time_s
        for (path, _), time_s in zip(misbehaving[1].requests, misbehaving[1].times_s, strict=True)
        if path == "/busy/a"
    )
    assert second - first >= 1.0
    others = [time_s for time_s in misbehaving[1].times_s if first < time_s < first + 0.99]
    assert not others


def test_a_host_that_asks_for_days_is_left_to_the_next_run(misbehaving: Server) -> None:
    params = QUICK.model_copy(update={"connections_per_host": 1})
    names = ["busy_for_days/a", "well/a", "well/b"]
    start = time.monotonic()
    found = fetch(files_of(misbehaving, *names), params)
    assert time.monotonic() - start < 5
    reason = "the server answers 503 Service Unavailable"
    left = f"cannot be fetched: its host was left for the next run: {reason}"
    assert found == {names[0]: f"cannot be fetched: {reason}", "well/a": left, "well/b": left}
    assert set(fetch(files_of(misbehaving, "well/a", "well/b")).values()) == {None}


def test_a_host_that_is_down_is_not_hammered() -> None:
    params = QUICK.model_copy(update={"patience_s": 0.3, "backoff_s": 0.05, "tries": 100})
    files = [RemoteFile(f"{number}", f"http://127.0.0.1:9/{number}") for number in range(500)]
    start = time.monotonic()
    found = fetch(files, params)
    assert time.monotonic() - start < 5
    assert len(found) == 500
    assert all(problem and "Connection refused" in problem for problem in found.values())
    tries = sum(int(str(tries)) for (tries,) in rows("tries").values())
    assert tries < 50


def test_names_and_addresses_from_outside(misbehaving: Server) -> None:
    names = ["../x", "/x", "a/../../x", "a//b", ".", "", "x\0y", "well/a", "b", "b/c"]
    files = [RemoteFile(name, f"{misbehaving[0]}/well/a") for name in names]
    files += [RemoteFile(name, f"{misbehaving[0]}/well/a") for name in ("n" * 256, "\udcff")]
    Path("out/folder").mkdir(parents=True)
    files.append(RemoteFile("folder", f"{misbehaving[0]}/well/a"))
    files += [RemoteFile("file", "file:///etc/hostname"), RemoteFile("host", "http:///x")]
    files += [
        RemoteFile("port", "http://h:99999999/x"),
        RemoteFile("well/a", f"{misbehaving[0]}/b"),
    ]
    found = fetch([*files, RemoteFile("good", f"{misbehaving[0]}/well/a")])
    leaves = "the name leaves the folder"
    assert {name: found[name] for name in names[:7]} == dict.fromkeys(names[:7], leaves)
    assert "too long" in str(found["n" * 256])
    assert "UTF-8" in str(found["\udcff"])
    assert "cannot be written under its name: Is a directory" in str(found["folder"])
    assert found["b/c"] == "its folder has the name of another file"
    assert found["well/a"] == "the name is given more than once, for different files"
    for name in ("file", "host", "port"):
        assert "address" in str(found[name])
    assert found["good"] is None
    assert sorted(path.name for path in Path("out").rglob("*")) == ["b", "folder", "good"]
    assert {path.name for path in Path().iterdir()} == {"out", ".cache"}


def test_two_downloads_at_once_are_refused(misbehaving: Server) -> None:
    with open_ledger(STATE_DIR), pytest.raises(StageError, match="another download is running"):
        fetch(files_of(misbehaving, "well/a"))


@pytest.mark.parametrize("content", [b"no database at all, but some text" * 9, b"\0" * 5000])
def test_a_damaged_ledger_is_named(misbehaving: Server, content: bytes) -> None:
    STATE_DIR.mkdir(parents=True)
    path = STATE_DIR / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"ledger\.sqlite: cannot be used: .*; remove it"):
        fetch(files_of(misbehaving, "well/a"))
    path.unlink()
    assert fetch(files_of(misbehaving, "well/a")) == {"well/a": None}


def test_partial_files_of_nothing_asked_for_are_removed(misbehaving: Server) -> None:
    fetch(files_of(misbehaving, "always_half/a", "half/b"))
    (STATE_DIR / "partial" / "out" / "777.partial").write_bytes(b"x")
    fetch(files_of(misbehaving, "half/b"))
    assert list((STATE_DIR / "partial" / "out").iterdir()) == []
    assert rows("state") == {"half/b": ("done",)}


def test_an_interrupted_run_stops_soon_and_goes_on(misbehaving: Server) -> None:
    misbehaving[1].bytes_per_s = 200_000.0
    files = files_of(misbehaving, *(f"well/{number}" for number in range(8)))

    threading.Timer(0.7, signal.raise_signal, (signal.SIGINT,)).start()
    with pytest.raises(KeyboardInterrupt):
        fetch(files)
    misbehaving[1].bytes_per_s = None
    partial = rows("state", "num_bytes")
    assert any(0 < int(str(num_bytes)) < 300_000 for state, num_bytes in partial.values())
    assert set(fetch(files).values()) == {None}
    assert any(asked for _, asked in misbehaving[1].requests)
    for file in files:
        assert Path("out", file.name).read_bytes() == content_of(f"/{file.name}")


def test_links_in_the_way_are_not_written_through(misbehaving: Server) -> None:
    Path("out/well").mkdir(parents=True)
    Path("elsewhere").write_bytes(b"mine")
    Path("out/well/a").symlink_to(Path("elsewhere").resolve())
    assert fetch(files_of(misbehaving, "well/a")) == {"well/a": None}
    assert Path("elsewhere").read_bytes() == b"mine"
    assert Path("out/well/a").read_bytes() == content_of("/well/a")
