"""`python -m vatt classify`: labels of files, by a fine-tuned network or by texts alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vatt.core.errors import StageError
from vatt.loading.clips import to_signal
from vatt.loading.tasks import Modality, TaskInput
from vatt.model.classifier import list_towers
from vatt.model.stem import HOP
from vatt.params import ClipParams, TaskName
from vatt.use.embedding import normalise
from vatt.use.passages import Passage, read_passages
from vatt.use.places import read_locally
from vatt.use.search import embed_address, name_faults
from vatt.weights.inference import Exported, ExportedClassifier

TEMPERATURE = 0.07
"""Where a model does not say at which temperature it was trained: the paper's."""


class Classified(NamedTuple):
    """The probabilities of the classes in passages of a file, and in the whole of it."""

    classes: tuple[str, ...]
    start_s: list[float]
    end_s: list[float]
    passages: Float[np.ndarray, "N C"]
    whole: Float[np.ndarray, " C"]
    problems: list[str]

    def rank(self, num_classes: int) -> Mapping[str, float]:
        """Return the most probable classes of the whole file, the first of equals first."""
        best = np.argsort(-self.whole, kind="stable")[:num_classes]
        return {self.classes[number]: float(self.whole[number]) for number in best}


def classify(
    exported: ExportedClassifier, address: str, passage_s: float | None = None
) -> Classified:
    """Classify the passages of a file; the whole is as their mean logits.

    Raises:
        StageError: nothing in the file can be read, or it has not what the network takes.
    """
    task_input = describe_input(exported)
    problems: list[str] = []
    times: list[tuple[float, float]] = []
    logits: list[Tensor] = []
    with name_faults(address), read_locally(address) as path:
        rate_hz = exported.params.frame_rate_hz
        for passage in read_passages(path, task_input, rate_hz, problems, passage_s):
            views = [_shape(passage, modality, task_input) for modality in task_input.modalities]
            given = [view for view in views if view is not None]
            if len(given) == len(views):
                logits.append(exported.classify(*given).cpu())
                times.append((passage.start_s, passage.end_s))
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
    exported: Exported, address: str, texts: Sequence[str], passage_s: float | None = None
) -> Classified:
    """Return how probable it is that a text, of those given, describes a file and its passages.

    That is the softmax of the cosines at the temperature of training; the whole is as the mean of
    the passages' vectors.

    Raises:
        StageError: nothing in the file can be read, it has no pictures, or a text has no word.
    """
    try:
        queries = normalise(exported.embed_text(texts)).astype(np.float64)
    except ValueError as error:
        raise StageError(str(error)) from error
    problems: list[str] = []
    rows = embed_address(exported, address, passage_s, problems)
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


def _shape(
    passage: Passage, modality: Modality, task_input: TaskInput
) -> Float[Tensor, "1 V *shape"] | None:
    """Return the windows of a passage as views of one clip, None where it has none."""
    if modality == "video":
        video = passage.video
        return None if video is None else task_input.shape_video(to_signal(video))[None]
    audio = passage.audio
    return None if audio is None else torch.stack([task_input.shape_audio(x) for x in audio])[None]
