"""How the time of a step grows with the batch, the parameters and the layers, and what a step allocates.

    python tests/benchmarks/growth.py [--large]

Runs in one process, pinned to one core; prints medians. --large adds a network of 100 million parameters (1.6 GB).
"""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from contest import timed


def step_of(widths: list[int], batch: int, extra: tuple[dict[str, object], ...] = ()) -> Callable[[], None]:
    import specnet
    from specnet.training.losses import SoftmaxCrossEntropy
    from specnet.training.optimizers import Adam

    layers: list[dict[str, object]] = []
    for units in widths[1:]:
        layers += [{"type": "affine", "units": units}, *extra, {"type": "relu"}]
    model = specnet.build(specnet.ModelSpec(input_shape=widths[:1], layers=layers[:-1]))
    loss, optimizer = SoftmaxCrossEntropy(), Adam(model)
    x = np.random.default_rng(0).random((batch, widths[0]), np.float32)
    y = np.arange(batch) % widths[-1]

    def step() -> None:
        _, dy = loss(model.forward(x, training=True), y)
        model.backward(dy, input_gradient=False)
        optimizer.step()

    step.model = model  # type: ignore[attr-defined]
    return step


def print_batches() -> None:
    print("784-256-128-10: time of a step by batch size")
    for batch in (1, 32, 128, 512, 2048, 8192):
        seconds = timed(step_of([784, 256, 128, 10], batch), max(3, 2000 // batch), 3)
        print(f"  {batch:6}  {seconds * 1e3:8.2f} ms  {seconds / batch * 1e6:8.2f} µs per row")


def print_parameters(large: bool) -> None:
    print("two hidden layers, batch 64: time of a step by number of parameters")
    for width in (64, 256, 1024, 3072, *([7070] if large else [])):
        step = step_of([width, width, width, 10], 64)
        count = step.model.parameter_count  # type: ignore[attr-defined]
        seconds = timed(step, max(2, 20_000_000 // count), 3)
        print(f"  {count:11,}  {seconds * 1e3:8.2f} ms  {seconds / count * 1e9:6.2f} ns per parameter")


def print_layers() -> None:
    """Time relu layers on two numbers, for which the time is almost only the overhead of the calls."""
    import specnet

    print("overhead per layer (relu on a batch of two numbers)")
    times = {}
    for depth in (1, 101):
        model = specnet.build(specnet.ModelSpec(input_shape=[2], layers=[{"type": "relu"}] * depth))
        x = np.ones((1, 2), np.float32)
        times[depth, "forward"] = timed(lambda model=model, x=x: model.forward(x), 2000)
        times[depth, "backward"] = timed(lambda model=model, x=x: model.backward(x), 2000)
        times[depth, "predict"] = timed(lambda model=model, x=x: model.predict(x), 2000)
    for method in ("forward", "backward", "predict"):
        print(f"  {method:9} {(times[101, method] - times[1, method]) / 100 * 1e6:5.2f} µs")


def print_allocations() -> None:
    print("peak allocation of a step in steady state, without the returned arrays, in bytes")
    norm, dropout = {"type": "batch_norm"}, {"type": "dropout", "rate": 0.1}
    for batch, extra in ((32, ()), (128, ()), (128, (norm,)), (128, (norm, dropout))):
        step = step_of([784, 256, 128, 10], batch, extra)
        for _ in range(5):
            step()
        tracemalloc.start()
        step()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        step()
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        returned = 2 * batch * 10 * 4  # outputs and their gradient
        names = ["affine", *(str(e["type"]) for e in extra), "relu"]
        print(f"  batch {batch:4} {'+'.join(names):36} {peak - returned:8}")


def print_documents() -> None:
    import specnet

    print("documents of affine and relu layers of width 16: seconds to validate and to build")
    for count in (500, 2000, 8000):
        layers = [{"type": "affine", "units": 16}, {"type": "relu"}] * (count // 2)
        began = time.perf_counter()
        spec = specnet.ModelSpec(input_shape=[16], layers=layers)
        validated = time.perf_counter()
        specnet.build(spec)
        print(f"  {count:6} layers  {validated - began:6.2f}  {time.perf_counter() - validated:6.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print_batches()
    print_parameters(options.large)
    print_layers()
    print_allocations()
    print_documents()


if __name__ == "__main__":
    main()
