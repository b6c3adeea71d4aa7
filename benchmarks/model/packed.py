"""(c) VATT-MA: the three modalities in one packed pass against three passes."""

from functools import partial

import torch

from benchmarks.model.clock import Clock
from benchmarks.model.networks import Bench, build_bench
from benchmarks.model.step import BATCH_SIZE, CLIP
from benchmarks.model.table import Row
from vatt.core.batch import Embeddings

NUM_ROUNDS = 3


def measure(clock: Clock) -> list[Row]:
    """Return the rows of the table: forward and backward of MA-Medium on small clips."""
    bench = build_bench("ma_medium.yaml", CLIP, BATCH_SIZE)
    tasks = {
        f"{precision} {way}": partial(differentiate, bench, way, precision == "bf16")
        for precision in ("fp32", "bf16")
        for way in ("packed", "in turn")
    }
    seconds = clock.time_in_turn(tasks, NUM_ROUNDS)
    rows = []
    for precision in ("fp32", "bf16"):
        packed_s, in_turn_s = seconds[f"{precision} packed"], seconds[f"{precision} in turn"]
        detail = f"{packed_s:.3f} / {in_turn_s:.3f} s"
        rows.append(Row(f"{precision} packed / in turn", packed_s / in_turn_s, "<= 1", detail))
    return rows


def differentiate(bench: Bench, way: str, bf16: bool) -> None:
    """Compute all embeddings and the gradients of a sum over them."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model = bench.objective.model
        embeddings = model(bench.batch) if way == "packed" else embed_in_turn(bench)
    parts = [part.float().square().sum() for part in vars(embeddings).values()]
    bench.optimizer.zero_grad()
    torch.stack(parts).sum().backward()


def embed_in_turn(bench: Bench) -> Embeddings:
    """Embed one modality after another."""
    model, batch = bench.objective.model, bench.batch
    video_va, video_vt = model.video_projection(model.encode_video(batch.video))
    text = model.text_projection(model.encode_text(batch.text.flatten(0, 1)))
    return Embeddings(
        video_va=video_va,
        audio_va=model.audio_projection(model.encode_audio(batch.audio)),
        video_vt=video_vt,
        text_vt=text.unflatten(0, batch.text.shape[:2]),
    )
