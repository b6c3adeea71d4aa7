"""Small audio-visual classifiers, one for each fusion."""

from tests.model.test_parity_classifier import VIDEO, WAVEFORM
from vatt.model.classifier import AudioVisualParams, ClassifierParams, TowerParams
from vatt.model.fusion import FusionParams


def as_tower(params: ClassifierParams) -> TowerParams:
    return TowerParams.model_validate(params.model_dump(include=set(TowerParams.model_fields)))


AUDIO_VISUAL = {
    kind: AudioVisualParams(
        video=as_tower(VIDEO),
        audio=as_tower(WAVEFORM),
        shared_encoder=False,
        fusion=FusionParams(kind=kind, width=6, size=VIDEO.size, dropout_rate=0.0),
        num_classes=7,
        head_dropout_rate=0.0,
    )
    for kind in ("concatenation", "tensor", "bilinear", "attention")
}
