"""A wrong key, value or combination in params.yaml is refused by name, before anything starts."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from vatt.params import Params, ParamsError, load_params, read_settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
DEFAULTS: dict[str, Any] = yaml.safe_load(TEXT)
SECTIONS = {info.alias or field: info.annotation for field, info in Params.model_fields.items()}


def refusal(tmp_path: Path, content: dict[str, Any]) -> str:
    """Return the message with which a params.yaml of this content is refused."""
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ParamsError) as raised:
        load_params(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults with the values at some `section.key` replaced; keys may lie deeper."""
    content = copy.deepcopy(DEFAULTS)
    for name, value in changes.items():
        *sections, key = name.split(".")
        inner = content
        for section in sections:
            inner = inner[section]
        inner[key] = value
    return content


def test_the_defaults_are_accepted_and_every_section_has_its_model() -> None:
    params = load_params(ROOT / "params.yaml")
    assert set(DEFAULTS) == set(SECTIONS)
    for name, model in SECTIONS.items():
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        assert isinstance(params.section(name), model)
        assert set(model.model_fields) == set(DEFAULTS[name])


def test_every_key_of_params_yaml_is_explained() -> None:
    keys = [line for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
    assert [line for line in keys if " # " not in line] == []


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_and_missing_keys_and_sections_are_named(tmp_path: Path, section: str) -> None:
    message = refusal(tmp_path, changed({f"{section}.no_such_key": 1}))
    assert f"{section}.no_such_key: unknown key" in message
    content = copy.deepcopy(DEFAULTS)
    key = next(iter(content[section]))
    del content[section][key]
    assert f"{section}.{key}: is missing" in refusal(tmp_path, content)
    del content[section]
    assert f"{section}: is missing" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    "name", [f"{section}.{key}" for section, keys in DEFAULTS.items() for key in keys]
)
def test_a_value_of_the_wrong_type_is_named(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, changed({name: {"a": "mapping"}}))
    assert f"{name} = " in message or f"{name}." in message


@pytest.mark.parametrize("name", ["run", "seed"])
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "params.yaml"
    spoiled = {"run": TEXT + "run: {}\n", "seed": TEXT.replace("  seed:", "  seed: 3\n  seed:", 1)}
    path.write_text(spoiled[name], encoding="utf-8")
    with pytest.raises(ParamsError, match=rf"is not YAML: line \d+: {name} is given twice"):
        load_params(path)


# A value out of range, and what the message says is accepted.
OUT_OF_RANGE = [
    ("run.seed", -1, "greater than or equal to 0"),
    ("run.seed", 2**32, "less than 4294967296"),
    ("download.sources", [], "at least 1 item"),
    ("preprocess.frame_rate_hz", 0, "greater than 0"),
    ("preprocess.frame_rate_hz", float("nan"), "finite number"),
    ("preprocess.segment_s", float("inf"), "finite number"),
    ("preprocess.video_crf", 52, "less than or equal to 51"),
    ("validate.max_silent_rate", 1.5, "less than or equal to 1"),
    ("clip.num_candidates", 0, "greater than or equal to 1"),
    ("clip.num_frames", 7.5, "valid integer"),
    ("model.text_style", "gpt", "'t5', 'bert' or 'linear'"),
    ("model.drop_token_rate", 1.0, "less than 1"),
    ("finetune.video.num_steps", 0, "greater than or equal to 1"),
    ("finetune.video.initial_weights", "", "at least 1 character"),
    ("pretrain.initial_weights", "", "at least 1 character"),
    ("tune.num_trials", 0, "greater than or equal to 1"),
    ("loss.form", "both", "'asymmetric' or 'symmetric'"),
    ("loss.positives", "thrice", "'twice' or 'once'"),
    ("loss.temperature", 0, "greater than 0"),
    ("loss.rows_per_chunk", 0, "greater than or equal to 1"),
    ("loss.valid_mean", "local", "'global' or 'replica'"),
    ("pretrain.batch_size", 1, "greater than or equal to 2"),
    ("pretrain.learning_rate", "fast", "valid number"),
    ("pretrain.schedule", "linear", "'paper' or 'released'"),
    ("launch.zero_stage", 4, "0, 1, 2 or 3"),
    ("launch.precision", "int8", "'fp32', 'bf16' or 'fp16'"),
    ("evaluate.num_windows", 0, "greater than or equal to 1"),
    ("promote.metric", "loss", "'text_to_video_r10'"),
    ("promote.tolerance", -0.1, "greater than or equal to 0"),
]


@pytest.mark.parametrize(("name", "value", "accepted"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_named_with_what_is_accepted(
    tmp_path: Path, name: str, value: Any, accepted: str
) -> None:
    message = refusal(tmp_path, changed({name: value}))
    assert f"{name} = {value!r}" in message
    assert accepted in message


def test_every_section_has_a_value_that_is_refused() -> None:
    assert {name.split(".")[0] for name, _, _ in OUT_OF_RANGE} == set(SECTIONS)


BASE: dict[str, Any] = {
    "preprocess.frame_rate_hz": 5,
    "preprocess.short_side_px": 64,
    "preprocess.segment_s": 4.0,
    "preprocess.min_segment_s": 1.0,
    "clip.num_frames": 8,
    "clip.frame_size_px": 64,
    "clip.num_samples": 76800,
    "model.video_patch": [2, 8, 8],
    "model.audio_patch": 512,
}
"""A possible combination, whatever the defaults are."""

SHARED = {"model.shared_encoder": True, "model.text_style": "bert"}
SPECTROGRAM = {"model.audio_input": "spectrogram", "model.audio_patch": 500}  # needs no multiple
SOURCE = {"kind": "folder", "name": "mine", "url": "videos"}

# Each is possible alone; together they are not. The message holds every part of `named`.
COMBINATIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"model.video_patch": [3, 8, 8]}, ["clip.num_frames = 8", "model.video_patch[0] = 3"]),
    ({"model.video_patch": [2, 7, 8]}, ["clip.frame_size_px = 64", "model.video_patch[1:] = 7, 8"]),
    ({"model.video_patch": [2, 8, 24]}, ["clip.frame_size_px = 64", "8, 24"]),
    ({"model.audio_patch": 500}, ["clip.num_samples = 76800", "model.audio_patch = 500"]),
    ({"preprocess.short_side_px": 56}, ["clip.frame_size_px = 64", "short_side_px = 56"]),
    ({"clip.num_samples": 25600}, ["clip.num_frames = 8", "1.600 s", "clip.num_samples = 25600"]),
    (
        {"preprocess.segment_s": 1.0, "preprocess.min_segment_s": 0.5},
        ["preprocess.segment_s = 1.0", "1.600 s"],
    ),
    (
        {"preprocess.min_segment_s": 5.0},
        ["preprocess.min_segment_s = 5.0", "preprocess.segment_s = 4.0"],
    ),
    (
        {"pretrain.warmup_steps": 601, "pretrain.num_steps": 600},
        ["pretrain.warmup_steps = 601", "pretrain.num_steps = 600"],
    ),
    (
        {"pretrain.batch_size": 63, "launch.num_processes": 2},
        ["pretrain.batch_size = 63", "launch.num_processes = 2"],
    ),
    (
        {"pretrain.batch_size": 66, "launch.num_processes": 2, "pretrain.accumulation_steps": 4},
        ["pretrain.batch_size = 66", "pretrain.accumulation_steps = 4"],
    ),
    (
        {"pretrain.keep_every_steps": 15, "pretrain.checkpoint_every_steps": 10},
        ["pretrain.keep_every_steps = 15", "pretrain.checkpoint_every_steps = 10"],
    ),
    (
        {"launch.offload": "optimizer", "launch.zero_stage": 0},
        ["launch.offload = optimizer needs launch.zero_stage 1, 2 or 3, not 0"],
    ),
    (
        {"launch.offload": "optimizer_and_parameters", "launch.zero_stage": 2},
        ["launch.offload = optimizer_and_parameters needs launch.zero_stage 3, not 2"],
    ),
    (
        {"pretrain.initial_weights": "champion", "pretrain.word_vectors": "words.safetensors"},
        ["pretrain.initial_weights = champion", "pretrain.word_vectors = words.safetensors"],
    ),
    ({"loss.weight_va": 0, "loss.weight_vt": 0}, ["loss.weight_va", "loss.weight_vt"]),
    (
        {"finetune.audio.schedule.warmup_steps": 9, "finetune.audio.num_steps": 8},
        ["finetune.audio.warmup_steps = 9", "finetune.audio.num_steps = 8"],
    ),
    (
        {"finetune.image.batch_size": 33, "finetune.image.accumulation_steps": 2},
        ["finetune.image.batch_size = 33", "finetune.image.accumulation_steps = 2"],
    ),
    ({"finetune.video.fusion": "tensor"}, ["finetune.video.fusion = tensor: there is nothing"]),
    ({"finetune.audio_visual.fusion": None}, ["finetune.audio_visual.fusion = None: a way"]),
    (
        {"finetune.video.ema_decay": 0.9, "launch.zero_stage": 3},
        ["finetune.video.ema_decay = 0.9 needs launch.zero_stage 0, 1 or 2"],
    ),
    ({"finetune.image.num_frames": 3}, ["finetune.image: 3 frames of 64 pixels", "(2, 8, 8)"]),
    (
        {"finetune.audio.num_samples": 76800, "finetune.audio.audio_stride": 4},
        ["finetune.audio: 76800 samples", "finetune.audio.audio_stride = 4"],
    ),
    ({"finetune.video.frame_size_px": 128}, ["finetune.video: frames of 128 pixels", "= 64"]),
    ({**SHARED, "model.text": "base"}, ["shared_encoder", "must be the same size"]),
    ({**SHARED, "model.text": "tiny", "model.text_style": "t5"}, ["text_style = t5", "bert"]),
    (
        {"model.text_max_distance": 8},
        ["text_max_distance = 8: must be above text_buckets / 4 = 8"],
    ),
    (
        {**SPECTROGRAM, "model.spectrogram_patch": [16, 100]},
        ["model.spectrogram_patch = (16, 100) is larger than the 75 frames x 80"],
    ),
    (
        {"model.space_kind": "joint", "model.space_vt_width": 64},
        ["space_va_width = 128 and space_vt_width = 64 must be equal"],
    ),
    ({"download.sources": [SOURCE, SOURCE]}, ["download.sources", "mine"]),
]


@pytest.mark.parametrize(("changes", "named"), COMBINATIONS)
def test_an_impossible_combination_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: list[str]
) -> None:
    message = refusal(tmp_path, changed(BASE | changes))
    assert [part for part in named if part not in message] == []
    assert ";" not in message  # one rule is broken, one is reported


ASR_SOURCE = {"kind": "folder", "name": "mine", "url": "videos", "captions": "auto"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model.video", "huge", "model.video.preset = 'huge': Input should be 'tiny', 'small'"),
        ("model.text", {"num_layers": 0}, "model.text.numbers.num_layers = 0: Input should be gr"),
        ("model.text", {"depth": 3}, "model.text.numbers.depth: unknown key"),
        ("model.text", 3, "model.text.numbers = 3: Input should be"),
        (
            "preprocess.asr",
            {"device": "tpu"},
            "preprocess.asr.device = 'tpu': Input should be 'cpu'",
        ),
        ("preprocess.asr", {"compute_type": "auto"}, "preprocess.asr.compute_type = 'auto': Input"),
        ("preprocess.asr", {"language": "English"}, "preprocess.asr.language = 'English': String"),
        ("download.sources", [ASR_SOURCE], "download.sources.0.folder.captions = 'auto': Input"),
        ("model.video_patch", [2, 0, 8], "model.video_patch.1 = 0: Input should be greater than"),
    ],
)
def test_a_value_within_a_value_is_named(
    tmp_path: Path, name: str, value: Any, expected: str
) -> None:
    assert expected in refusal(tmp_path, changed({name: value}))


@pytest.mark.parametrize("name", ["../up", "a/b", "", "with space", "ünï"])
def test_a_name_that_is_no_plain_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert "name" in refusal(tmp_path, changed({"download.sources": [SOURCE | {"name": name}]}))


@pytest.mark.parametrize("text", [b"", b"- a\n- b\n", b"a: [", b"\xff\xfe\x00", None])
def test_a_file_that_is_no_mapping_of_sections_is_refused(
    tmp_path: Path, text: bytes | None
) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        load_params(path)


def test_the_command_line_refuses_before_the_stage_starts(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(changed({"clip.num_frames": 0})), encoding="utf-8")
    command = [sys.executable, "-m", "vatt", "--params", str(path), "validate"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"validate: {path}: clip.num_frames = 0: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pretrain.num_steps", "600"),
        ("run.seed", True),
        ("model.train_word_table", "no"),
        ("clip.num_frames", 8.0),
    ],
)
def test_no_type_is_guessed(tmp_path: Path, name: str, value: object) -> None:
    assert f"{name} = {value!r}" in refusal(tmp_path, changed({name: value}))


def write_layers(folder: Path, **layers: str) -> Path:
    """Write files of settings, and return the last one."""
    path = folder
    for name, text in layers.items():
        path = folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_laid_over_others(tmp_path: Path) -> None:
    """Mappings are merged key by key; lists and ranges of `tune` are replaced whole."""
    (tmp_path / "below").mkdir()
    lowest = "a: {b: 1, c: {d: 2, e: 3}}\nlist: [1, 2]\nrange: {low: 0, high: 1}\nname: small"
    write_layers(tmp_path / "below", lowest=lowest)
    top = write_layers(
        tmp_path,
        middle="over: below/lowest.yaml\na: {c: {d: 20}}\nrange: {choices: [5]}",
        top="over: middle.yaml\na: {b: 10}\nlist: [7]\nname: {width: 3}",
    )
    assert read_settings(top) == {
        "a": {"b": 10, "c": {"d": 20, "e": 3}},
        "list": [7],
        "range": {"choices": [5]},
        "name": {"width": 3},
    }


@pytest.mark.parametrize("over", ["top.yaml", "middle.yaml", "3", "gone.yaml"])
def test_files_that_cannot_be_laid_over_each_other_are_refused(tmp_path: Path, over: str) -> None:
    top = write_layers(tmp_path, middle="over: top.yaml", top=f"over: {over}")
    with pytest.raises(ParamsError, match=r"must name another file|cannot be read"):
        read_settings(top)


def test_a_stage_runs_with_what_differs_and_describe_prints_the_whole(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(TEXT, encoding="utf-8")
    write_layers(tmp_path, mine="over: params.yaml\npretrain: {num_steps: 501}")
    command = [sys.executable, "-m", "vatt", "describe", "--params", "mine.yaml", "--full"]
    printed = subprocess.check_output(command, cwd=tmp_path, text=True)
    assert yaml.safe_load(printed) == changed({"pretrain.num_steps": 501})
    write_layers(tmp_path, mine="over: params.yaml\nclip: {num_frames: 7}")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("describe: mine.yaml: clip.num_frames = 7")
