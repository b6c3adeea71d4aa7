"""The layers of a classifier from the bottom up: which are frozen, which learn slower."""

from torch import nn

from vatt.models.classification.networks import Network


def count_layers_above(network: Network) -> dict[nn.Parameter, int]:
    """Return for each weight how many layers lie above it.

    0 for what is behind the last block of a tower (norm, projection, fusion, head), 1 for the last
    block, and one more than there are blocks for patches, positions and the AGG token.
    """
    above: dict[nn.Parameter, int] = {}
    for tower in network.towers:
        layers: list[nn.Module] = [tower.stem, *tower.encoder.blocks]
        for number, layer in enumerate(layers):
            above.update(dict.fromkeys(layer.parameters(), len(layers) - number))
    return {parameter: above.get(parameter, 0) for parameter in network.parameters()}


def freeze_layers(network: Network, freeze: int | str) -> None:
    """Keep weights as they are: of none, of the whole `tower` (of both), or of its first layers.

    A number is that of the first blocks of each tower; patches, positions and the AGG token, which
    lie below, are frozen with them.
    """
    if freeze == "none":
        return
    for tower in network.towers:
        blocks = tower.encoder.blocks
        if freeze == "tower":
            tower.requires_grad_(requires_grad=False)
        else:
            for layer in [tower.stem, *blocks[: int(freeze)]]:
                layer.requires_grad_(requires_grad=False)
