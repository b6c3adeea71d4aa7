"""Small classifiers of each input, as the original's reference has them, and of each fusion."""

from tests.model.original import SIZE
from vatt.model.classifier import AudioVisualParams, ClassifierParams, FusionParams
from vatt.model.towers import TowerParams

VIDEO = ClassifierParams(
    input="video",
    size=SIZE,
    patch=(2, 4, 4),
    grid=(2, 4, 4),
    post_projection_width=None,
    num_classes=7,
    dropout_rate=0.0,
    head_dropout_rate=0.0,
    drop_token_rate=0.0,
)
WAVEFORM = VIDEO.model_copy(update={"input": "waveform", "patch": (8,), "grid": (12,)})
SPECTROGRAM = VIDEO.model_copy(update={"input": "spectrogram", "patch": (4, 5), "grid": (3, 2)})


def as_tower(params: ClassifierParams) -> TowerParams:
    return TowerParams.model_validate(params.model_dump(include=set(TowerParams.model_fields)))


AUDIO_VISUAL = {
    kind: AudioVisualParams(
        video=as_tower(VIDEO),
        audio=as_tower(WAVEFORM),
        shared_encoder=False,
        fusion=FusionParams(kind=kind, width=6, size=SIZE, dropout_rate=0.0),
        num_classes=7,
        head_dropout_rate=0.0,
    )
    for kind in ("concatenation", "tensor", "bilinear", "attention")
}
