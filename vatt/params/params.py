"""The whole of params.yaml, and what must hold between its sections."""

import json
from collections.abc import Iterator
from functools import reduce
from itertools import chain
from operator import attrgetter, gt
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from vatt.core.errors import StageError
from vatt.params.clip import AUDIO_RATE_HZ, SPECTROGRAM_BANDS, SPECTROGRAM_HOP, ClipParams
from vatt.params.evaluate import EvaluateParams, PromoteParams
from vatt.params.finetune import PRETRAINED, TASKS, FinetuneParams, TaskName
from vatt.params.launch import LaunchParams
from vatt.params.model import LossParams, ModelParams
from vatt.params.preprocess import PreprocessParams
from vatt.params.pretrain import PretrainParams, TrainingParams
from vatt.params.section import Section
from vatt.params.sources import DownloadParams
from vatt.params.tune import TuneParams
from vatt.params.validate import ValidateParams


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which PyYAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raises YAMLError with the line of a second key of one name."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class ParamsError(StageError):
    """Settings cannot be used; the message names file, key, value and what is accepted."""


class RunParams(Section):
    """What all stages share."""

    seed: int = Field(ge=0, lt=2**32)
    """Seed of everything random: the demo corpus, weights, sampling, augmentation."""


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
        """Return the section that params.yaml calls `name`; KeyError if there is none."""
        for field, info in type(self).model_fields.items():
            if name == (info.alias or field):
                section: Section = getattr(self, field)
                return section
        raise KeyError(name)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        checks: list[Iterator[str]] = [
            chain(self._find_clip_problems(), self._find_training_problems())
        ]
        for task in TASKS:  # which take from the clip what they do not say themselves
            checks += [self._find_task_problems(task), self._find_space_problems(task)]
        for problems in checks:  # what comes later may follow from what comes first
            if found := list(problems):
                raise ValueError("; ".join(found))
        return self

    def _show(self, name: str) -> str:
        """Return `name = value` of a key, by its dotted name."""
        return f"{name} = {attrgetter(name)(self)}"

    def _find_clip_problems(self) -> Iterator[str]:
        """Yield what is wrong with files, clips, patches and segments."""
        clip, preprocess, model, show = self.clip, self.preprocess, self.model, self._show
        names = [source.name for source in self.download.sources]
        if len(set(names)) < len(names):
            yield f"download.sources: names must differ: {names}"
        frames, height, width = model.video_patch
        if clip.num_frames % frames:
            yield f"{show('clip.num_frames')} is not a multiple of model.video_patch[0] = {frames}"
        size, patch = show("clip.frame_size_px"), f"model.video_patch[1:] = {height}, {width}"
        if clip.frame_size_px % height or clip.frame_size_px % width:
            yield f"{size} is not a multiple of {patch}"
        if model.audio_input == "waveform" and clip.num_samples % model.audio_patch:
            yield f"{show('clip.num_samples')} is not a multiple of {show('model.audio_patch')}"
        num_spectra, num_bands = -(-clip.num_samples // SPECTROGRAM_HOP), SPECTROGRAM_BANDS
        is_larger = any(map(gt, model.spectrogram_patch, (num_spectra, num_bands)))
        if model.audio_input == "spectrogram" and is_larger:
            shape = f"{num_spectra} frames x {num_bands} bands"
            yield f"{show('model.spectrogram_patch')} is larger than the {shape} of a clip"
        if clip.frame_size_px > preprocess.short_side_px:
            yield f"{size} is larger than {show('preprocess.short_side_px')}"
        clip_s = clip.num_frames / preprocess.frame_rate_hz
        audio_s = clip.num_samples / AUDIO_RATE_HZ
        if abs(clip_s - audio_s) * preprocess.frame_rate_hz > 1:
            yield (
                f"{show('clip.num_frames')} at preprocess.frame_rate_hz lasts {clip_s:.3f} s, "
                f"{show('clip.num_samples')} at 48 kHz {audio_s:.3f} s: "
                "they may differ by one frame"
            )
        segment = show("preprocess.segment_s")
        if preprocess.segment_s < clip_s:
            yield f"{segment} is shorter than a clip ({clip_s:.3f} s)"
        if preprocess.min_segment_s > preprocess.segment_s:
            yield f"{show('preprocess.min_segment_s')} is longer than {segment}"

    def _find_training_problems(self) -> Iterator[str]:
        """Yield what is wrong with pre-training and with how it is launched."""
        pretrain, launch, show = self.pretrain, self.launch, self._show
        yield from self._find_step_problems("pretrain", pretrain, pretrain.warmup_steps)
        stages = {"none": "0 to 3", "optimizer": "1, 2 or 3", "optimizer_and_parameters": "3"}
        needed = stages[launch.offload]
        if launch.zero_stage < int(needed[0]):
            need = f"needs launch.zero_stage {needed}, not {launch.zero_stage}"
            yield f"{show('launch.offload')} {need}"
        if pretrain.initial_weights is not None and pretrain.word_vectors is not None:
            weights, words = show("pretrain.initial_weights"), show("pretrain.word_vectors")
            yield f"{weights} brings its own words: {words} must be null"
        if self.loss.weight_va + self.loss.weight_vt == 0:
            yield "loss.weight_va and loss.weight_vt are both 0"

    def _find_step_problems(
        self, section: str, training: TrainingParams, warmup_steps: int
    ) -> Iterator[str]:
        """Yield what is wrong with the steps of any training."""

        def show(key: str) -> str:
            return self._show(f"{section}.{key}")

        if warmup_steps > training.num_steps:
            yield f"{section}.warmup_steps = {warmup_steps} is above {show('num_steps')}"
        if training.batch_size % (self.launch.num_processes * training.accumulation_steps):
            parts = f"{self._show('launch.num_processes')} times {show('accumulation_steps')}"
            yield f"{show('batch_size')} is not a multiple of {parts}"
        if (training.keep_every_steps or 0) % training.checkpoint_every_steps:
            every = show("checkpoint_every_steps")
            yield f"{show('keep_every_steps')} is not a multiple of {every}"

    def _find_task_problems(self, name: TaskName) -> Iterator[str]:
        """Yield what is wrong with the fine-tuning for a task, and with what it sees and hears."""
        task, section, model = self.finetune.task(name), f"finetune.{name}", self.model
        yield from self._find_step_problems(section, task, task.schedule.warmup_steps)
        if (task.fusion is None) == (name == "audio_visual"):
            need = "there is nothing to fuse" if task.fusion else "a way to fuse is needed"
            yield f"{section}.fusion = {task.fusion}: {need}"
        if task.multi_label and task.schedule.label_smoothing:
            smoothing = self._show(f"{section}.schedule.label_smoothing")
            yield f"{smoothing} must be 0 where {section}.multi_label is true"
        if task.ema_decay is not None and self.launch.zero_stage == 3:
            yield f"{section}.ema_decay = {task.ema_decay} needs launch.zero_stage 0, 1 or 2"
        clip, (frames, height, width) = task.cut_clip(self.clip), model.video_patch
        sees, hears = name != "audio", name in ("audio", "audio_visual")
        size_px = clip.frame_size_px
        if sees and size_px > self.preprocess.short_side_px:
            largest = self._show("preprocess.short_side_px")
            yield f"{section}: frames of {size_px} pixels are larger than {largest}"
        if task.initial_weights not in (None, PRETRAINED):
            return  # other networks have patches of their own
        num_frames = frames if name == "image" and task.num_frames is None else clip.num_frames
        if sees and (num_frames % frames or size_px % height or size_px % width):
            yield (
                f"{section}: {num_frames} frames of {size_px} pixels are not whole patches: "
                f"{self._show('model.video_patch')}"
            )
        patch = task.audio_stride * (model.audio_patch if model.audio_input == "waveform" else 1)
        if hears and clip.num_samples % patch:
            stride = self._show(f"{section}.audio_stride")
            yield (
                f"{section}: {clip.num_samples} samples are no multiple of {stride} times "
                "model.audio_patch"
            )

    def _find_space_problems(self, name: TaskName) -> Iterator[str]:
        """Yield what is wrong with the search for the schedule of a task."""
        tune, section = self.tune, f"finetune.{name}"
        task, space = self.finetune.task(name), tune.find_space(name)
        for key, values in space.items():
            own = getattr(task.schedule, key)
            if not values.holds(own):
                yield (
                    f"{tune.name_key(name, key)} does not hold {section}.schedule.{key} = {own!r} "
                    f"(tune.task_space.{name} is for this task alone)"
                )
        longest = space.get("warmup_steps")
        if longest is not None and max(longest.list_ends()) > task.num_steps:
            limit = self._show(f"{section}.num_steps")
            yield f"{tune.name_key(name, 'warmup_steps')} goes beyond {limit}"
        if not space:
            yield f"tune.task_space.{name} leaves nothing to search"
        if task.multi_label and "label_smoothing" in space:
            yield (
                f"tune.task_space.{name}.label_smoothing must be null where {section}.multi_label "
                "is true: there is no smoothing"
            )


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
        content = yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)  # noqa: S506
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
        # A range that `tune` searches is no such mapping: no key of the old one may stay.
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and not {"low", "choices"} & old.keys()
        ):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
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
