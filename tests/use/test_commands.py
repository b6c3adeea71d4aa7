"""embed, search and classify on real files: everything is accounted for, nothing is done twice."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from tests.made_media import Clip, write_clip, write_zoo
from tests.model.networks import AUDIO_VISUAL, VIDEO
from tests.stages.conftest import run_module
from vatt.core.errors import StageError
from vatt.core.files import hold_lock
from vatt.model.classifier import NetworkParams
from vatt.use.classify import classify, classify_by_texts
from vatt.use.commands import format_time
from vatt.use.embed import _add, embed
from vatt.use.embedding import Embedded, embed_file
from vatt.use.library import Library
from vatt.use.places import MediaFile, find_files
from vatt.use.search import Searcher
from vatt.weights.export import ExportedClassifierParams, build_untrained, save_export
from vatt.weights.inference import load, load_classifier

MODEL, LIBRARY = Path("data/pretrain"), Path("library")


def read_rows() -> list[dict[str, Any]]:
    Library.open(LIBRARY).write_parquet(Path("rows.parquet"))
    rows: list[dict[str, Any]] = pq.read_table("rows.parquet").to_pylist()
    return rows


@pytest.mark.usefixtures("project")
def test_every_file_of_a_folder_is_in_the_library_or_named_with_its_reason() -> None:
    folder = Path("zoo")
    folder.mkdir()
    usable = write_zoo(folder)
    (folder / ".hidden.mp4").touch()
    (folder / "notes.txt").touch()
    counts = embed(["zoo"], MODEL, LIBRARY)
    library = Library.open(LIBRARY)
    quarantine = library.read_quarantine()
    assert {f"zoo/{name}" for name in usable} == set(library.read_states())
    assert {f"zoo/{name}" for name, is_usable in usable.items() if not is_usable} == set(quarantine)
    assert all(quarantine.values())
    assert counts["files"] + counts["quarantined"] == len(usable) == counts["embedded"]
    rows = {row["path"]: row for row in read_rows()}
    assert rows["zoo/no_audio.mp4"]["audio_va"] is None
    assert rows["zoo/sound.wav"]["video_vt"] is None
    for row in rows.values():
        for space in ("video_va", "video_vt", "audio_va"):
            if row[space] is not None:
                assert math.sqrt(sum(x * x for x in row[space])) == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("project")
def test_only_what_changed_is_embedded_again() -> None:
    for name in ("a", "b", "c"):
        write_clip(Path(f"films/{name}.mp4"), Clip(duration_s=3.0, flash_s=(len(name),)))
    assert embed(["films"], MODEL, LIBRARY)["embedded"] == 3
    before = read_rows()
    assert embed(["films"], MODEL, LIBRARY)["embedded"] == 0
    assert read_rows() == before
    write_clip(Path("films/b.mp4"), Clip(duration_s=5.0, width_px=96))
    Path("films/c.mp4").unlink()
    write_clip(Path("other/d.mp4"))
    counts = embed(["films", "other/d.mp4"], MODEL, LIBRARY)
    assert (counts["files"], counts["embedded"], counts["removed"]) == (3, 2, 1)
    after = read_rows()
    assert [row for row in after if row["path"] == "films/a.mp4"] == [
        row for row in before if row["path"] == "films/a.mp4"
    ]
    # As if the library had been made at once.
    shutil.rmtree(LIBRARY)
    embed(["other/d.mp4", "films"], MODEL, LIBRARY)
    assert read_rows() == after


@pytest.mark.usefixtures("project")
def test_the_commands_find_and_label_what_a_user_asks_for() -> None:
    for number in range(3):
        clip = Clip(duration_s=4.0, flash_s=(number + 0.5,), width_px=64 + 32 * number)
        write_clip(Path(f"films/{number}.mp4"), clip)
    Path("films/broken.mp4").write_text("no media")
    done = run_module("vatt", "embed", "films", "--model", str(MODEL), "--out", "all.parquet")
    assert "left out: films/broken.mp4: " in done.stdout
    assert "data/library: 3 files, 6 passages, 1 quarantined" in done.stdout
    assert len(pq.read_table("all.parquet")) == 7
    done = run_module("vatt", "search", "--video", "films/2.mp4", "--top", "2", "--json")
    found = json.loads(done.stdout)
    assert len(found) == 2
    assert found[0].keys() == {"path", "start_s", "end_s", "score"}
    assert found[0]["score"] >= found[1]["score"]
    done = run_module("vatt", "search", "it begins", "--top", "4")
    assert len(done.stdout.splitlines()) == 4
    assert "0:00.0 to 0:02.0  films/" in done.stdout
    done = run_module("vatt", "search", "--sound", "films/broken.mp4", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("search: films/broken.mp4: ")
    texts = ["--texts", "it begins", "it goes on"]
    done = run_module("vatt", "classify", "films", "--model", str(MODEL), *texts)
    assert len(done.stdout.splitlines()) == 4
    assert "films/broken.mp4: left out: " in done.stdout


@pytest.mark.usefixtures("project")
def test_a_sound_finds_itself_and_a_query_without_sound_is_refused() -> None:
    write_clip(Path("films/loud.mp4"), Clip(duration_s=4.0, flash_s=(1.0,)))
    write_clip(Path("films/silent.mp4"), Clip(duration_s=4.0, audio=False))
    write_clip(Path("films/sound.wav"), Clip(duration_s=4.0, video=False, flash_s=(3.0,)))
    embed(["films"], MODEL, LIBRARY, passage_s=4.0)
    searcher = Searcher.open(LIBRARY)
    for name in ("loud.mp4", "sound.wav"):
        found = searcher.search_like(f"films/{name}", "sound", "sound", 5)
        assert {one.path for one in found} == {"films/loud.mp4", "films/sound.wav"}
        assert found[0].path == f"films/{name}"
        assert found[0].start_s == 0
        assert found[0].score == pytest.approx(1, abs=1e-5)
    seen = searcher.search_like("films/sound.wav", "sound", "pictures", 5)
    assert {one.path for one in seen} == {"films/loud.mp4", "films/silent.mp4"}
    with pytest.raises(StageError, match=r"silent.mp4: has no sound"):
        searcher.search_like("films/silent.mp4", "sound", "sound", 5)
    with pytest.raises(StageError, match="holds no word"):
        searcher.search_text("  ", 5)


@pytest.mark.usefixtures("project")
def test_a_library_goes_with_its_model_alone() -> None:
    write_clip(Path("films/a.mp4"))
    embed(["films"], MODEL, LIBRARY)
    shutil.copytree(MODEL, "other")
    (Path("other/tokenizer.model")).write_bytes(b"")
    with pytest.raises(StageError, match=r"holds vectors of the model .*data/pretrain with digest"):
        embed(["films"], Path("other"), LIBRARY)
    shutil.move(MODEL, "moved")
    assert len(Searcher.open(LIBRARY, "moved").search_text("it begins", 5)) > 1
    with pytest.raises(StageError, match="which is not there any more"):
        Searcher.open(LIBRARY)
    with pytest.raises(StageError, match="nowhere: does not exist"):
        embed(["nowhere"], Path("other"), Path("new"))


def save_classifier(network: NetworkParams) -> Path:
    params = ExportedClassifierParams(classifier=network, frame_rate_hz=5, code_version="0")
    save_export(Path("classifier"), build_untrained(params), params)
    return Path("classifier")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("network", [VIDEO, AUDIO_VISUAL["concatenation"]])
@pytest.mark.parametrize("is_multi_label", [False, True])
def test_probabilities_of_passages_and_of_the_whole(
    network: NetworkParams, is_multi_label: bool
) -> None:
    network = network.model_copy(update={"is_multi_label": is_multi_label})
    exported = load_classifier(save_classifier(network))
    path = str(write_clip(Path("a.mp4"), Clip(duration_s=6.0, flash_s=(1.0,))))
    result = classify(exported, path, passage_s=2.0)
    assert result.start_s == [0.0, 2.0, 4.0]
    assert result.end_s == pytest.approx([2.0, 4.0, 6.0], abs=0.21)
    assert result.passages.shape == (3, network.num_classes)
    if is_multi_label:  # the sigmoid of a mean lies between those of its parts
        assert (result.whole <= result.passages.max(0) + 1e-6).all()
        assert (result.whole >= result.passages.min(0) - 1e-6).all()
    else:
        np.testing.assert_allclose(result.passages.sum(1), 1, rtol=1e-6)
        mean = np.log(result.passages).mean(0)  # logits, but for a constant
        np.testing.assert_allclose(result.whole, np.exp(mean) / np.exp(mean).sum(), rtol=1e-5)
    silent = str(write_clip(Path("silent.wav"), Clip(duration_s=2.0, video=False)))
    with pytest.raises(StageError, match="has no pictures"):
        classify(exported, silent)


@pytest.mark.usefixtures("project")
def test_texts_label_a_file_as_their_cosines_say() -> None:
    exported = load(MODEL)
    path = write_clip(Path("a.mp4"), Clip(duration_s=4.0))
    texts = ["it begins", "it goes on", "a square"]
    result = classify_by_texts(exported, str(path), texts, passage_s=2.0)
    vectors = [row for batch in embed_file(exported, path, [], 2.0) for row in batch.to_pylist()]
    queries = torch.nn.functional.normalize(exported.embed_text(texts), dim=1)
    for row, probabilities in zip(vectors, result.passages, strict=True):
        scores = [
            math.exp(float(query @ torch.tensor(row["video_vt"])) / 0.07) for query in queries
        ]
        np.testing.assert_allclose(probabilities, np.array(scores) / sum(scores), rtol=1e-4)
    assert list(result.rank(1)) == [texts[int(result.whole.argmax())]]


@pytest.mark.usefixtures("project")
def test_equal_files_have_equal_vectors_to_the_bit() -> None:
    write_clip(Path("films/a.mp4"), Clip(duration_s=9.0, flash_s=(1.0,)))
    shutil.copy("films/a.mp4", "films/b.mp4")
    embed(["films"], MODEL, LIBRARY)
    rows = read_rows()
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert len(first) == 5
    for one, other in zip(first, second, strict=True):
        assert one | {"path": "", "state": ""} == other | {"path": "", "state": ""}


@pytest.mark.usefixtures("project")
def test_a_folder_that_cannot_be_listed_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(Path("films/a.mp4"))
    write_clip(Path("films/sub/b.mp4"))
    write_clip(Path("other.mp4")).rename("films/without suffix")
    embed(["films", "./films/without suffix"], MODEL, LIBRARY)
    before = read_rows()
    assert {row["path"] for row in before} == {
        *("films/a.mp4", "films/sub/b.mp4", "films/without suffix")
    }
    listing = LocalFileSystem.ls

    def refuse(files: LocalFileSystem, path: str, **options: Any) -> Any:
        if path.endswith("sub"):
            raise PermissionError("Permission denied")
        return listing(files, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "ls", refuse)
        assert embed(["films//"], MODEL, LIBRARY)["removed"] == 0
        library = Library.open(LIBRARY)
        assert list(library.read_quarantine()) == ["films/sub/"]
        assert len(library) == len(before)
    embed(["films"], MODEL, LIBRARY)
    assert read_rows() == before


@pytest.mark.usefixtures("project")
def test_places_have_one_spelling_and_names_may_be_anything() -> None:
    write_clip(Path("films/x::y's.mp4"))
    odd = os.fsdecode(b"films/bad\xff.mp4")
    shutil.copy("films/x::y's.mp4", odd)
    names = {"films/x::y's.mp4", "films/bad\\udcff.mp4"}
    places = ["films", "./films/", "films//x::y's.mp4", odd]
    files, reasons = find_files(places)
    assert {file.name for file in files} == names
    assert len(files) == 2
    assert not reasons
    embed(places, MODEL, LIBRARY)
    assert {row["path"] for row in read_rows()} == names
    assert not Library.open(LIBRARY).read_quarantine()
    for blank in ("", " "):
        with pytest.raises(StageError, match="is no file and no folder"):
            find_files([blank])


@pytest.mark.usefixtures("project")
def test_what_may_pass_is_tried_again_and_one_embeds_at_a_time() -> None:
    write_clip(Path("films/a.mp4"))
    embed(["films"], MODEL, LIBRARY)
    library = Library.open(LIBRARY)
    lost = MediaFile("films/a.mp4", "films/a.mp4", "state", 1)
    _add(library, [(lost, Embedded(None, "the decoder crashed", is_settled=False))])
    assert embed(["films"], MODEL, LIBRARY)["embedded"] == 1
    assert not library.read_quarantine()
    with (
        hold_lock(LIBRARY / "lock"),
        pytest.raises(StageError, match="another process embeds into it"),
    ):
        embed(["films"], MODEL, LIBRARY)


@pytest.mark.parametrize("length", [-1.0, 0.0, math.nan, math.inf, 1e300])
@pytest.mark.usefixtures("project")
def test_a_length_that_is_none_is_refused(length: float) -> None:
    write_clip(Path("a.mp4"))
    with pytest.raises(StageError, match=r"length = .*: a passage lasts from 0.2 s, a frame, to"):
        embed(["a.mp4"], MODEL, LIBRARY, length)
    assert not LIBRARY.exists()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((0.0, "0:00.0"), (59.96, "1:00.0"), (3599.97, "1:00:00.0"), (-0.5, "-0:00.5")),
        *((-0.01, "0:00.0"), (754.26, "12:34.3"), (36000.0, "10:00:00.0")),
    ],
)
def test_times_are_shown_as_players_do(seconds: float, shown: str) -> None:
    assert format_time(seconds) == shown
