"""A classifier of any kind from its parameters."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from vatt.models.classification.audio_visual import AudioVisualClassifier, AudioVisualParams
from vatt.models.classification.classifier import Classifier, ClassifierParams, TowerParams
from vatt.params import ScheduleParams

ONE_TOWER, TWO_TOWERS = "one tower", "two towers"
Network = Classifier | AudioVisualClassifier


def _count_towers(params: Any) -> str:
    has_two = "fusion" in params if isinstance(params, Mapping) else hasattr(params, "fusion")
    return TWO_TOWERS if has_two else ONE_TOWER


NetworkParams = Annotated[
    Annotated[ClassifierParams, Tag(ONE_TOWER)] | Annotated[AudioVisualParams, Tag(TWO_TOWERS)],
    Discriminator(_count_towers),
]
"""For fields of sections; one with a fusion has two towers."""


def list_towers(params: ClassifierParams | AudioVisualParams) -> dict[str, TowerParams]:
    """Return the towers of each modality, in the order that the network takes them."""
    if isinstance(params, AudioVisualParams):
        return {"video": params.video, "audio": params.audio}
    return {params.modality: params}


def apply_rates(
    params: ClassifierParams | AudioVisualParams, schedule: ScheduleParams
) -> ClassifierParams | AudioVisualParams:
    """Return the parameters with the rates of a schedule: of dropped tokens, and before the head."""
    head = {"head_dropout_rate": schedule.head_dropout_rate}
    tokens = {"drop_token_rate": schedule.drop_token_rate}
    if isinstance(params, AudioVisualParams):
        towers = {
            name: tower.model_copy(update=tokens) for name, tower in list_towers(params).items()
        }
        return params.model_copy(update=head | towers)
    return params.model_copy(update=head | tokens)


def build_network(params: ClassifierParams | AudioVisualParams) -> Network:
    """Return the network with random weights."""
    if isinstance(params, AudioVisualParams):
        return AudioVisualClassifier(params)
    return Classifier(params)
