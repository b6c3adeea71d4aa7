import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
import yaml

import vatt
from tests.tiny import TINY_MODEL
from vatt.core.errors import StageError
from vatt.corpus.tokenizer import train_tokenizer
from vatt.params import ClipParams
from vatt.weights.export import ExportedParams, build_untrained, save_export

VOCAB_SIZE = 300
PARAMS = ExportedParams(
    clip=ClipParams(
        num_frames=4, frame_size_px=16, num_samples=2048, num_tokens=8, num_candidates=2
    ),
    model=TINY_MODEL,
    frame_rate_hz=5,
    vocab_size=VOCAB_SIZE,
    seed=7,
    code_version="0.0.0",
)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "any name"
    words = [f"{a}{b} {c}" for a in "abcdef" for b in "ghijkl" for c in ("sings", "falls", "turns")]
    train_tokenizer(path, words, VOCAB_SIZE)
    return path


@pytest.fixture
def params(tokenizer_path: Path) -> ExportedParams:
    from vatt.corpus.tokenizer import Tokenizer

    return PARAMS.model_copy(update={"vocab_size": Tokenizer(tokenizer_path).vocab_size})


@pytest.fixture
def export_dir(tmp_path: Path, tokenizer_path: Path, params: ExportedParams) -> Path:
    """An export of a network whose weights and BatchNorm statistics differ from the first ones."""
    model = build_untrained(params)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(torch.rand(value.shape))
    save_export(tmp_path / "export", model, params, tokenizer_path)
    return tmp_path / "export"


def make_inputs() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    torch.manual_seed(0)
    video, audio = torch.rand(3, 4, 16, 16, 3) * 2 - 1, torch.rand(3, 2048) * 2 - 1
    return video, audio, ["ag sings", "Bh falls", "nothing known 🙂"]


def test_the_model_comes_back_bit_for_bit(
    tmp_path: Path, export_dir: Path, tokenizer_path: Path
) -> None:
    exported = vatt.load(export_dir)
    save_export(tmp_path / "again", exported.model, exported.params, export_dir / "tokenizer.model")
    first = {file.name: file.read_bytes() for file in export_dir.iterdir()}
    second = {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    assert first == second
    assert set(first) == {"model.safetensors", "params.yaml", "tokenizer.model"}
    assert first["tokenizer.model"] == tokenizer_path.read_bytes()


USE = """
import sys, torch, vatt
from tests.weights.test_export import make_inputs

exported = vatt.load(sys.argv[1])
video, audio, texts = make_inputs()
parts = [*exported.embed_video(video), *exported.embed_audio(audio), exported.embed_text(texts)]
torch.save([part.clone() for part in parts], sys.argv[2])
"""


def test_another_process_computes_the_same_embeddings(tmp_path: Path, export_dir: Path) -> None:
    subprocess.run([sys.executable, "-c", USE, export_dir, tmp_path / "there"], check=True)
    there = torch.load(tmp_path / "there", weights_only=True)
    exported = vatt.load(export_dir)
    video, audio, texts = make_inputs()
    seen, heard = exported.embed_video(video), exported.embed_audio(audio)
    here = [*seen, *heard, exported.embed_text(texts)]
    assert [tuple(part.shape) for part in here] == [
        (3, 128),
        (3, 24),
        (3, 12),
        (3, 128),
        (3, 24),
        (3, 12),
    ]
    for mine, theirs in zip(here, there, strict=True):
        assert torch.isfinite(mine).all()
        torch.testing.assert_close(mine, theirs)
    assert torch.equal(exported.embed_video(video).features, seen.features)  # no DropToken


def test_embeddings_of_a_clip_do_not_depend_on_the_batch(export_dir: Path) -> None:
    exported = vatt.load(export_dir)
    video, audio, texts = make_inputs()
    for together, alone in (
        (exported.embed_video(video).vt, exported.embed_video(video[1:2]).vt),
        (exported.embed_audio(audio).va, exported.embed_audio(audio[1:2]).va),
        (exported.embed_text(texts), exported.embed_text(texts[1:2])),
    ):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_the_untrained_network_is_a_function_of_the_seed_alone(params: ExportedParams) -> None:
    torch.manual_seed(1)
    first = build_untrained(params)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)  # the caller's random numbers are left alone
    second = build_untrained(params)
    other = build_untrained(params.model_copy(update={"seed": 8}))
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    changed = [
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    ]
    assert all(same)
    assert any(changed)


@pytest.mark.parametrize("name", ["model.safetensors", "params.yaml", "tokenizer.model"])
@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "foreign"])
def test_damage_is_refused_and_the_file_is_named(export_dir: Path, name: str, damage: str) -> None:
    file = export_dir / name
    content = file.read_bytes()
    file.unlink()
    if damage != "absent":
        file.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 3], "foreign": b"\x00{]\xff"}[damage]
        )
    with pytest.raises(StageError, match=name.replace(".", r"\.")):
        vatt.load(export_dir)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model", "space_vt_width", 13, r"text_projection.* is torch.float32 \(12"),
        ("model", "video", "base", r"is not the model of params.yaml, 179 tensors do not fit: "),
        ("model", "video", "huge", "params.yaml"),
        ("clip", "num_samples", 4096, "audio"),
        ("clip", "unknown", 1, "unknown"),
    ],
)
def test_params_of_another_model_are_refused(
    export_dir: Path, section: str, key: str, value: object, message: str
) -> None:
    file = export_dir / "params.yaml"
    content = yaml.safe_load(file.read_text())
    content[section][key] = value
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(StageError, match=message):
        vatt.load(export_dir)


def test_a_folder_that_is_no_export_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"has no model\.safetensors, params\.yaml"):
        vatt.load(tmp_path)
    with pytest.raises(StageError, match="nowhere"):
        vatt.load(tmp_path / "nowhere")


def test_a_failed_export_leaves_the_old_one(
    tmp_path: Path, export_dir: Path, params: ExportedParams
) -> None:
    before = {file.name: file.read_bytes() for file in export_dir.iterdir()}
    with pytest.raises(FileNotFoundError):
        save_export(export_dir, build_untrained(params), params, tmp_path / "no tokenizer")
    assert {file.name: file.read_bytes() for file in export_dir.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda video: video * 255, r"\[-1, 1\], got"),
        (lambda video: video * float("nan"), r"\[-1, 1\], got"),
        (lambda video: video.double(), "float64"),
        (lambda video: (video * 127).to(torch.uint8), "uint8"),
        (lambda video: video[0], "B x 4 x 16 x 16 x 3"),
        (lambda video: video[:0], "B x 4 x 16 x 16 x 3"),
        (lambda video: video.permute(0, 4, 1, 2, 3), "B x 4 x 16 x 16 x 3"),
        (lambda video: video[:, :2], "B x 4 x 16 x 16 x 3"),
    ],
)
def test_a_video_that_the_model_would_misread_is_refused(
    export_dir: Path, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        vatt.load(export_dir).embed_video(change(make_inputs()[0]))


def test_sound_and_text_are_checked_too(export_dir: Path) -> None:
    exported = vatt.load(export_dir)
    with pytest.raises(ValueError, match="audio: expected shape B x 2048"):
        exported.embed_audio(torch.zeros(2, 1000))
    with pytest.raises(ValueError, match="audio: expected values"):
        exported.embed_audio(torch.full((2, 2048), 3.0))
    with pytest.raises(TypeError, match="one string"):
        exported.embed_text("a sentence")
    with pytest.raises(ValueError, match=r"none at \[1\]"):
        exported.embed_text(["good", "  "])
    with pytest.raises(ValueError, match="empty list"):
        exported.embed_text([])
    with pytest.raises(TypeError, match="got None at 1"):
        exported.embed_text(["good", cast("str", None)])
    with pytest.raises(TypeError, match="audio: expected a torch tensor, got list"):
        exported.embed_audio(cast("torch.Tensor", [0.0]))


def test_importing_vatt_does_not_import_torch() -> None:
    code = "import sys, vatt; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
