"""How cost grows: with the batch, with the parameters, with the layers; and what a step allocates.

    python tests/benchmarks/growth.py [--large]

One process, pinned to one core; medians. --large goes on to 100 million parameters (1.6 GB).
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


def show_batches() -> None:
    print("784-256-128-10: time of a step by batch")
    for batch in (1, 32, 128, 512, 2048, 8192):
        seconds = timed(step_of([784, 256, 128, 10], batch), max(3, 2000 // batch), 3)
        print(f"  {batch:6}  {seconds * 1e3:8.2f} ms  {seconds / batch * 1e6:8.2f} µs a row")


def show_parameters(large: bool) -> None:
    print("two hidden layers, batch 64: time of a step by parameters")
    for width in (64, 256, 1024, 3072, *([7070] if large else [])):
        step = step_of([width, width, width, 10], 64)
        count = step.model.parameter_count  # type: ignore[attr-defined]
        seconds = timed(step, max(2, 20_000_000 // count), 3)
        print(f"  {count:11,}  {seconds * 1e3:8.2f} ms  {seconds / count * 1e9:6.2f} ns a parameter")


def show_layers() -> None:
    """Time relu layers on two numbers, where nothing but the call costs anything."""
    import specnet

    print("overhead of a layer (relu on a batch of two numbers)")
    times = {}
    for depth in (1, 101):
        model = specnet.build(specnet.ModelSpec(input_shape=[2], layers=[{"type": "relu"}] * depth))
        x = np.ones((1, 2), np.float32)
        times[depth, "forward"] = timed(lambda model=model, x=x: model.forward(x), 2000)
        times[depth, "backward"] = timed(lambda model=model, x=x: model.backward(x), 2000)
        times[depth, "predict"] = timed(lambda model=model, x=x: model.predict(x), 2000)
    for way in ("forward", "backward", "predict"):
        print(f"  {way:9} {(times[101, way] - times[1, way]) / 100 * 1e6:5.2f} µs")


def show_allocations() -> None:
    print("what a step allocates at most in steady state (the returned arrays apart), in bytes")
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


def show_documents() -> None:
    import specnet

    print("documents of relu and affine layers, 16 wide: seconds to validate and to build")
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
    show_batches()
    show_parameters(options.large)
    show_layers()
    show_allocations()
    show_documents()


if __name__ == "__main__":
    main()
