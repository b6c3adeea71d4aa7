"""What is watched while a run trains: its loss curve, bad steps, and the health of embeddings.

`Curve` writes means over log windows, `Live` shows numbers, `Guard` judges each step, and
`measure_health` measures contrastive training: alignment, uniformity, retrieval, collapse.
"""

import json
import math
import statistics
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from vatt.core.batch import Batch, Embeddings
from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.core.reports import report_numbers
from vatt.params import TrainingParams
from vatt.train.engine import Engine

BAR = {
    "loss": "loss {:.4f}",
    "clips_per_second": "{:.1f} clips/s",
    "waiting_rate": "{:.0%} waiting",
}
"""The numbers in the progress bar, and how each is written."""
MEDIAN_STEPS = 100
"""How many losses a spike is compared with."""
FIRST_JUDGED_STEPS = 20
"""With fewer losses before it, no loss is called a spike."""
COLLAPSED_RANK = 2.0
"""Embeddings that vary in fewer directions have collapsed."""
CHANCE_DEVIATIONS = 3.0
"""Mean ranks this near to chance, in standard deviations of chance, are at chance."""
SPACES = {"va": "video and audio", "vt": "video and text"}


class Curve:
    """A line of JSON for each log window, with the means of its losses, which `parts` names.

    `path` is None except on the first rank. The whole curve is part of a checkpoint, so that after
    a resume each step is in the file once.
    """

    def __init__(self, path: Path | None, parts: Sequence[str], state: Mapping[str, Any]) -> None:
        self.rows: list[dict[str, float]] = list(state.get("rows", []))
        self._window: list[list[float]] = list(state.get("window", []))
        self._path, self._names = path, (*parts, "gradient_norm")
        if path is not None:
            write_rows(path, self.rows)

    def add(self, losses: list[float], gradient_norm: float) -> None:
        """Take in a step whose update was done: its losses over all ranks."""
        self._window.append([*losses, gradient_norm])

    def close_window(self, step: int, learning_rate: float) -> dict[str, float] | None:
        """Return the row of the window that ends at `step`, and write it; None if it is empty."""
        if not self._window:
            return None
        means = (sum(column) / len(column) for column in zip(*self._window, strict=True))
        named = dict(zip(self._names, means, strict=True))
        row = {"step": step, **named, "learning_rate": learning_rate}
        self.rows.append(row)
        self._window = []
        if self._path is not None:
            append_row(self._path, row)
        return row

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for the curve to go on."""
        return {"rows": self.rows, "window": self._window}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a log anew, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text("".join(map(_to_line, rows)), encoding="utf-8")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line of JSON to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(_to_line(row))


def _to_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True) + "\n"


class Live:
    """Shows the numbers of the first rank: a progress bar, TensorBoard, and lines in a log."""

    def __init__(self, section: str, directory: Path, start_step: int, num_steps: int) -> None:
        self._section, self._directory = section, directory
        self._is_first = torch.distributed.get_rank() == 0
        self._bar: tqdm[NoReturn] = tqdm(
            desc=section,
            unit="step",
            initial=start_step,
            total=num_steps,
            disable=not self._is_first,
            mininterval=1 if sys.stderr.isatty() else 15,  # a log file gets a line now and then
            dynamic_ncols=True,
        )
        self._newest: dict[str, float] = {}
        self._board: Any = None
        if self._is_first and start_step < num_steps:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=start_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def advance(self) -> None:
        """Move the bar by a step."""
        self._bar.update()

    def show(self, step: int, kind: str, row: Mapping[str, float] | None) -> None:
        """Show numbers of one kind: "curve", "speed", "health" or "validation".

        The speed, which no checkpoint holds, also gets a line in `directory/speed.jsonl`.
        """
        if not self._is_first or row is None:
            return
        values = {name: value for name, value in row.items() if name != "step"}
        if kind == "speed":
            append_row(self._directory / f"{kind}.jsonl", {"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        self._board.flush()
        self._newest |= values
        known = [text.format(self._newest[n]) for n, text in BAR.items() if n in self._newest]
        self._bar.set_postfix_str(", ".join(known), refresh=False)
        report_numbers(kind, step, values)

    def say(self, step: int, message: str) -> None:
        """Write a message of the first rank."""
        if self._is_first:
            print(f"{self._section}: step {step}: {message}", file=sys.stderr)


class BadStepsError(StageError):
    """A run ended by itself: its numbers went wrong."""


class Guard:
    """Judges every step, from numbers that are the same on every rank: all of them agree.

    It follows from the steps alone, and its state is part of a checkpoint: a run that was killed
    and started again decides as an uninterrupted one does.
    """

    def __init__(
        self,
        section: str,
        parts: Sequence[str],
        training: TrainingParams,
        state: Mapping[str, Any],
    ) -> None:
        self._section, self._parts, self._training = section, parts, training
        self._losses = deque[float](state.get("losses", []), maxlen=MEDIAN_STEPS)
        self._num_bad = int(state.get("num_bad", 0))

    def find_problem(self, losses: list[float]) -> str | None:
        """Return what is wrong with the losses of a step, before its update; None if nothing is."""
        named = zip(self._parts, losses, strict=True)
        broken = [f"{part} is {loss}" for part, loss in named if not math.isfinite(loss)]
        if broken:
            return ", ".join(broken)
        factor = self._training.spike_factor
        if factor is not None and len(self._losses) >= FIRST_JUDGED_STEPS:
            median = statistics.median(self._losses)
            if losses[0] > factor * median:
                return f"loss is {losses[0]:.4g}, the median of the steps before is {median:.4g}"
        return None

    def accept(self, loss: float) -> None:
        """Take in the loss of a step that was done."""
        self._losses.append(loss)

    def reject(self, step: int, problem: str) -> None:
        """Count a step whose update was left out, and say so.

        Raises:
            BadStepsError: the run is to end.
        """
        self._num_bad += 1
        section, max_bad_steps = self._section, self._training.max_bad_steps
        if self._training.on_bad_step == "stop":
            raise BadStepsError(
                f"step {step}: {problem}; the checkpoint before it is kept. A lower learning rate "
                f"or a {section}.gradient_clip_norm may help; "
                f"{section}.on_bad_step = skip or roll_back goes on"
            )
        if self._num_bad > max_bad_steps:
            raise BadStepsError(
                f"step {step}: {problem}; these are more bad steps than "
                f"{section}.max_bad_steps = {max_bad_steps}"
            )
        if torch.distributed.get_rank() == 0:
            print(f"{section}: step {step} is left out: {problem}", file=sys.stderr)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to judge as before."""
        return {"losses": list(self._losses), "num_bad": self._num_bad}


class Pairs(NamedTuple):
    """Embeddings of clips in one space, of length 1; row i of each is the same clip."""

    video: Float[Tensor, "N E"]
    other: Float[Tensor, "N E"]


def measure_health(engine: Engine, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the health of all spaces on some clips; every rank must measure the same clips.

    Names end in the space: va or vt. Clips without audio or text are left out of a space, and a
    space with fewer than two pairs is left out itself.
    """
    found: dict[str, list[Pairs]] = {space: [] for space in SPACES}
    with engine.evaluating() as objective:
        for batch in batches:
            moved = batch.to(engine.device)
            each: Embeddings = objective.model(moved)  # type: ignore[operator]
            has_audio, has_text = moved.audio_mask, moved.text_mask[:, 0]
            found["va"].append(Pairs(each.video_va[has_audio], each.audio_va[has_audio]))
            found["vt"].append(Pairs(each.video_vt[has_text], each.text_vt[has_text, 0]))
    health: dict[str, float] = {}
    for space, parts in found.items():
        sides = (torch.cat(rows).float() for rows in zip(*parts, strict=True))
        pairs = [functional.normalize(side) for side in sides]
        if pairs and len(pairs[0]) > 1:
            measured = measure_pairs(Pairs(*pairs))
            health |= {f"{name}_{space}": value for name, value in measured.items()}
    return health


def measure_pairs(pairs: Pairs) -> dict[str, float]:
    """Return the health of two or more pairs.

    - alignment: the mean squared distance in a pair, 0 to 4; 2 where the two are unrelated.
    - uniformity: the log of the mean of exp(-2 d^2) over the distances d of other clips of the same
      modality, as the mean of both modalities; 0 where all are one point, -4 where they fill a
      sphere. This and alignment are those of Wang and Isola (Understanding contrastive
      representation learning through alignment and uniformity on the hypersphere, 2020).
    - directions: in how many the embeddings vary (the exponential of the entropy of the singular
      values of their scatter), the smaller of both modalities.
    - r1: the share of videos found first by the other modality.
    - rank: the mean place of the right video, 0 first to 1 last; 0.5 is chance.
    - pairs: how many there are.
    """
    video, other = pairs
    right = (other * video).sum(1, keepdim=True)
    scores = other @ video.T
    is_wrong = ~torch.eye(len(video), dtype=torch.bool, device=video.device)
    better = ((scores > right) & is_wrong).sum(1) + ((scores == right) & is_wrong).sum(1) / 2
    return {
        "alignment": float((video - other).square().sum(1).mean()),
        "uniformity": float((_measure_uniformity(video) + _measure_uniformity(other)) / 2),
        "directions": min(_count_directions(video), _count_directions(other)),
        "r1": float((better < 0.5).float().mean()),
        "rank": float(better.mean() / (len(video) - 1)),
        "pairs": float(len(video)),
    }


def find_collapse(health: Mapping[str, float], *, is_warm: bool) -> list[str]:
    """Return in words what is wrong; retrieval at chance is wrong after the warm-up only."""
    problems = []
    for space, modalities in SPACES.items():
        if f"pairs_{space}" not in health:
            continue
        directions, rank = health[f"directions_{space}"], health[f"rank_{space}"]
        if directions < COLLAPSED_RANK:
            problems.append(
                f"the embeddings of {modalities} have collapsed: "
                f"they vary in {directions:.1f} directions"
            )
        # The mean of N places, each uniform on [0, 1] by chance.
        deviation = 1 / math.sqrt(12 * health[f"pairs_{space}"])
        if is_warm and rank > 0.5 - CHANCE_DEVIATIONS * deviation:
            problems.append(
                f"retrieval between {modalities} is at chance: mean rank {rank:.2f} of 0 to 1"
            )
    return problems


def _measure_uniformity(rows: Float[Tensor, "N E"]) -> Float[Tensor, ""]:
    return functional.pdist(rows).square().mul(-2).exp().mean().log()


def _count_directions(rows: Float[Tensor, "N E"]) -> float:
    values = torch.linalg.svdvals(rows - rows.mean(0))
    if float(values.sum()) < 1e-6 * len(rows):  # all the same
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
