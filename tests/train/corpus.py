"""A tiny model and tiny random clips for tests of training."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch

from tests.tiny import LOSS, TINY_MODEL
from vatt.core.batch import Batch
from vatt.model.cost import Cost
from vatt.model.vatt import Vatt
from vatt.params import ClipParams, LaunchParams, ModelParams, PretrainParams, RunParams
from vatt.train.engine import Engine
from vatt.train.loop import Setup, Validation
from vatt.train.pretraining import PARTS, Objective, adam_settings, build_optimizer
from vatt.train.recipe import Job, PretrainRecipe

CLIP = ClipParams(num_frames=2, frame_size_px=16, num_samples=1024, num_tokens=4, num_candidates=2)
MODEL = TINY_MODEL.model_copy(
    update={
        "video_patch": (1, 8, 8),
        "audio_patch": 256,
        "space_va_width": 32,
        "space_vt_width": 16,
        "dropout_rate": 0.0,
        "drop_token_rate": 0.0,
    }
)
SHARED_MODEL = MODEL.model_copy(update={"shared_encoder": True, "text_style": "bert"})
PRETRAIN = PretrainParams(
    num_steps=20,
    batch_size=8,
    accumulation_steps=1,
    learning_rate=1e-4,
    schedule="paper",
    warmup_steps=5,
    adam_epsilon=1e-3,  # large: rounding noise of zero gradients (key biases) must not grow
    gradient_clip_norm=0.0,
    checkpoint_every_steps=5,
    keep_checkpoints=2,
    keep_every_steps=None,
    on_bad_step="stop",
    spike_factor=None,
    max_bad_steps=3,
    log_every_steps=4,
    validate_every_steps=None,
    validation_clips=8,
    initial_weights=None,
    word_vectors=None,
)
LAUNCH = LaunchParams(
    num_processes=1,
    threads_per_process=1,
    loader_workers=0,
    zero_stage=1,
    offload="none",
    precision="fp32",
    compile=False,
    recompute_activations=False,
    ray_address=None,
)
VOCAB_SIZE = 32


def build_objective(model: ModelParams = MODEL) -> Objective:
    torch.manual_seed(0)
    return Objective(Vatt(model, CLIP, VOCAB_SIZE), LOSS)


def make_batch(step: int, size: int = PRETRAIN.batch_size) -> Batch:
    """Return the batch after `step` steps: some clips without sound, some without text."""
    generator = torch.Generator().manual_seed(step)
    text = torch.randint(1, VOCAB_SIZE, (size, 2, CLIP.num_tokens), generator=generator)
    text_mask = torch.rand(size, 2, generator=generator) > 0.3
    return Batch(
        video=torch.rand(size, CLIP.num_frames, 16, 16, 3, generator=generator) * 2 - 1,
        audio=torch.rand(size, CLIP.num_samples, generator=generator) * 2 - 1,
        text=text * text_mask[..., None],
        audio_mask=torch.rand(size, generator=generator) > 0.3,
        text_mask=text_mask,
    )


def take_rows(batch: Batch, rows: slice) -> Batch:
    return Batch(
        batch.video[rows],
        batch.audio[rows],
        batch.text[rows],
        batch.audio_mask[rows],
        batch.text_mask[rows],
    )


def open_batches(start_step: int) -> Iterator[Batch]:
    return (make_batch(step) for step in count(start_step + 1))


def build_run(
    directory: Path,
    pretrain: PretrainParams,
    batches: Callable[[int], Iterator[Batch]] = open_batches,
    validation: Validation | None = None,
    cost: Cost | None = None,
) -> tuple[Job, Setup]:
    """Return what `train` takes besides an engine, for a run in `directory/run`.

    The curve lies beside it; `batches` yields them from the number of steps done.
    """
    job, objective = build_job(), build_objective()
    updates = {"run": RunParams(seed=7), "pretrain": pretrain}
    paths = {"directory": directory / "run", "curve_path": directory / "curve.jsonl"}
    recipe = job.recipe.model_copy(update=updates)
    setup = Setup(
        objective=objective,
        parts=PARTS,
        optimizer=build_optimizer(objective.parameters(), pretrain),
        settings=lambda step: [adam_settings(step, pretrain)],
        open_batches=lambda order: batches(order.start_step),
        validation=validation,
        cost=cost,
    )
    return job.model_copy(update={"recipe": recipe, **paths}), setup


def build_job(**launch: object) -> Job:
    """Return a job as the stage makes it, of a run with a short name in the current folder."""
    recipe = PretrainRecipe(
        run=RunParams(seed=0),
        clip=CLIP,
        model=MODEL,
        loss=LOSS,
        pretrain=PRETRAIN,
        launch=LAUNCH.model_copy(update=launch),
        vocab_size=VOCAB_SIZE,
        index_digest="",
        tokenizer_digest="",
    )
    return Job(
        recipe=recipe,
        initial_weights=None,
        preprocess_dir=Path("data/preprocess"),
        directory=Path(".cache/pretrain/0123456789abcdef"),
        curve_path=Path("metrics/pretrain_curve.jsonl"),
    )


def build_engine(
    model: ModelParams = MODEL, pretrain: PretrainParams = PRETRAIN, **launch: object
) -> Engine:
    objective = build_objective(model)
    optimizer = build_optimizer(objective.parameters(), pretrain)
    return Engine(objective, optimizer, pretrain, LAUNCH.model_copy(update=launch))
