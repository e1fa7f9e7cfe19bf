"""What the training loop costs over the bare forward, loss, backward and step, at batch 32 on 64-32-10.

    python tests/benchmarks/loop.py [--rounds 15] [--one-core]

The loop shuffles, gathers its rows, counts accuracy, looks whether the gradients are finite, and tells a listener of
each step. It is held against the four calls on one batch that is there already, and against the ten lines that people
write by hand, which shuffle and gather too. All in turn, in one process; medians of the ratios.
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
    parser.add_argument("--one-core", action="store_true", help="pin everything to one core: steady on a busy machine")
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
        shuffled = np.random.default_rng(0)
        begin = time.perf_counter()
        for _ in range(EPOCHS):
            for rows in np.split(shuffled.permutation(len(x)), STEPS):
                _, dy = loss(model.forward(x[rows], training=True), y[rows])
                model.backward(dy, input_gradient=False)
                optimizer.step()
        return time.perf_counter() - begin

    def looped() -> float:
        model = specnet.build(spec)
        training = TrainingSpec(loss="softmax_cross_entropy", epochs=EPOCHS, batch_size=BATCH)
        run = Run(model, SoftmaxCrossEntropy(), Adam(model), training, Dataset(x, y), None, [lambda _event: None])
        begin = time.perf_counter()
        run.go()
        return time.perf_counter() - begin

    bare(), by_hand(), looped()
    times = [(bare(), by_hand(), looped()) for _ in range(options.rounds)]
    for name, column in zip(("four calls", "by hand", "loop"), zip(*times, strict=True), strict=True):
        print(f"{name:10} {statistics.median(column) / STEPS / EPOCHS * 1e6:.1f} µs a step")
    print(f"loop / four calls {statistics.median(c / a for a, _, c in times):.3f} (goal 1.05)")
    print(f"loop / by hand    {statistics.median(c / b for _, b, c in times):.3f}")


if __name__ == "__main__":
    main()
