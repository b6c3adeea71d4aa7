"""A fine-tuned classifier as a folder that needs nothing else, and its use."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field, ValidationError
from torch import Tensor

from vatt.atomic import atomic_path
from vatt.interop.export import (
    CLASSIFIER_SECTION,
    PARAMS,
    WEIGHTS,
    check_signal,
    read_params,
    read_weights,
    write_model,
)
from vatt.models.classifier import Classifier, ClassifierParams
from vatt.models.spectrogram import HOP, NUM_BANDS, count_frames
from vatt.params import Section, StageError


class ExportedClassifierParams(Section):
    """What params.yaml of a classifier holds."""

    classifier: ClassifierParams
    frame_rate_hz: float = Field(gt=0)
    """Of the video that it was trained on."""
    code_version: str
    """Version of the vatt package that wrote the export."""


@dataclass(frozen=True)
class ExportedClassifier:
    """A fine-tuned classifier."""

    model: Classifier
    params: ExportedClassifierParams

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one view: frames, height, width and 3; samples; or frames and mel bands."""
        classifier = self.params.classifier
        sizes = zip(classifier.patch, classifier.grid, strict=True)
        shape = tuple(points * count for points, count in sizes)
        return (*shape, 3) if classifier.input == "video" else shape

    @torch.inference_mode()
    def classify(self, views: Float[Tensor, "B V *shape"]) -> Float[Tensor, "B C"]:
        """Return the logits of B clips, averaged over the V views of each; take softmax or sigmoid.

        `views` are windows, or windows and crops, each of `input_shape`: RGB or mono in [-1, 1],
        or log-mel spectrograms in [0, 1], of which frames in a last, unfilled patch are cut off.
        Where these have 80 bands, waveforms of as many frames (1024 samples each, the last one
        may be cut short) are accepted, too.
        The paper has 4 windows of a sound, 4 x 3 views of a video.

        Raises:
            ValueError: another shape, type or range.
        """
        if self.params.classifier.input == "spectrogram":
            self._check_spectrograms(views)
        else:
            check_signal("views", views.flatten(0, 1), self.input_shape)
        return self.model.average_views(views.to(self.model.head.weight.device))

    def _check_spectrograms(self, views: Float[Tensor, "B V *shape"]) -> None:
        """Refuse what is neither spectrograms nor, where there are 80 bands, waveforms."""
        num_frames, num_bands = self.input_shape
        # The network cuts off what is left over.
        accepted = range(num_frames, num_frames + self.params.classifier.patch[0])
        if views.ndim == 3 and num_bands == NUM_BANDS:
            num_samples = views.shape[2]
            if count_frames(num_samples) not in accepted:
                fewest, most = accepted[0] * HOP - HOP + 1, accepted[-1] * HOP
                raise ValueError(
                    f"views: expected waveforms of {fewest} to {most} samples, got {num_samples}"
                )
            check_signal("views", views.flatten(0, 1), (num_samples,))
        else:
            is_longer = views.ndim == 4 and views.shape[2] in accepted
            whole = views[:, :, :num_frames] if is_longer else views
            check_signal("views", whole.flatten(0, 1), (num_frames, num_bands), lowest=0)


def save_classifier(path: Path, model: Classifier, params: ExportedClassifierParams) -> None:
    """Write `model` to the folder `path`: whole or not at all, the same bytes for the same model."""
    with atomic_path(path) as partial:
        write_model(partial, model, params.model_dump(mode="json"))


def load_classifier(path: Path) -> ExportedClassifier:
    """Read an exported classifier. The model is on the CPU and in evaluation mode.

    Raises:
        StageError: the folder is not a classifier, or is damaged; the message names the file.
    """
    content = read_params(path)
    if CLASSIFIER_SECTION not in content:
        raise StageError(f"{path}: is not a classifier: load it with vatt.load")
    try:
        params = ExportedClassifierParams.model_validate(content)
    except ValidationError as error:
        raise StageError(f"{path / PARAMS}: is not that of a classifier: {error}") from error
    with torch.random.fork_rng(devices=[]):
        model = Classifier(params.classifier).eval()
    read_weights(model, path / WEIGHTS)
    return ExportedClassifier(model, params)
