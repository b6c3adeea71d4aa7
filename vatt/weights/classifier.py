"""A fine-tuned classifier as a folder that needs nothing else, and its use."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.model.classifier import Network, NetworkParams, build_network, list_towers
from vatt.model.spectrogram import HOP, NUM_BANDS, count_frames
from vatt.model.towers import TowerParams, restore_weights
from vatt.params import ClipParams, Section, TaskName, TaskParams
from vatt.weights.export import (
    CLASSIFIER_SECTION,
    PARAMS,
    WEIGHTS,
    check_signal,
    read_params,
    read_weights,
    write_model,
)


class ExportedClassifierParams(Section):
    """What params.yaml of a classifier holds."""

    classifier: NetworkParams
    frame_rate_hz: float = Field(gt=0)
    """Of the video that it was trained on."""
    audio_stride: int = Field(default=1, ge=1)
    """Every so many samples at 48 kHz it heard one."""
    code_version: str
    """Version of the vatt package that wrote the export."""
    label: str | None = None
    """The task of the annotations that it was trained on; this and all that follows is None where
    weights were imported."""
    classes: tuple[str, ...] | None = None
    """Of the logits, in their order."""
    clip: ClipParams | None = None
    task_name: TaskName | None = None
    task: TaskParams | None = None
    """How it was fine-tuned."""
    initial_digest: str | None = None
    """Of the weights that fine-tuning started from; None, too, where they were random."""

    @model_validator(mode="after")
    def _check_classes(self) -> "ExportedClassifierParams":
        num_classes = self.classifier.num_classes
        if self.classes is not None and len(self.classes) != num_classes:
            raise ValueError(f"{len(self.classes)} classes for a network of {num_classes}")
        return self


@dataclass(frozen=True)
class ExportedClassifier:
    """A fine-tuned classifier."""

    model: Network
    params: ExportedClassifierParams

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one view of each modality that it takes, in the order that it takes them.

        Frames, height, width and 3; samples; or frames and mel bands.
        """
        return {name: tower.measure() for name, tower in self._towers.items()}

    @torch.inference_mode()
    def classify(self, *views: Float[Tensor, "B V *shape"]) -> Float[Tensor, "B C"]:
        """Return the logits of B clips, averaged over the V views of each.

        They are for sigmoids where `params.classifier.is_multi_label`, else for softmax. For each
        of `input_shapes` there is one tensor: windows, or windows and crops, each of that shape: RGB
        or mono in [-1, 1], or log-mel spectrograms in [0, 1], of which frames in a last, unfilled
        patch are cut off. Where these have 80 bands, waveforms of as many frames (1024 samples each,
        the last one may be cut short) are accepted, too.
        The paper has 4 windows of a sound, 4 x 3 views of a video.

        Raises:
            ValueError: another shape, type, range or number of tensors.
        """
        if len(views) != len(self._towers):
            raise ValueError(
                f"expected views of {' and of '.join(self._towers)}, got {len(views)} tensors"
            )
        for signal, (modality, tower) in zip(views, self._towers.items(), strict=True):
            _check_views("views" if len(views) == 1 else f"{modality} views", signal, tower)
        if len({signal.shape[:2] for signal in views}) > 1:
            raise ValueError("views: expected as many clips, and views of each, of every modality")
        device = self.model.head.weight.device
        logits: Tensor = self.model.average_views(*(signal.to(device) for signal in views))
        return logits

    @property
    def _towers(self) -> dict[str, TowerParams]:
        return list_towers(self.params.classifier)


def _check_views(name: str, views: Float[Tensor, "B V *shape"], tower: TowerParams) -> None:
    """Refuse what the tower would misread; of spectrograms, waveforms and more frames are accepted."""
    shape = tower.measure()
    if tower.input == "spectrogram" and views.ndim == 3 and shape[1] == NUM_BANDS:
        _check_waveforms(name, views, tower)
        return
    lowest = -1
    if tower.input == "spectrogram":
        lowest = 0
        # The network cuts off what is left over.
        if views.ndim == 4 and shape[0] <= views.shape[2] < shape[0] + tower.patch[0]:
            views = views[:, :, : shape[0]]
    check_signal(name, views.flatten(0, 1), shape, lowest=lowest)


def _check_waveforms(name: str, views: Float[Tensor, "B V S"], tower: TowerParams) -> None:
    """Refuse waveforms whose spectrograms the tower would not take."""
    num_frames, num_samples = tower.measure()[0], views.shape[2]
    accepted = range(num_frames, num_frames + tower.patch[0])
    if count_frames(num_samples) not in accepted:
        fewest, most = accepted[0] * HOP - HOP + 1, accepted[-1] * HOP
        raise ValueError(
            f"{name}: expected waveforms of {fewest} to {most} samples, got {num_samples}"
        )
    check_signal(name, views.flatten(0, 1), (num_samples,))


def save_classifier(path: Path, model: Network, params: ExportedClassifierParams) -> None:
    """Write `model` to the folder `path`: whole or not at all, the same bytes for the same model."""
    with atomic_path(path) as partial:
        write_model(partial, model, params.model_dump(mode="json"))


def export_classifier(
    path: Path, weights: Mapping[str, Tensor], params: ExportedClassifierParams
) -> None:
    """Write the network of `params` with trained weights to the folder `path`.

    Raises:
        KeyError: the names are not those of the network.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_network(params.classifier)
    restore_weights(model, weights)
    save_classifier(path, model, params)


def load_classifier(path: Path) -> ExportedClassifier:
    """Read an exported classifier. The model is on the CPU and in evaluation mode.

    Raises:
        StageError: the folder is not a classifier, or is damaged; the message names the file.
    """
    params = read_classifier_params(path)
    with torch.random.fork_rng(devices=[]):
        model = build_network(params.classifier).eval()
    read_weights(model, path / WEIGHTS)
    return ExportedClassifier(model, params)


def build_untrained_classifier(params: ExportedClassifierParams, seed: int = 0) -> Network:
    """Build the network with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(params.classifier).eval()


def read_classifier_params(path: Path) -> ExportedClassifierParams:
    """Read params.yaml of the classifier in the folder `path`.

    Raises:
        StageError: it is not that of a classifier.
    """
    content = read_params(path)
    if CLASSIFIER_SECTION not in content:
        raise StageError(f"{path}: is not a classifier: load it with vatt.load")
    try:
        return ExportedClassifierParams.model_validate(content)
    except ValidationError as error:
        raise StageError(f"{path / PARAMS}: is not that of a classifier: {error}") from error
