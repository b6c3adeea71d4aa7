"""One frozen model per section of params.yaml; nothing here imports torch."""

from vatt.params.clip import (
    AUDIO_RATE_HZ,
    SPECTROGRAM_BANDS,
    SPECTROGRAM_HOP,
    AugmentParams,
    ClipParams,
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
)
from vatt.params.model import TOWER_SIZES, LossParams, ModelParams, SpaceKind, TowerSize
from vatt.params.params import (
    Params,
    ParamsError,
    RunParams,
    format_settings,
    load_params,
    read_settings,
)
from vatt.params.preprocess import AsrParams, CutParams, PreprocessParams
from vatt.params.pretrain import PretrainParams, TrainingParams
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
from vatt.params.tune import TuneParams
from vatt.params.validate import ValidateParams
