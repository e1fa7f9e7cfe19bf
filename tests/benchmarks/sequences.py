"""Time and memory of recurrent layers and attention, training steps and predictions, compared with others and a floor.

    python tests/benchmarks/sequences.py [--rounds 5] [--one-core] [--only LSTM] [--json FILE]

Sequences have 64 steps. The floor is the matrix products alone, computed by numpy: one product of the inputs and one of
the gradient of each weight for all steps, in blocks that stay in the cache, and two products with the recurrent weight
in each step. All contenders start from the same weights and data, and their losses in the first steps, or their
predictions, must agree. A training step is forward, softmax cross-entropy of an affine layer on the last state,
backward, Adam; the attention block has a mean square of its outputs as loss, and no Adam. Predictions are of the
recurrent layer alone; a stream is predicted one time step at a time, and the state is kept. ONNX Runtime only predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import sequence_peers as peers
from contest import Measurement, main, measured, timed
from sequence_peers import CLASSES, HEADS, RATE, Arrays, Case, Step

STEPS, HIDDEN = 64, 256
GATES = {"lstm": 4, "gru": 3}
BLOCK = 256  # rows
SMALL = 16 * 1024  # numbers in an output up to which np.dot is faster than np.matmul

CASES = {
    "LSTM 64, batch 32": Case("lstm", 64, 16, 32, 40),
    "GRU 64, batch 32": Case("gru", 64, 16, 32, 40),
    "LSTM 256, batch 64": Case("lstm", 256, 64, 64, 3),
    "GRU 256, batch 64": Case("gru", 256, 64, 64, 3),
    "attention block, batch 32": Case("attention", 64, 64, 32, 30, "block"),
    "predict one sequence, LSTM 64": Case("lstm", 64, 16, 1, 500, "predict"),
    "predict one sequence, GRU 64": Case("gru", 64, 16, 1, 500, "predict"),
    "one step of a stream, LSTM 64": Case("lstm", 64, 16, 1, 5000, "step"),
}


def document(case: Case) -> list[dict[str, Any]]:
    """Return the layers of specnet's document."""
    if case.task == "block":
        norm, perceptron = {"type": "layer_norm"}, [{"type": "affine", "units": HIDDEN}, {"type": "relu"}]
        return [
            {"type": "residual", "layers": [norm, {"type": "attention", "heads": HEADS}]},
            {"type": "residual", "layers": [norm, *perceptron, {"type": "affine", "units": case.units}]},
        ]
    head = [{"type": "affine", "units": CLASSES}] if case.task == "train" else []
    return [{"type": case.layer, "units": case.units}, *head]


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights, by specnet's names."""
    units = case.units
    if case.task == "block":
        layers: dict[str, dict[str, tuple[int, ...]]] = {
            f"residual_{n}.layer_norm_1": {"scale": (units,), "shift": (units,)} for n in (1, 2)
        }
        layers["residual_1.attention_1"] = {
            name: shape
            for part in ("query", "key", "value", "output")
            for name, shape in ((part, (units, units)), (f"{part}_bias", (units,)))
        }
        layers["residual_2.affine_1"] = {"weight": (units, HIDDEN), "bias": (HIDDEN,)}
        layers["residual_2.affine_2"] = {"weight": (HIDDEN, units), "bias": (units,)}
    else:
        width = GATES[case.layer] * units
        recurrent = {"weight": (case.features, width), "recurrent_weight": (units, width), "bias": (width,)}
        layers = {f"{case.layer}_1": recurrent | ({"recurrent_bias": (units,)} if case.layer == "gru" else {})}
        if case.task == "train":
            layers["affine_1"] = {"weight": (units, CLASSES), "bias": (CLASSES,)}
    return {f"{layer}.{name}": shape for layer, arrays in layers.items() for name, shape in arrays.items()}


def parameters(case: Case) -> Arrays:
    """Return the weights at the start, by specnet's names."""
    rng, result = np.random.default_rng(1), {}
    for name, shape in shapes(case).items():
        result[name] = rng.normal(name.endswith("scale"), shape[0] ** -0.5 if len(shape) == 2 else 0.1, shape)
    return {name: array.astype("f4") for name, array in result.items()}


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(case.batch, STEPS, case.features)).astype("f4")
    return x, rng.integers(0, CLASSES, case.batch)


def contender(make: Callable[[Case, Arrays, Any, Any], Step | None]) -> Callable[[str], Measurement | None]:
    """Return a contender that times the step built by `make`, if there is one."""

    def measure(name: str) -> Measurement | None:
        case = CASES[name]
        step = make(case, parameters(case), *inputs(case))
        return None if step is None else measured(step, case.count)

    return measure


def products(
    rows: int, inner: int, outer: int, parts: str = "y dw dx", block: int = BLOCK
) -> list[Callable[[], object]]:
    """Return the products of y = x @ w for x of (rows, inner), and of the gradients, `block` rows at a time."""
    rng = np.random.default_rng(0)
    block = min(rows, block)
    x, w, dy = (rng.normal(size=size).astype("f4") for size in ((block, inner), (inner, outer), (block, outer)))
    y, dw, dx = np.empty_like(dy), np.empty_like(w), np.empty_like(x)
    if block == 1:  # numpy has a cheaper call for a single row
        x, y = x[0], y[0]
    operands = {"y": (x, w, y), "dw": (x.T, dy, dw), "dx": (dy, w.T, dx)}
    calls = [partial(np.dot if operands[p][2].size <= SMALL else np.matmul, *operands[p]) for p in parts.split()]
    return calls * round(rows / block)


def attention_products(case: Case) -> list[Callable[[], object]]:
    """Return the products of scores and values of all heads, forward and backward, a sequence at a time."""
    rng, size = np.random.default_rng(0), case.units // HEADS
    q, k, v, dy = (rng.normal(size=(HEADS, STEPS, size)).astype("f4") for _ in range(4))
    p = rng.normal(size=(HEADS, STEPS, STEPS)).astype("f4")
    scores, y = np.empty_like(p), np.empty_like(q)
    pt, kt, vt = (array.swapaxes(1, 2) for array in (p, k, v))
    forward = [(q, kt, scores), (p, v, y)]
    backward = [(dy, vt, scores), (pt, dy, y), (p, k, y), (pt, q, y)]
    return [partial(np.matmul, *operands) for operands in forward + backward] * case.batch


def floor(name: str) -> Measurement:
    case = CASES[name]
    batch, units, features = case.batch, case.units, case.features
    rows, width = batch * STEPS, GATES.get(case.layer, 0) * units
    if case.task == "block":
        affine = ((units, 3 * units), (units, units), (units, HIDDEN), (HIDDEN, units))
        calls = [call for sizes in affine for call in products(rows, *sizes)] + attention_products(case)
    elif case.task == "train":
        calls = products(rows, features, width, "y dw") + products(rows, units, width, "y dx", block=batch)
        calls += products(rows, units, width, "dw") + products(batch, units, CLASSES)
    else:
        rows = rows if case.task == "predict" else 1
        calls = products(rows, features, width, "y") + products(rows, units, width, "y", block=1)

    def multiply() -> None:
        for call in calls:
            call()

    return {"time": timed(multiply, case.count)}


def specnet(case: Case, arrays: Arrays, x: np.ndarray, y: np.ndarray) -> Step:
    import specnet
    from specnet.training.losses import SoftmaxCrossEntropy
    from specnet.training.optimizers import Adam

    model = specnet.build(specnet.ModelSpec(input_shape=x.shape[1:], layers=document(case)))
    for name, array in arrays.items():
        model.parameters[name][...] = array
    if case.task == "predict":
        return lambda _needs_loss: model.predict(x)
    if case.task == "step":
        stepper, rows = model.stepper(), cycle(x.swapaxes(0, 1))
        return lambda _needs_loss: stepper.step(next(rows))
    loss, optimizer = SoftmaxCrossEntropy(), Adam(model, RATE)

    def step(_needs_loss: bool) -> float:
        value, dy = loss(model.forward(x, training=True), y)
        model.backward(dy, input_gradient=False)
        optimizer.step()
        return float(value)

    def block(needs_loss: bool) -> Any:
        out = model.forward(x, training=True)
        dx = model.backward(np.multiply(out, 2 / out.size))
        return [float((out * out).mean()), float(abs(dx).sum())] if needs_loss else None

    return block if case.task == "block" else step


if __name__ == "__main__":
    main(
        __file__,
        __doc__ or "",
        list(CASES),
        {
            "floor": floor,
            "specnet": contender(specnet),
            "specnet, numpy": contender(specnet),
            "torch": contender(peers.torch),
            "jax": contender(peers.jax),
            "keras": contender(peers.keras),
            "onnxruntime": contender(peers.onnx_runtime),
        },
    )
