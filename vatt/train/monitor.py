"""Health of contrastive training: alignment and uniformity of embeddings, retrieval, collapse.

Alignment and uniformity are those of Wang and Isola (Understanding contrastive representation
learning through alignment and uniformity on the hypersphere, 2020).

Steps that would do harm: a loss or gradient that is not finite, or a loss that leaps up.

Where the numbers of a run are shown while it runs: the bar, logs, TensorBoard, lines for Dagster.

The loss curve of a run: means over the steps of a log window.
"""

import json
import math
import statistics
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
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


class Curve:
    """A line of JSON for each log window, with the means of its losses, which `parts` names.

    `path` is None except on the first rank. The whole curve is part of a checkpoint, so that after a resume each step is in the file once.
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
        """Return the row of the window that ends at `step`, and write it; None if it has no steps."""
        if not self._window:
            return None
        means = (sum(column) / len(column) for column in zip(*self._window, strict=True))
        row = {
            "step": step,
            **dict(zip(self._names, means, strict=True)),
            "learning_rate": learning_rate,
        }
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
        partial.write_text("".join(map(to_line, rows)), encoding="utf-8")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line of JSON to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(to_line(row))


def to_line(row: Mapping[str, Any]) -> str:
    """Return a row as one line of JSON."""
    return json.dumps(row, sort_keys=True) + "\n"


BAR = {
    "loss": "loss {:.4f}",
    "clips_per_second": "{:.1f} clips/s",
    "waiting_rate": "{:.0%} waiting",
}
"""What the bar shows, and how."""


class Live:
    """Shows numbers; only the first rank does."""

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def advance(self) -> None:
        """Move the bar by a step."""
        self._bar.update()

    def show(self, step: int, kind: str, row: Mapping[str, float] | None) -> None:
        """Show numbers of one kind: "curve", "speed", "health" or "validation", names and values.

        What checkpoints hold has files of its own; the speed gets a line in `directory/speed.jsonl`.
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
        known = (
            text.format(self._newest[name]) for name, text in BAR.items() if name in self._newest
        )
        self._bar.set_postfix_str(", ".join(known), refresh=False)
        report_numbers(kind, step, values)

    def say(self, step: int, message: str) -> None:
        """Write a message of the first rank."""
        if self._is_first:
            print(f"{self._section}: step {step}: {message}", file=sys.stderr)


MEDIAN_STEPS = 100
FIRST_JUDGED_STEPS = 20
"""With fewer losses behind it, no loss is called a spike."""


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
        section = self._section
        if self._training.on_bad_step == "stop":
            raise BadStepsError(
                f"step {step}: {problem}; the checkpoint before it is kept. A lower learning rate "
                f"or a {section}.gradient_clip_norm may help; "
                f"{section}.on_bad_step = skip or roll_back goes on"
            )
        if self._num_bad > self._training.max_bad_steps:
            raise BadStepsError(
                f"step {step}: {problem}; these are more bad steps than "
                f"{section}.max_bad_steps = {self._training.max_bad_steps}"
            )
        if torch.distributed.get_rank() == 0:
            print(f"{section}: step {step} is left out: {problem}", file=sys.stderr)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to judge as before."""
        return {"losses": list(self._losses), "num_bad": self._num_bad}


COLLAPSED_RANK = 2.0
"""Embeddings that vary in fewer directions have collapsed."""
CHANCE_DEVIATIONS = 3.0
"""Mean ranks this near to chance, in standard deviations of chance, are at chance."""
SPACES = {"va": "video and audio", "vt": "video and text"}


class Pairs(NamedTuple):
    """Clips in one space, of length 1: row i of `video` belongs to row i of `other`."""

    video: Float[Tensor, "N E"]
    other: Float[Tensor, "N E"]


def measure_health(engine: Engine, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the health of all spaces on some clips; every rank must measure the same clips.

    Names end in the space: va or vt. A space with fewer than two pairs is left out.
    """
    spaces = _embed(engine, batches)
    health: dict[str, float] = {}
    for space, pairs in spaces.items():
        if len(pairs.video) > 1:
            health |= {f"{name}_{space}": value for name, value in measure_pairs(pairs).items()}
    return health


def measure_pairs(pairs: Pairs) -> dict[str, float]:
    """Return the health of two or more pairs.

    alignment: mean squared distance in a pair, 0 to 4; 2 where the two have nothing to do with each
    other. uniformity: log of the mean of exp(-2 d^2) over distances d of other clips of the same
    modality, mean of both modalities; 0 where all are one point, -4 where they fill a sphere.
    directions: how many directions the embeddings vary in (exponential of the entropy of the
    singular values of their scatter), the smaller of both modalities. r1: share of videos found
    first by the other modality. rank: mean place of the right video, 0 first to 1 last; 0.5 is
    chance.
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
                f"the embeddings of {modalities} have collapsed: they vary in {directions:.1f} directions"
            )
        # The mean of N places, each uniform on [0, 1] by chance.
        deviation = 1 / math.sqrt(12 * health[f"pairs_{space}"])
        if is_warm and rank > 0.5 - CHANCE_DEVIATIONS * deviation:
            problems.append(
                f"retrieval between {modalities} is at chance: mean rank {rank:.2f} of 0 to 1"
            )
    return problems


def _embed(engine: Engine, batches: Iterable[Batch]) -> dict[str, Pairs]:
    """Return the pairs of each space; clips without sound or text are left out there."""
    pairs: dict[str, list[Pairs]] = {space: [] for space in SPACES}
    with engine.evaluating() as objective:
        for batch in batches:
            moved = batch.to(engine.device)
            found: Embeddings = objective.model(moved)  # type: ignore[operator]
            heard, read = moved.audio_mask, moved.text_mask[:, 0]
            pairs["va"].append(Pairs(found.video_va[heard], found.audio_va[heard]))
            pairs["vt"].append(Pairs(found.video_vt[read], found.text_vt[read, 0]))
    return {
        space: Pairs(
            *(functional.normalize(torch.cat(rows).float()) for rows in zip(*parts, strict=True))
        )
        for space, parts in pairs.items()
        if parts
    }


def _measure_uniformity(rows: Float[Tensor, "N E"]) -> Float[Tensor, ""]:
    return functional.pdist(rows).square().mul(-2).exp().mean().log()


def _count_directions(rows: Float[Tensor, "N E"]) -> float:
    values = torch.linalg.svdvals(rows - rows.mean(0))
    if float(values.sum()) < 1e-6 * len(rows):  # all the same
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
