"""The report of a run: one HTML page that needs no network."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from vatt.atomic import atomic_path
from vatt.evaluation.examples import ExampleGroup
from vatt.evaluation.figures import Figures
from vatt.evaluation.summary import DIRECTIONS, MEASURES
from vatt.models.accounting import Cost, Weights, add_costs, count_clip, count_weights
from vatt.models.published import compare_flops, compare_sizes
from vatt.models.vatt import Vatt
from vatt.params import ClipParams

MAX_QUARANTINE_ROWS = 50
SPLITS = ("train", "validation", "test")
LIBRARIES = ("vatt", "torch", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    metrics: the content of metrics/evaluate.json. verdict: that of metrics/validate.json, None
    where there is none. index: a row per clip. quarantine: source, video_id and reason of each
    input that did not make it. parameters: sections of values, and values without a section.
    model, clip: the network, whose cost is shown, and the clip that it was built for.
    """

    metrics: Mapping[str, Any]
    figures: Figures
    examples: Sequence[ExampleGroup]
    index: pd.DataFrame
    quarantine: Sequence[Mapping[str, Any]]
    verdict: Mapping[str, Any] | None
    parameters: Mapping[str, Any]
    model: Vatt
    clip: ClipParams


def write_report(folder: Path, report: Report) -> None:
    """Write report.html and, as files of their own, its figures: whole or not at all."""
    named = {"curves": report.figures.curves, "recall": report.figures.recall}
    named |= {
        f"confusion_{number}": svg for number, svg in enumerate(report.figures.confusion.values())
    }
    with atomic_path(folder) as partial:
        (partial / "figures").mkdir(parents=True)
        (partial / "report.html").write_text(render_report(report), encoding="utf-8")
        for name, svg in named.items():
            if svg is not None:
                (partial / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")


def render_report(report: Report) -> str:
    """Return the page as HTML: the same text for the same content and versions."""
    environment = Environment(
        loader=PackageLoader("vatt", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        metrics=report.metrics,
        num_test=int((report.index["split"] == "test").sum()),
        tiles=_list_tiles(report.metrics),
        retrieval=[_list_retrieval(report.metrics, direction) for direction in DIRECTIONS],
        probes=list(_list_probes(report.metrics["probes"])),
        figures=report.figures,
        examples=report.examples,
        counts=_count_clips(report.index),
        num_quarantined=len(report.quarantine),
        quarantine=report.quarantine[:MAX_QUARANTINE_ROWS],
        verdict=report.verdict,
        drop_rate=_percent(_drop_rate(report.model)),
        costs=_list_costs(report.model, report.clip),
        published_sizes=list(_list_published_sizes()),
        published_flops=list(_list_published_flops()),
        parameters=_list_parameters(report.parameters),
        versions={"python": platform.python_version()}
        | {name: version(name) for name in LIBRARIES},
    )


def _list_tiles(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers to see first: R@10 of both directions, and the probe that gained most."""
    tiles = []
    for direction, title in DIRECTIONS.items():
        if metrics[f"{direction}_pairs"]:
            key = f"{direction}_r10"
            times = metrics[key] / metrics["chance"][key]
            detail = f"{times:.1f} times chance, untrained {_percent(metrics['untrained'][key])}"
            tiles.append(
                {"title": f"R@10, {title}", "value": _percent(metrics[key]), "detail": detail}
            )
    measured = [row for row in _list_probes(metrics["probes"]) if not row["reason"]]
    if measured:
        best = max(measured, key=lambda row: float(row["gain"]))
        tiles.append(
            {
                "title": f"Probe of {best['task']} from {best['modality']}",
                "value": best["trained"],
                "detail": f"{best['gain']} points over untrained",
            }
        )
    return tiles


def _list_retrieval(metrics: Mapping[str, Any], direction: str) -> dict[str, Any]:
    """The rows of the table for one direction, as text."""
    rows = []
    for measure, name in MEASURES.items() if metrics[f"{direction}_pairs"] else ():
        key = f"{direction}_{measure}"
        numbers = (metrics[key], metrics["untrained"][key], metrics["chance"][key])
        is_rank = measure == "median_rank"
        cells = [f"{number:.1f}" if is_rank else _percent(number) for number in numbers]
        ratio = "" if is_rank else f"{numbers[0] / numbers[2]:.1f}"
        labels = ("name", "trained", "untrained", "chance", "ratio")
        rows.append(dict(zip(labels, (name, *cells, ratio), strict=True)))
    title = DIRECTIONS[direction].capitalize()
    return {"title": title, "num_pairs": metrics[f"{direction}_pairs"], "rows": rows}


def _list_probes(probes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the table of probes, as text; `reason` is None where there are numbers."""
    for task, modalities in probes.items():
        for modality, result in modalities.items():
            row = {"task": task, "modality": modality, "reason": result.get("reason")}
            if row["reason"] is None:
                gain = 100 * (result["accuracy"] - result["untrained"])
                row |= {
                    "trained": _percent(result["accuracy"]),
                    "untrained": _percent(result["untrained"]),
                    "uniform": _percent(result["chance_uniform"]),
                    "majority": _percent(result["chance_majority"]),
                    "gain": f"{gain:+.1f}",
                    "colour": "good" if gain > 0 else "bad" if gain < 0 else "",
                    **{name: result[name] for name in ("num_classes", "num_train", "num_test")},
                }
            yield row


def _count_clips(index: pd.DataFrame) -> list[dict[str, Any]]:
    """Numbers of videos and clips by source and split."""
    return [
        {
            "source": source,
            "split": split,
            "num_videos": clips["video_id"].nunique(),
            "num_clips": len(clips),
            "num_audio": int(clips["has_audio"].sum()),
            "num_text": int(((clips["num_captions"] > 0) | (clips["descriptions"] != "[]")).sum()),
            "minutes": f"{(clips['end_s'] - clips['start_s']).sum() / 60:.1f}",
        }
        for source, of_source in index.groupby("source")
        for split in SPLITS
        if len(clips := of_source[of_source["split"] == split])
    ]


def _drop_rate(model: Vatt) -> float:
    stem: Any = model.video.stem
    rate: float = stem.drop_token.rate
    return rate


def _list_costs(model: Vatt, clip: ClipParams) -> list[dict[str, str]]:
    """Weights of each part of the network, and the FLOPs of a clip without and with DropToken."""
    weights = count_weights(model)
    weights["all"] = Weights(*(sum(column) for column in zip(*weights.values(), strict=True)))
    whole, dropped = count_clip(model, clip, 0.0), count_clip(model, clip, _drop_rate(model))
    for costs in (whole, dropped):
        costs["all"] = add_costs(costs.values())
    return [
        {
            "name": name,
            "trained": f"{part.trainable / 1e6:,.3f}",
            "frozen": f"{part.frozen / 1e6:,.3f}",
            **_format_cost("whole", whole.get(name)),
            **_format_cost("dropped", dropped.get(name)),
        }
        for name, part in weights.items()
    ]


def _format_cost(name: str, cost: Cost | None) -> dict[str, str]:
    """Return GFLOPs as text; empty for a part of the network that is counted with the others."""
    if cost is None:
        return {name: "", f"{name}_paper": ""}
    return {name: f"{cost.full / 1e9:,.3f}", f"{name}_paper": f"{cost.paper / 1e9:,.3f}"}


def _list_published_sizes() -> Iterator[dict[str, str]]:
    for row in compare_sizes():
        ours = row.ours / 1e6
        yield {
            "name": row.name,
            "paper": f"{row.paper_millions:.1f}",
            "ours": f"{ours:.3f}",
            "difference": f"{100 * (ours / row.paper_millions - 1):+.2f}%",
            "note": row.note,
        }


def _list_published_flops() -> Iterator[dict[str, str]]:
    for row in compare_flops():
        ours = row.ours.paper / 1e9
        yield {
            "name": row.name,
            "paper": f"{row.paper_gflops:,.1f}",
            "ours": f"{ours:,.1f}",
            "difference": f"{100 * (ours / row.paper_gflops - 1):+.2f}%",
            "full": f"{row.ours.full / 1e9:,.1f}",
        }


def _list_parameters(parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by section; those of a section within a section get both names."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            sections[name] = dict(_flatten(value))
        elif value is not None:
            sections.setdefault("model as exported", {})[name] = value
    return sections


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
