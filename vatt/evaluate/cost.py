"""What the network costs, and the published sizes and FLOPs beside ours, as tables."""

from typing import Any

from vatt.evaluate.tables import Table, build_table
from vatt.model.cost import Cost, Weights, add_costs, count_clip, count_weights
from vatt.model.published import compare_flops, compare_sizes
from vatt.model.vatt import Vatt
from vatt.params import ClipParams


def tabulate_costs(model: Vatt, clip: ClipParams) -> Table:
    """Return millions of weights of each part, and GFLOPs of a clip without and with DropToken."""
    stem: Any = model.video.stem
    rate: float = stem.drop_token.rate
    weights = count_weights(model)
    weights["all"] = Weights(*(sum(column) for column in zip(*weights.values(), strict=True)))
    costs = [count_clip(model, clip, 0.0), count_clip(model, clip, rate)]
    for whole in costs:
        whole["all"] = add_costs(whole.values())
    rows = [
        [
            name,
            f"{part.trainable / 1e6:,.3f}",
            f"{part.frozen / 1e6:,.3f}",
            *(text for counted in costs for text in _list_gflops(counted.get(name))),
        ]
        for name, part in weights.items()
    ]
    drop = f"drop {100 * rate:.1f}%"
    conventions = ("all, GFLOPs", "paper’s convention", f"all, {drop}", f"paper’s, {drop}")
    return build_table("Cost", ("",), ("trained, M", "frozen, M", *conventions), rows)


def _list_gflops(cost: Cost | None) -> list[str]:
    """Return all GFLOPs and the paper's; empty for a part that is counted with the others."""
    return [f"{count / 1e9:,.3f}" for count in (cost.full, cost.paper)] if cost else ["", ""]


def tabulate_published_sizes() -> Table:
    """Return the published numbers of weights beside ours."""
    rows = []
    for size in compare_sizes():
        ours = size.ours / 1e6
        difference = f"{100 * (ours / size.paper_millions - 1):+.2f}%"
        paper = f"{size.paper_millions:.1f}"
        rows.append([size.name, size.note, paper, f"{ours:.3f}", difference])
    titles = ("published", "ours", "difference")
    return build_table("Sizes", ("millions of trained weights", ""), titles, rows)


def tabulate_published_flops() -> Table:
    """Return the published GFLOPs beside ours."""
    rows = []
    for flops in compare_flops():
        ours, whole = flops.ours.paper / 1e9, flops.ours.full / 1e9
        difference = f"{100 * (ours / flops.paper_gflops - 1):+.2f}%"
        paper = f"{flops.paper_gflops:,.1f}"
        rows.append([flops.name, paper, f"{ours:,.1f}", difference, f"{whole:,.1f}"])
    titles = ("published", "ours, paper’s convention", "difference", "all of ours")
    return build_table("FLOPs", ("GFLOPs, forward",), titles, rows)
