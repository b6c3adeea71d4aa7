"""The whole of params.yaml, and what must hold between its sections."""

import json
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from vatt.core.errors import StageError
from vatt.params.data import (
    AUDIO_RATE_HZ,
    SPECTROGRAM_BANDS,
    SPECTROGRAM_HOP,
    ClipParams,
    PreprocessParams,
    RunParams,
    ValidateParams,
)
from vatt.params.evaluate import EvaluateParams, PromoteParams
from vatt.params.finetune import PRETRAINED, TASKS, FinetuneParams, TaskName
from vatt.params.launch import LaunchParams
from vatt.params.model import LossParams, ModelParams
from vatt.params.section import Section
from vatt.params.sources import DownloadParams
from vatt.params.training import PretrainParams, TrainingParams
from vatt.params.tune import TuneParams


class ParamsError(StageError):
    """params.yaml cannot be used; the message names the file, the key, the value and what is accepted."""


class Params(Section):
    """All sections of params.yaml, and the combinations that are possible."""

    model_config = ConfigDict(validate_by_alias=True, serialize_by_alias=True)

    run: RunParams
    download: DownloadParams
    preprocess: PreprocessParams
    validation: ValidateParams = Field(alias="validate")
    clip: ClipParams
    model: ModelParams
    loss: LossParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    tune: TuneParams
    launch: LaunchParams
    evaluate: EvaluateParams
    promote: PromoteParams

    def section(self, name: str) -> Section:
        """Return the section that params.yaml calls `name`.

        Raises:
            KeyError: no such section.
        """
        for field, info in type(self).model_fields.items():
            if name == (info.alias or field):
                section: Section = getattr(self, field)
                return section
        raise KeyError(name)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        _refuse_broken(self._list_clip_rules() | self._list_training_rules())
        for task in TASKS:  # whose clips are as above where nothing else is said
            _refuse_broken(self._list_task_rules(task) | self._list_input_rules(task))
            _refuse_broken(self._list_space_rules(task))
        return self

    def _list_clip_rules(self) -> dict[str, bool]:
        """Return what must hold of files, clips and patches, and whether it does."""
        clip, preprocess, model = self.clip, self.preprocess, self.model
        frames, height, width = model.video_patch
        clip_s = clip.num_frames / preprocess.frame_rate_hz
        audio_s = clip.num_samples / AUDIO_RATE_HZ
        spectrogram = -(-clip.num_samples // SPECTROGRAM_HOP), SPECTROGRAM_BANDS
        names = [source.name for source in self.download.sources]
        return {
            f"download.sources: names must differ: {names}": len(set(names)) == len(names),
            f"clip.num_frames = {clip.num_frames} is not a multiple of model.video_patch[0] = {frames}": (
                clip.num_frames % frames == 0
            ),
            f"clip.frame_size_px = {clip.frame_size_px} is not a multiple of "
            f"model.video_patch[1:] = {height}, {width}": (
                clip.frame_size_px % height == 0 and clip.frame_size_px % width == 0
            ),
            f"clip.num_samples = {clip.num_samples} is not a multiple of "
            f"model.audio_patch = {model.audio_patch}": (
                model.audio_input != "waveform" or clip.num_samples % model.audio_patch == 0
            ),
            f"model.spectrogram_patch = {model.spectrogram_patch} is larger than the "
            f"{spectrogram[0]} frames x {spectrogram[1]} bands of a clip": (
                model.audio_input != "spectrogram"
                or (
                    model.spectrogram_patch[0] <= spectrogram[0]
                    and model.spectrogram_patch[1] <= spectrogram[1]
                )
            ),
            f"clip.frame_size_px = {clip.frame_size_px} is larger than "
            f"preprocess.short_side_px = {preprocess.short_side_px}": (
                clip.frame_size_px <= preprocess.short_side_px
            ),
            f"clip.num_frames = {clip.num_frames} at preprocess.frame_rate_hz lasts {clip_s:.3f} s, "
            f"clip.num_samples = {clip.num_samples} at 48 kHz {audio_s:.3f} s: "
            "they may differ by one frame": abs(clip_s - audio_s) * preprocess.frame_rate_hz <= 1,
            f"preprocess.segment_s = {preprocess.segment_s} is shorter than a clip ({clip_s:.3f} s)": (
                preprocess.segment_s >= clip_s
            ),
            f"preprocess.min_segment_s = {preprocess.min_segment_s} is longer than "
            f"preprocess.segment_s = {preprocess.segment_s}": (
                preprocess.min_segment_s <= preprocess.segment_s
            ),
        }

    def _list_training_rules(self) -> dict[str, bool]:
        """Return what must hold of training, and whether it does."""
        pretrain = self.pretrain
        return {
            **self._list_step_rules("pretrain", pretrain, pretrain.warmup_steps),
            f"launch.offload = {self.launch.offload} needs launch.zero_stage "
            f"{'3' if self.launch.offload == 'optimizer_and_parameters' else '1, 2 or 3'}, "
            f"not {self.launch.zero_stage}": (
                self.launch.zero_stage
                >= {"none": 0, "optimizer": 1, "optimizer_and_parameters": 3}[self.launch.offload]
            ),
            f"pretrain.initial_weights = {pretrain.initial_weights} brings its own words: "
            f"pretrain.word_vectors = {pretrain.word_vectors} must be null": (
                pretrain.initial_weights is None or pretrain.word_vectors is None
            ),
            "loss.weight_va and loss.weight_vt are both 0": (
                self.loss.weight_va + self.loss.weight_vt > 0
            ),
        }

    def _list_step_rules(
        self, section: str, training: TrainingParams, warmup_steps: int
    ) -> dict[str, bool]:
        """Return what must hold of the steps of any training, and whether it does."""
        parts = self.launch.num_processes * training.accumulation_steps
        return {
            f"{section}.warmup_steps = {warmup_steps} is above "
            f"{section}.num_steps = {training.num_steps}": warmup_steps <= training.num_steps,
            f"{section}.batch_size = {training.batch_size} is not a multiple of "
            f"launch.num_processes = {self.launch.num_processes} times "
            f"{section}.accumulation_steps = {training.accumulation_steps}": (
                training.batch_size % parts == 0
            ),
            f"{section}.keep_every_steps = {training.keep_every_steps} is not a multiple of "
            f"{section}.checkpoint_every_steps = {training.checkpoint_every_steps}": (
                (training.keep_every_steps or 0) % training.checkpoint_every_steps == 0
            ),
        }

    def _list_task_rules(self, name: TaskName) -> dict[str, bool]:
        """Return what must hold of fine-tuning for a task, and whether it does."""
        task, section = self.finetune.task(name), f"finetune.{name}"
        return {
            **self._list_step_rules(section, task, task.schedule.warmup_steps),
            f"{section}.fusion = {task.fusion}: "
            + (
                "a way to fuse is needed" if name == "audio_visual" else "there is nothing to fuse"
            ): ((task.fusion is not None) == (name == "audio_visual")),
            f"{section}.schedule.label_smoothing = {task.schedule.label_smoothing} must be 0 where "
            f"{section}.multi_label is true": (
                not task.multi_label or task.schedule.label_smoothing == 0
            ),
            f"{section}.ema_decay = {task.ema_decay} needs launch.zero_stage 0, 1 or 2": (
                task.ema_decay is None or self.launch.zero_stage < 3
            ),
        }

    def _list_space_rules(self, name: TaskName) -> dict[str, bool]:
        """Return what must hold of the search for the schedule of a task, and whether it does."""
        tune, section = self.tune, f"finetune.{name}"
        task, space = self.finetune.task(name), tune.find_space(name)
        longest = space.get("warmup_steps")
        return {
            f"{tune.name_key(name, key)} does not hold {section}.schedule.{key} = "
            f"{getattr(task.schedule, key)!r} (tune.task_space.{name} is for this task alone)": (
                values.holds(getattr(task.schedule, key))
            )
            for key, values in space.items()
        } | {
            f"{tune.name_key(name, 'warmup_steps')} goes beyond {section}.num_steps = "
            f"{task.num_steps}": (longest is None or max(longest.list_ends()) <= task.num_steps),
            f"tune.task_space.{name} leaves nothing to search": len(space) > 0,
            f"tune.task_space.{name}.label_smoothing must be null where {section}.multi_label is "
            "true: there is no smoothing": not (task.multi_label and "label_smoothing" in space),
        }

    def _list_input_rules(self, name: TaskName) -> dict[str, bool]:
        """Return what must hold of what a task sees and hears, and whether it does."""
        task, section, model = self.finetune.task(name), f"finetune.{name}", self.model
        clip, (frames, height, width) = task.cut_clip(self.clip), model.video_patch
        sees, hears = name != "audio", name in ("audio", "audio_visual")
        num_frames = frames if name == "image" and task.num_frames is None else clip.num_frames
        patch = task.audio_stride * (model.audio_patch if model.audio_input == "waveform" else 1)
        # Other networks have patches of their own.
        is_ours = task.initial_weights in (None, PRETRAINED)
        return {
            f"{section}: {num_frames} frames of {clip.frame_size_px} pixels are not whole patches: "
            f"model.video_patch = {model.video_patch}": (
                not (sees and is_ours)
                or (
                    num_frames % frames == 0
                    and clip.frame_size_px % height == 0
                    and clip.frame_size_px % width == 0
                )
            ),
            f"{section}: {clip.num_samples} samples are no multiple of {section}.audio_stride = "
            f"{task.audio_stride} times model.audio_patch": (
                not (hears and is_ours) or clip.num_samples % patch == 0
            ),
            f"{section}: frames of {clip.frame_size_px} pixels are larger than "
            f"preprocess.short_side_px = {self.preprocess.short_side_px}": (
                not sees or clip.frame_size_px <= self.preprocess.short_side_px
            ),
        }


def _refuse_broken(rules: Mapping[str, bool]) -> None:
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ValueError("; ".join(broken))


def load_params(path: Path) -> Params:
    """Read and check params.yaml, or a file with what differs from it: see `read_settings`.

    Raises:
        ParamsError: a file is missing, is not YAML, or holds a key, value or combination that is
            not accepted; all problems are listed.
    """
    content = read_settings(path)
    try:
        # As JSON, whose strict mode takes lists for tuples and whole numbers for floats, but no
        # text for numbers. What JSON does not know (dates) becomes text and is refused as such.
        return Params.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        problems = [_describe(problem, path) for problem in error.errors()]
        raise ParamsError("\n".join(problems)) from error


def format_settings(path: Path) -> str:
    """Return the whole of the settings that a file stands for, as YAML: see `read_settings`."""
    return yaml.safe_dump(read_settings(path), sort_keys=False, width=100)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the whole of the settings that a file stands for.

    A file with a key `over` holds only what differs from the file of that name, relative to its own
    folder, which may differ from a third in turn. Mappings are merged key by key. Lists, single
    values and the ranges that `tune` searches are replaced whole.

    Raises:
        ParamsError: a file is missing or is not a mapping in YAML.
    """
    layers, paths = [_read_mapping(path)], [path.resolve()]
    while (over := layers[-1].pop("over", None)) is not None:
        if not isinstance(over, str) or (path.parent / over).resolve() in paths:
            raise ParamsError(f"{path}: over = {over!r}: must name another file of settings")
        path = path.parent / over
        layers.append(_read_mapping(path))
        paths.append(path.resolve())
    return reduce(_merge, reversed(layers))


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: must be a mapping of sections, is {type(content).__name__}")
    return content


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = below.get(key)
        is_range = isinstance(old, dict) and not {"low", "choices"}.isdisjoint(old)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both and not is_range else value
    return merged


def _describe(problem: Any, path: Path) -> str:
    """Turn one pydantic problem into `file: key = value: what is accepted`."""
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{path}: {key}: is missing; `over: params.yaml` takes what is not said from there"
    if problem["type"] == "extra_forbidden":
        return f"{path}: {key}: unknown key; see the comments in params.yaml for those that exist"
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):
        return f"{path}: {key}{': ' if key else ''}{message}"  # a rule names its keys itself
    return f"{path}: {key} = {problem['input']!r}: {message}"
