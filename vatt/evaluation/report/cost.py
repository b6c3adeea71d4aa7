"""What the network costs, beside the numbers of the paper, as tables of text."""

from collections.abc import Iterator
from typing import Any

from vatt.models.accounting import Cost, Weights, add_costs, count_clip, count_weights
from vatt.models.published import compare_flops, compare_sizes
from vatt.models.vatt import Vatt
from vatt.params import ClipParams


def drop_rate(model: Vatt) -> float:
    """Return the share of tokens that the network drops in training."""
    stem: Any = model.video.stem
    rate: float = stem.drop_token.rate
    return rate


def list_costs(model: Vatt, clip: ClipParams) -> list[dict[str, str]]:
    """Weights of each part of the network, and the FLOPs of a clip without and with DropToken."""
    weights = count_weights(model)
    weights["all"] = Weights(*(sum(column) for column in zip(*weights.values(), strict=True)))
    whole, dropped = count_clip(model, clip, 0.0), count_clip(model, clip, drop_rate(model))
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


def list_published_sizes() -> Iterator[dict[str, str]]:
    """Yield the published numbers of weights beside ours, as text."""
    for row in compare_sizes():
        ours = row.ours / 1e6
        yield {
            "name": row.name,
            "paper": f"{row.paper_millions:.1f}",
            "ours": f"{ours:.3f}",
            "difference": f"{100 * (ours / row.paper_millions - 1):+.2f}%",
            "note": row.note,
        }


def list_published_flops() -> Iterator[dict[str, str]]:
    """Yield the published GFLOPs beside ours, as text."""
    for row in compare_flops():
        ours = row.ours.paper / 1e9
        yield {
            "name": row.name,
            "paper": f"{row.paper_gflops:,.1f}",
            "ours": f"{ours:,.1f}",
            "difference": f"{100 * (ours / row.paper_gflops - 1):+.2f}%",
            "full": f"{row.ours.full / 1e9:,.1f}",
        }
