"""Print the tables of docs/scaling.md: memory of a GPU, and days, for the networks in configs/.

Usage: python -m benchmarks.scaling. All by formula; what is supposed is named below.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vatt.description import GIB, PEAK_FLOPS, SECONDS_A_DAY, Estimate, build_model, estimate_run
from vatt.model.cost import FLOAT_BYTES, Activations, estimate_activations, estimate_state_bytes
from vatt.model.published import PAPER_VOCAB_SIZE
from vatt.params import Params, load_params

CONFIGS = {"BBS": "bbs", "MBS": "mbs", "LBS": "lbs", "MA-Medium": "ma_medium"}
CONFIGS_DIR = Path(__file__).parents[1] / "configs"
GPUS = (8, 16, 32, 64, 128, 256)
UTILISATION = 0.45
"""The share of `PEAK_FLOPS` that this project aims at, with what is computed again counted."""
GPUS_PER_NODE = 8
NODE_BYTES_PER_S = 50e9
"""Between nodes, each way: a 400 Gbit/s link for each node."""


class Network(NamedTuple):
    """A network of the paper, and what it costs."""

    params: Params
    estimate: Estimate
    activations: Activations


def load_network(name: str) -> Network:
    """Return the network of a file in configs/, in bf16."""
    params = load_params(CONFIGS_DIR / f"{name}.yaml")
    model = build_model(params, PAPER_VOCAB_SIZE)
    rate = params.model.drop_token_rate
    activations = estimate_activations(model, params.clip, rate, "bf16")
    return Network(params, estimate_run(params, model), activations)


def count_wire_bytes(network: Network, num_gpus: int) -> float:
    """Return the bytes that cross the link of a node in each direction in a step, ZeRO 0 to 2.

    A ring passes each node once, in and out: gradients are summed and handed out (or the stepped
    weights, under ZeRO 1 and 2), nearly twice their bytes; embeddings go with their gradients.
    """
    if num_gpus <= GPUS_PER_NODE:
        return 0.0
    params = network.params
    model, share = params.model, (num_gpus - 1) / num_gpus
    captions = params.clip.num_candidates
    numbers = 2 * model.space_va_width + (1 + captions) * model.space_vt_width
    embeddings = params.pretrain.batch_size * numbers
    return 2 * share * FLOAT_BYTES * (network.estimate.weights.trainable + embeddings)


def estimate_step_s(network: Network, num_gpus: int) -> tuple[float, float]:
    """Return the seconds of a step that are computed, and those of the exchange between nodes."""
    computed_s = network.estimate.step_flops / (num_gpus * PEAK_FLOPS * UTILISATION)
    return computed_s, count_wire_bytes(network, num_gpus) / NODE_BYTES_PER_S


def print_state(networks: dict[str, Network]) -> Iterator[str]:
    """Yield the table of weights, gradients and moments."""
    yield "| GiB of a GPU | GPUs | ZeRO 0 | ZeRO 1, 2 | ZeRO 3 |"
    yield "|---|---|---|---|---|"
    for name, network in networks.items():
        for num_gpus in (8, 256):
            weights = network.estimate.weights
            state = [estimate_state_bytes(weights, num_gpus, stage) / GIB for stage in (0, 1, 3)]
            yield f"| {name} | {num_gpus} | {state[0]:.2f} | {state[1]:.2f} | {state[2]:.2f} |"


def print_clips(networks: dict[str, Network]) -> Iterator[str]:
    """Yield the table of activations, and of the whole for the paper's batch."""
    head = " | ".join(f"GiB, {num_gpus} GPUs" for num_gpus in GPUS)
    yield f"| bf16 | MB of a clip, kept | MB of a clip, computed again | {head} |"
    yield "|---|---|---|" + "---|" * len(GPUS)
    for name, network in networks.items():
        activations, weights = network.activations, network.estimate.weights
        kept = activations.clip + activations.kept
        again = activations.clip + activations.between + activations.again
        whole = []
        for num_gpus in GPUS:
            state = estimate_state_bytes(weights, num_gpus, 1)
            whole.append((state + network.params.pretrain.batch_size / num_gpus * again) / GIB)
        cells = " | ".join(f"{number:.1f}" for number in whole)
        yield f"| {name} | {kept / 1e6:.0f} | {again / 1e6:.0f} | {cells} |"


def print_days(networks: dict[str, Network]) -> Iterator[str]:
    """Yield the table of days, with the share that ranks exchange."""
    yield "| days (exchange) | " + " | ".join(f"{num_gpus} GPUs" for num_gpus in GPUS) + " |"
    yield "|---|" + "---|" * len(GPUS)
    for name, network in networks.items():
        cells = []
        for num_gpus in GPUS:
            computed_s, exchanged_s = estimate_step_s(network, num_gpus)
            step_s = computed_s + exchanged_s
            days = network.params.pretrain.num_steps * step_s / SECONDS_A_DAY
            cells.append(f"{days:.2f} ({exchanged_s / step_s:.0%})")
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    networks = {name: load_network(file) for name, file in CONFIGS.items()}
    for table in (print_state, print_clips, print_days):
        print("\n".join(table(networks)), end="\n\n")


if __name__ == "__main__":
    main()
