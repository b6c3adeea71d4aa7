"""Trains a compiled network beside a plain one, without the shape checks of tests; prints both."""

import json
import time

from tests.train.corpus import LAUNCH, PRETRAIN, build_objective, make_batch
from vatt.train.engine import Engine
from vatt.train.pretraining import adam_settings, build_optimizer


def main() -> None:
    engines = []
    for compiles in (False, True):
        objective = build_objective()
        launch = LAUNCH.model_copy(update={"compile": compiles})
        optimizer = build_optimizer(objective.parameters(), PRETRAIN)
        engines.append(Engine(objective, optimizer, PRETRAIN, launch))
    for step in range(1, 5):
        row: list[list[float]] = []
        for engine in engines:
            start_s = time.perf_counter()
            losses = engine.compute_losses(make_batch(step))
            norm = engine.update(losses[0], [adam_settings(step, PRETRAIN)])
            row.append([*losses.tolist(), norm, time.perf_counter() - start_s])
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
