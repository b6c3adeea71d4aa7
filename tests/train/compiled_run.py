"""Trains a compiled network beside a plain one, without the shape checks of tests; prints both."""

import json
import os
import time

from tests.train.corpus import PRETRAIN, build_engine, make_batch
from tests.train.two_ranks import take_share
from vatt.core.distributed import rank
from vatt.train.pretraining import adam_settings


def main() -> None:
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    engines = [
        build_engine(compile=compiles, num_processes=num_ranks) for compiles in (False, True)
    ]
    for step in range(1, 5):
        row: list[list[float]] = []
        for engine in engines:
            start_s = time.perf_counter()
            losses = engine.compute_losses(take_share(make_batch(step)))
            norm = engine.update(losses[0], [adam_settings(step, PRETRAIN)])
            row.append([*losses.tolist(), norm, time.perf_counter() - start_s])
        if rank() == 0:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
