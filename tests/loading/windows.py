"""A small clip, and the labelled segments of the known corpus."""

from pathlib import Path

from tests.train.tasks import TASK
from vatt.loading.labelled import LabelledSplit, read_labelled
from vatt.params import ClipParams, TaskName

CLIP = ClipParams(
    num_frames=8, frame_size_px=32, num_samples=15_360, num_tokens=8, num_candidates=5
)
GROUP = TASK.model_copy(update={"label": "group"})


def open_split(corpus_dir: Path, task: TaskName) -> LabelledSplit:
    """Return the segments of the split train; all have one label of the task "group"."""
    classes = sorted({"more.mkv", "flashes.mp4", "sound.wav", "silent.mp4", "short.mp4"})
    return read_labelled(corpus_dir, task, GROUP, ("train",), classes).splits["train"]
