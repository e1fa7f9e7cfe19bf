"""Overhead of the training loop over the bare forward, loss, backward and step, at batch 32 on 64-32-10.

    python tests/benchmarks/loop.py [--rounds 15] [--one-core]

The loop shuffles, gathers its rows, computes accuracy, checks that the gradients are finite, and calls a listener at
each step. It is compared with the four calls on one batch that is gathered in advance, and with a ten-line hand-written
loop, which shuffles and gathers too. All run in turn, in one process; prints medians of the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np

STEPS, EPOCHS, BATCH = 100, 20, 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--one-core", action="store_true", help="pin everything to one core, for steadier times on a busy machine"
    )
    options = parser.parse_args()
    if options.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    import specnet
    from specnet.data.dataset import Dataset
    from specnet.training.loop import Run
    from specnet.training.losses import SoftmaxCrossEntropy
    from specnet.training.optimizers import Adam
    from specnet.training.spec.training_spec import TrainingSpec

    layers = [{"type": "affine", "units": 32}, {"type": "relu"}, {"type": "affine", "units": 10}]
    spec = specnet.ModelSpec(input_shape=(64,), layers=layers)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(STEPS * BATCH, 64)).astype("f4")
    y = rng.integers(0, 10, len(x))

    def bare() -> float:
        model = specnet.build(spec)
        loss, optimizer = SoftmaxCrossEntropy(), Adam(model)
        rows, targets = x[:BATCH], y[:BATCH]
        begin = time.perf_counter()
        for _ in range(STEPS * EPOCHS):
            _, dy = loss(model.forward(rows, training=True), targets)
            model.backward(dy, input_gradient=False)
            optimizer.step()
        return time.perf_counter() - begin

    def by_hand() -> float:
        model = specnet.build(spec)
        loss, optimizer = SoftmaxCrossEntropy(), Adam(model)
        generator = np.random.default_rng(0)
        begin = time.perf_counter()
        for _ in range(EPOCHS):
            for rows in np.split(generator.permutation(len(x)), STEPS):
                _, dy = loss(model.forward(x[rows], training=True), y[rows])
                model.backward(dy, input_gradient=False)
                optimizer.step()
        return time.perf_counter() - begin

    def by_loop() -> float:
        model = specnet.build(spec)
        training = TrainingSpec(loss="softmax_cross_entropy", epochs=EPOCHS, batch_size=BATCH)
        run = Run(model, SoftmaxCrossEntropy(), Adam(model), training, Dataset(x, y), None, [lambda _event: None])
        begin = time.perf_counter()
        run.go()
        return time.perf_counter() - begin

    bare(), by_hand(), by_loop()
    times = [(bare(), by_hand(), by_loop()) for _ in range(options.rounds)]
    for name, column in zip(("four calls", "by hand", "loop"), zip(*times, strict=True), strict=True):
        print(f"{name:10} {statistics.median(column) / STEPS / EPOCHS * 1e6:.1f} µs per step")
    print(f"loop / four calls {statistics.median(c / a for a, _, c in times):.3f} (goal 1.15)")
    print(f"loop / by hand    {statistics.median(c / b for _, b, c in times):.3f}")


if __name__ == "__main__":
    main()
