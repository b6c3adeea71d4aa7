"""`python -m vatt classify`: labels of files, by a fine-tuned network or by texts alone."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vatt.core.errors import StageError
from vatt.loading.clips import to_signal
from vatt.loading.tasks import Modality, TaskInput
from vatt.media.decoding import MediaError
from vatt.model.classifier import list_towers
from vatt.model.stem import HOP
from vatt.params import ClipParams, TaskName
from vatt.use.embedding import BATCH_SIZE, normalise, read_locally
from vatt.use.search import embed_file
from vatt.use.windows import FileWindow, read_windows
from vatt.weights.inference import Exported, ExportedClassifier

IMAGE_STRIDE_S = 1.0
"""A network of images sees one picture a second."""
TEMPERATURE = 0.07
"""Where a model does not say at which temperature it was trained: the paper's."""


class Classified(NamedTuple):
    """The probabilities of the classes in windows of a file, and in the whole of it."""

    classes: tuple[str, ...]
    start_s: list[float]
    end_s: list[float]
    windows: Float[np.ndarray, "N C"]
    whole: Float[np.ndarray, " C"]
    problems: list[str]

    def rank(self, num_classes: int) -> Mapping[str, float]:
        """Return the most probable classes of the whole file, the first of equals first."""
        best = np.argsort(-self.whole, kind="stable")[:num_classes]
        return {self.classes[number]: float(self.whole[number]) for number in best}


def classify(
    exported: ExportedClassifier, address: str, stride_s: float | None = None
) -> Classified:
    """Classify the windows of a file; the whole is as their mean logits.

    Raises:
        StageError: nothing in the file can be read, or it has not what the network takes.
    """
    task_input = describe_input(exported)
    if task_input.task == "image":
        stride_s = stride_s or IMAGE_STRIDE_S
    problems: list[str] = []
    times: list[tuple[float, float]] = []
    logits: list[Tensor] = []
    try:
        with read_locally(address) as path:
            rate_hz = exported.params.frame_rate_hz
            windows = read_windows(path, task_input, rate_hz, problems, stride_s)
            usable = (
                w for w in windows if all(getattr(w, m) is not None for m in task_input.modalities)
            )
            for batch in iter(lambda: list(islice(usable, BATCH_SIZE)), []):
                views = [_stack(batch, modality, task_input) for modality in task_input.modalities]
                logits.append(exported.classify(*views).cpu())
                times += [(window.start_s, window.end_s) for window in batch]
    except (MediaError, OSError) as error:
        raise StageError(f"{address}: {error}") from error
    if not logits:
        needed = " with ".join(
            "pictures" if m == "video" else "sound" for m in task_input.modalities
        )
        raise StageError(f"{address}: has no {needed}, which this network classifies")
    values = torch.cat(logits).double()
    is_multi_label = exported.params.classifier.is_multi_label
    spread = torch.sigmoid if is_multi_label else lambda logits: torch.softmax(logits, -1)
    classes = exported.params.classes or tuple(map(str, range(values.shape[1])))
    starts, ends = map(list, zip(*times, strict=True))
    return Classified(
        classes, starts, ends, spread(values).numpy(), spread(values.mean(0)).numpy(), problems
    )


def classify_by_texts(
    exported: Exported, address: str, texts: Sequence[str], stride_s: float | None = None
) -> Classified:
    """Return how probable it is that a text, of those given, describes a file and its windows.

    That is the softmax of the cosines at the temperature of training; the whole is as the mean of
    the windows' vectors.

    Raises:
        StageError: nothing in the file can be read, it has no pictures, or a text has no word.
    """
    try:
        queries = normalise(exported.embed_text(texts)).astype(np.float64)
    except ValueError as error:
        raise StageError(str(error)) from error
    rows, problems = embed_file(exported, address, stride_s)
    shown = rows.filter(rows["video_vt"].is_valid())
    if not len(shown):
        raise StageError(f"{address}: has no pictures to compare with texts")
    vectors = np.array(shown["video_vt"].to_pylist())
    mean = vectors.mean(0, keepdims=True)
    mean /= np.linalg.norm(mean) or 1
    loss = exported.params.loss
    scores = (
        np.concatenate([vectors, mean]) @ queries.T / (loss.temperature if loss else TEMPERATURE)
    )
    values = torch.softmax(torch.from_numpy(scores), -1).numpy()
    starts, ends = shown["start_s"].to_pylist(), shown["end_s"].to_pylist()
    return Classified(tuple(texts), starts, ends, values[:-1], values[-1], problems)


def describe_input(exported: ExportedClassifier) -> TaskInput:
    """Return the windows that a classifier takes; an imported one shows them in its towers."""
    params = exported.params
    if params.clip is not None and params.task_name is not None:
        return TaskInput(params.task_name, params.clip, params.audio_stride)
    towers = list_towers(params.classifier)
    kinds = {tower.input == "video" for tower in towers.values()}
    task: TaskName = "audio_visual" if len(kinds) > 1 else "video" if True in kinds else "audio"
    num_frames, size_px, num_samples = 1, 8, params.audio_stride
    for tower in towers.values():
        shape = tower.measure()
        if tower.input == "video":
            num_frames, size_px = shape[:2]
        else:
            num_samples *= shape[0] * (HOP if tower.input == "spectrogram" else 1)
    clip = ClipParams(
        num_frames=num_frames,
        frame_size_px=size_px,
        num_samples=num_samples,
        num_tokens=1,
        num_candidates=1,
    )
    return TaskInput(task, clip, params.audio_stride)


def _stack(
    windows: Sequence[FileWindow], modality: Modality, task_input: TaskInput
) -> Float[Tensor, "B 1 *shape"]:
    """Return one view of each window, as `ExportedClassifier.classify` takes them."""
    signals = torch.stack([getattr(window, modality) for window in windows])
    if modality == "video":
        return task_input.shape_video(to_signal(signals))[:, None]
    return torch.stack([task_input.shape_audio(signal) for signal in signals])[:, None]
