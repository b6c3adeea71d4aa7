"""One frozen model per section of params.yaml; nothing here imports torch."""

from vatt.core.errors import StageError
from vatt.params.data import (
    AUDIO_RATE_HZ,
    SPECTROGRAM_BANDS,
    SPECTROGRAM_HOP,
    AugmentParams,
    ClipParams,
    PreprocessParams,
    RunParams,
    ValidateParams,
)
from vatt.params.evaluate import EvaluateParams, PromoteParams
from vatt.params.finetune import (
    PRETRAINED,
    SKIPPED,
    TASKS,
    FinetuneParams,
    ScheduleParams,
    Task,
    TaskName,
    TaskParams,
)
from vatt.params.launch import (
    KubernetesParams,
    LaunchParams,
    SlurmParams,
    SshParams,
    SupervisionParams,
)
from vatt.params.model import TOWER_SIZES, LossParams, ModelParams, SpaceKind, TowerSize
from vatt.params.params import Params, ParamsError, load_params
from vatt.params.section import Section
from vatt.params.sources import (
    DemoSource,
    DownloadParams,
    FetchParams,
    FolderSource,
    LabelledSource,
    Source,
    UrlsSource,
)
from vatt.params.training import PretrainParams, TrainingParams
from vatt.params.tune import TuneParams

__all__ = [
    "AUDIO_RATE_HZ",
    "PRETRAINED",
    "SKIPPED",
    "SPECTROGRAM_BANDS",
    "SPECTROGRAM_HOP",
    "TASKS",
    "TOWER_SIZES",
    "AugmentParams",
    "ClipParams",
    "DemoSource",
    "DownloadParams",
    "EvaluateParams",
    "FetchParams",
    "FinetuneParams",
    "FolderSource",
    "KubernetesParams",
    "LabelledSource",
    "LaunchParams",
    "LossParams",
    "ModelParams",
    "Params",
    "ParamsError",
    "PreprocessParams",
    "PretrainParams",
    "PromoteParams",
    "RunParams",
    "ScheduleParams",
    "Section",
    "SlurmParams",
    "Source",
    "SpaceKind",
    "SshParams",
    "StageError",
    "SupervisionParams",
    "Task",
    "TaskName",
    "TaskParams",
    "TowerSize",
    "TrainingParams",
    "TuneParams",
    "UrlsSource",
    "ValidateParams",
    "load_params",
]
