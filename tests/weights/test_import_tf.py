"""Checkpoints of the original become exports with the original's numbers, or are refused."""

import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vatt
from tests.model.original import REFERENCE_DIR, Original
from tests.weights.bundle_writer import Oddities, write_checkpoint
from vatt.core.errors import StageError
from vatt.corpus.tokenizer import WordTokenizer
from vatt.model.towers import collect_weights
from vatt.weights.import_tf import ImportOptions, import_checkpoint
from vatt.weights.original import find_originals, state_from_original
from vatt.weights.tensor_bundle import VARIABLE_SUFFIX

CHECKPOINTS = REFERENCE_DIR / "checkpoints"
"""Written by TensorFlow."""
OPTIONS = ImportOptions(head_width=8, text_max_distance=6, num_tokens=6)
OF_AGNOSTIC = ImportOptions(head_width=8)
ROOT = "model/layer_with_weights-0/"
SLOTS = "/.OPTIMIZER_SLOT/optimizer/"
Tensors = dict[str, np.ndarray]
WEIGHTS = Original("ms").group("w::")


def write_original(prefix: Path, weights: Tensors, odd: Oddities | None = None) -> Path:
    """Write weights as TensorFlow does, with the state of Adam and what else stands beside them."""
    tensors: dict[str, np.ndarray | bytes] = {}
    for name, value in weights.items():
        tensors[name + VARIABLE_SUFFIX] = value
        for slot in "mv":
            tensors[f"{name}{SLOTS}{slot}{VARIABLE_SUFFIX}"] = np.full_like(value, 7)
    tensors["optimizer/iter" + VARIABLE_SUFFIX] = np.array(500_000, np.int64)
    tensors["save_counter" + VARIABLE_SUFFIX] = np.array(3, np.int64)
    tensors["_CHECKPOINTABLE_OBJECT_GRAPH"] = b"\x0a\x00graph"
    write_checkpoint(prefix, tensors, odd or Oddities())
    return prefix


@pytest.fixture
def specific(tmp_path: Path) -> Path:
    return write_original(tmp_path / "ckpt-2", WEIGHTS, Oddities(num_shards=2))


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"), [("ms", OPTIONS), ("ma", OPTIONS), ("ma", OF_AGNOSTIC)]
)
def test_embeddings_are_the_originals(tmp_path: Path, name: str, options: ImportOptions) -> None:
    import_checkpoint(CHECKPOINTS / name, tmp_path / "out", options)
    exported = vatt.load(tmp_path / "out")
    original = Original(name)
    batch, heads = original.build_batch(), "eval:/head_stack/bridge/"

    video, audio = exported.embed_video(batch.video), exported.embed_audio(batch.audio)
    with torch.inference_mode():
        text = exported.model.text_projection(exported.model.encode_text(batch.text.flatten(0, 1)))
    for found, expected in (
        (video.features, "eval:/video/features_pooled"),
        (video.va, heads + "video/toaud"),
        (video.vt, heads + "video/totxt"),
        (audio.features, "eval:/audio/features_pooled"),
        (audio.va, heads + "audio/tovid"),
        (text, heads + "text/tovid"),
    ):
        assert_near(found, original.tensor(expected))
    assert exported.params.frame_rate_hz == 10
    # The table of word positions of the shared encoder counts, not the option.
    assert exported.params.clip.num_tokens == 6


@pytest.mark.parametrize("name", ["cls_vit", "cls_wat", "cls_spt"])
def test_logits_are_those_of_the_original(tmp_path: Path, name: str) -> None:
    import_checkpoint(CHECKPOINTS / name, tmp_path / "out", OPTIONS)
    classifier = vatt.load_classifier(tmp_path / "out")
    original = Original(name)
    signal = original.numbers["in::images" if name == "cls_vit" else "in::audio"]
    views = torch.from_numpy(signal if name == "cls_vit" else signal[..., 0]).unflatten(0, (2, 3))
    assert list(classifier.input_shapes.values()) == [tuple(views.shape[2:])]
    assert_near(classifier.classify(views), original.tensor("eval:/logits"))


def test_a_checkpoint_with_the_state_of_adam(tmp_path: Path) -> None:
    """The weights after one step become an export bit for bit; the state of Adam is left out."""
    fates = import_checkpoint(CHECKPOINTS / "ma_adam", tmp_path / "out", OF_AGNOSTIC)
    left_out = [fate.name for fate in fates if fate.text.startswith("left out: state")]
    assert len([name for name in left_out if SLOTS in name]) == 2 * 77
    assert len([name for name in left_out if name.startswith("optimizer/")]) == 5
    original = Original("ma")
    after = original.group("w::") | original.group("adam_after::") | original.group("bn_after::")
    model = vatt.load(tmp_path / "out").model
    found = collect_weights(model)
    expected = state_from_original(found, after)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_a_classifier_from_the_shared_encoder(tmp_path: Path) -> None:
    """Its tower is the video part of VATT-MA under other names: the original's features show it."""
    original = Original("ma")
    unified = ROOT + "_base_layer/unified_backbone/unified_transformer/"
    moved = {"raw_to_embeddings/video": "voxel_to_patch", "vid_agg_embedding": "agg_embedding"}
    moved |= {f"{part}/video": part for part in ("pre_proj", "pos_embedding_lookup", "post_proj")}
    weights: Tensors = {}
    for key, value in original.group("w::").items():
        for old, new in (moved | {"tx": "tx"}).items():
            if re.match(rf"{unified}{old}(/|$)", key):
                weights[key.replace(unified + old, ROOT + "_base/" + new)] = value
    generator = np.random.default_rng(0)
    kernel, bias = generator.normal(size=(24, 5)), generator.normal(size=5)
    weights[ROOT + "_ops/cls/kernel"] = kernel.astype(np.float32)
    weights[ROOT + "_ops/cls/bias"] = bias.astype(np.float32)
    write_original(tmp_path / "ckpt", weights)

    import_checkpoint(tmp_path / "ckpt", tmp_path / "out", OPTIONS)
    logits = vatt.load_classifier(tmp_path / "out").classify(original.tensor("in::video")[:, None])
    expected = original.numbers["eval:/video/features_pooled"] @ kernel + bias
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=1e-5)


def test_every_tensor_is_accounted_for(tmp_path: Path, specific: Path) -> None:
    fates = import_checkpoint(specific, tmp_path / "out", OPTIONS)
    texts = {fate.name: fate.text for fate in fates}
    slots = {f"{name}{SLOTS}{slot}" for name in WEIGHTS for slot in "mv"}
    others = {"optimizer/iter", "save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert texts.keys() == {*WEIGHTS, *slots, *others}
    assert {name for name, text in texts.items() if text.startswith("left out")} == slots | others
    taken = {texts[name].partition("[")[0] for name in WEIGHTS}
    assert taken == set(vatt.load(tmp_path / "out").model.state_dict())
    layer = ROOT + "_base_layer/aud_backbone/_base/tx/layers/1/mha/"
    fused = "audio.encoder.blocks.1.attention.key_value.weight"
    assert texts[layer + "k/kernel"] == f"{fused}[0:32]"
    assert texts[layer + "v/kernel"] == f"{fused}[32:64]"


def test_text_needs_the_vocabulary_that_fits(tmp_path: Path, specific: Path) -> None:
    vocabulary = tmp_path / "howto100m_en.txt"
    vocabulary.write_text("<pad>\n<unk>\n" + "".join(f"word{number}\n" for number in range(48)))
    import_checkpoint(specific, tmp_path / "without", OPTIONS)
    without = vatt.load(tmp_path / "without")
    with pytest.raises(StageError, match="--vocabulary FILE: 50 words"):
        without.embed_text(["word3"])

    options = OPTIONS.model_copy(update={"vocabulary": vocabulary})
    import_checkpoint(specific, tmp_path / "with", options)
    exported = vatt.load(tmp_path / "with")
    texts = ["Word3, word40!", "nothing known"]
    ids = WordTokenizer(vocabulary).encode(texts, 6)
    assert ids.tolist() == [[5, 42, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    with torch.inference_mode():
        expected = without.model.text_projection(without.model.encode_text(ids))
    assert torch.equal(exported.embed_text(texts), expected)

    with vocabulary.open("a") as file:
        file.write("more\n")
    with pytest.raises(StageError, match=r"en.txt: has 51 words, the checkpoint's table 50"):
        import_checkpoint(specific, tmp_path / "out", options)
    with pytest.raises(StageError, match="a classifier has no text"):
        import_checkpoint(CHECKPOINTS / "cls_vit", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


QUERY = ROOT + "_base_layer/vid_backbone/_base/tx/layers/1/mha/q/"
KEY = QUERY.replace("/q/", "/k/")
NUMBERS = np.zeros((32, 31), np.float32)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (QUERY + "kernel", None, "{}: is missing"),
        (QUERY.replace("/1/", "/0/") + "kernel", None, "layers/0/mha/q/kernel: is missing"),
        (ROOT + "extra/kernel", NUMBERS, "extra/kernel: has no place"),
        ("global_step", np.array(5, np.int64), "global_step: has no place"),
        (QUERY + "kernel", NUMBERS, "{}: has shape .32, 31., its part .*query.weight is .32, 32."),
        (KEY + "kernel", NUMBERS[:, :24], "{}: .* .32, 24., its part .*key_value.* is .32, 32."),
        (QUERY + "bias", np.zeros(32, np.float64), "{}: is float64, not float32"),
    ],
)
def test_checkpoints_of_other_networks_are_refused_by_name(
    tmp_path: Path, key: str, value: np.ndarray | None, message: str
) -> None:
    weights = {name: kept for name, kept in WEIGHTS.items() if name != key}
    write_original(tmp_path / "ckpt", weights if value is None else weights | {key: value})
    with pytest.raises(StageError, match=message.replace("{}", key)) as error:
        import_checkpoint(tmp_path / "ckpt", tmp_path / "out", OPTIONS)
    assert str(tmp_path / "ckpt") in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file/out", "file/folder/out", "x" * 256])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StageError) as error:
        import_checkpoint(CHECKPOINTS / "ma", tmp_path / place, OF_AGNOSTIC)
    assert str(error.value).startswith(f"{tmp_path / place}: cannot be written: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """The system lets no file grow beyond 10 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StageError, match=r"out: cannot be written: .*[Tt]oo large"):
            import_checkpoint(CHECKPOINTS / "ma", tmp_path / "out", OF_AGNOSTIC)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vatt", "import-tf", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_what_became_of_every_tensor(tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS / "ma"
    done = run(checkpoint, tmp_path / "out", "--head-width", "8")
    assert (done.returncode, done.stderr) == (0, "")
    *rows, last = done.stdout.splitlines()
    assert len(rows) == 85
    assert (
        f"{ROOT}_base_layer/unified_backbone/unified_transformer/tx/layers/0/mha/q/kernel (32, 32)"
        " -> video.encoder.blocks.0.attention.query.weight"
    ) in rows
    assert "_CHECKPOINTABLE_OBJECT_GRAPH () -> left out: text, no weight" in rows
    assert last.startswith(f"{tmp_path / 'out'}: 84 tensors taken over, 1 left out")

    again = run(checkpoint, tmp_path / "out", "--head-width", "8")
    assert again.returncode == 1
    assert f"import-tf: {tmp_path / 'out'}: exists already" in again.stderr


def test_the_command_refuses_a_truncated_checkpoint(tmp_path: Path) -> None:
    for file in CHECKPOINTS.glob("ma.*"):
        shutil.copyfile(file, tmp_path / file.name)
    shard = tmp_path / "ma.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:100_000])
    done = run(tmp_path / "ma", tmp_path / "out", "--head-width", "8")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{shard}: is cut off: " in done.stderr
    assert run(tmp_path / "ma", tmp_path / "out", "--head-width", "0").stderr.startswith(
        "import-tf: head_width: Input should be greater than or equal to 1, got 0"
    )
    assert {path.name for path in tmp_path.iterdir()} == {shard.name, "ma.index"}


def test_every_tensor_has_an_original_and_keys_stand_before_values() -> None:
    sources = find_originals(Original("ms").build_model().state_dict(), WEIGHTS)
    assert sorted(key for keys in sources.values() for key in keys) == sorted(WEIGHTS)
    name = "video.encoder.blocks.1.attention.key_value.weight"
    key, value = sources[name]
    assert (key[-8:], value[-8:]) == ("k/kernel", "v/kernel")
    pair = {key: WEIGHTS[key], value: WEIGHTS[value]}
    fused = state_from_original([name], pair)[name].numpy()
    np.testing.assert_array_equal(fused[:32], WEIGHTS[key].T)
    np.testing.assert_array_equal(fused[32:], WEIGHTS[value].T)
    with pytest.raises(KeyError):
        find_originals(["video.head.weight"], WEIGHTS)
