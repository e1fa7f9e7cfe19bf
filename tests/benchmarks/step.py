"""Time of a training step (forward, softmax cross-entropy, backward, Adam), compared with others and with the floor.

    python tests/benchmarks/step.py [--rounds 5] [--one-core] [--only 784] [--json FILE]

The floor is the matrix products alone, computed by numpy. All contenders start from the same weights and data, and
their losses in the first steps must agree. "textbook" is tutorial-style numpy: new arrays everywhere, one line per
formula.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from contest import Measurement, busy_cores, main, timed
from peers import jax_adam, jax_cross_entropy

WIDE = [512] * 13
NETWORKS: dict[str, tuple[list[int], int, int]] = {
    "64-32-10, batch 32": ([64, 32, 10], 32, 2000),
    "784-256-128-10, batch 128": ([784, 256, 128, 10], 128, 200),
    "1024-2048-2048-1000, batch 256": ([1024, 2048, 2048, 1000], 256, 5),
    "512 x 12 with batch norm, batch 256": (WIDE, 256, 10),
}
RATE = 0.001


def is_normed(widths: list[int]) -> bool:
    """Return whether the network has a batch norm before each ReLU; its affine layers then have no bias."""
    return widths == WIDE


def inputs(widths: list[int], batch: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, (2 / a) ** 0.5, (a, b)).astype("f4") for a, b in pairwise(widths)]
    return weights, rng.uniform(size=(batch, widths[0])).astype("f4"), rng.integers(0, widths[-1], batch)


def contender(make: Callable[[list[int], int], Callable[[bool], float] | None]) -> Callable[[str], Measurement | None]:
    """Return a contender that times the step built by `make`; the step's argument says whether its loss is needed."""

    def measure(network: str) -> Measurement | None:
        widths, batch, count = NETWORKS[network]
        step = make(widths, batch)
        if step is None:
            return None
        losses = [step(True) for _ in range(3)]
        busy = busy_cores(lambda: step(False), count)
        return {"time": timed(lambda: step(False), count), "answer": losses, "cores": busy}

    return measure


def floor(network: str) -> Measurement:
    widths, batch, count = NETWORKS[network]
    weights, x, _ = inputs(widths, batch)
    rng = np.random.default_rng(1)
    outputs = [x, *(rng.uniform(size=(batch, units)).astype("f4") for units in widths[1:])]
    deltas = [output.copy() for output in outputs]
    gradients = [np.empty_like(weight) for weight in weights]

    def step() -> None:
        for index, weight in enumerate(weights):
            np.matmul(outputs[index], weight, outputs[index + 1])
        for index in range(len(weights) - 1, -1, -1):
            np.matmul(outputs[index].T, deltas[index + 1], gradients[index])
            if index:
                np.matmul(deltas[index + 1], weights[index].T, deltas[index])

    return {"time": timed(step, count)}


def specnet(widths: list[int], batch: int) -> Callable[[bool], float]:
    import specnet
    from specnet.training.losses import SoftmaxCrossEntropy
    from specnet.training.optimizers import Adam

    weights, x, y = inputs(widths, batch)
    layers: list[dict[str, object]] = []
    for units in widths[1:]:
        layers += [{"type": "affine", "units": units}, {"type": "relu"}]
        if is_normed(widths):
            layers[-2]["bias"] = False
            layers.insert(-1, {"type": "batch_norm"})
    while layers[-1]["type"] != "affine":
        layers.pop()
    model = specnet.build(specnet.ModelSpec(input_shape=(widths[0],), layers=layers))
    for index, weight in enumerate(weights, 1):
        model.parameters[f"affine_{index}.weight"][...] = weight
    loss, optimizer = SoftmaxCrossEntropy(), Adam(model, RATE)

    def step(_needs_loss: bool) -> float:
        value, dy = loss(model.forward(x, training=True), y)
        model.backward(dy, input_gradient=False)
        optimizer.step()
        return value

    return step


def textbook(widths: list[int], batch: int) -> Callable[[bool], float] | None:
    if is_normed(widths):
        return None
    weights, x, y = inputs(widths, batch)
    parameters = [array for weight in weights for array in (weight, np.zeros(weight.shape[1], "f4"))]
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    steps = 0

    def step(_needs_loss: bool) -> float:
        nonlocal steps
        steps += 1
        activations = [x]
        for index in range(0, len(parameters), 2):
            z = activations[-1] @ parameters[index] + parameters[index + 1]
            activations.append(np.maximum(z, 0) if index < len(parameters) - 2 else z)
        z = activations.pop()
        e = np.exp(z - z.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(batch), y]).mean()
        dz = p.copy()
        dz[np.arange(batch), y] -= 1
        dz /= batch
        gradients: list[np.ndarray] = []
        for index in range(len(parameters) - 2, -1, -2):
            a = activations.pop()
            gradients[:0] = [a.T @ dz, dz.sum(axis=0)]
            if index:
                dz = (dz @ parameters[index].T) * (a > 0)
        for index, g in enumerate(gradients):
            first[index] = 0.9 * first[index] + 0.1 * g
            second[index] = 0.999 * second[index] + 0.001 * g * g
            m, v = first[index] / (1 - 0.9**steps), second[index] / (1 - 0.999**steps)
            parameters[index] = parameters[index] - RATE * m / (np.sqrt(v) + 1e-8)
        return float(loss)

    return step


def torch(widths: list[int], batch: int, *, fused: bool) -> Callable[[bool], float]:
    import torch

    weights, x, y = (inputs(widths, batch)[0], *map(torch.tensor, inputs(widths, batch)[1:]))
    modules: list[torch.nn.Module] = []
    for weight in weights:
        last = weight is weights[-1]
        linear = torch.nn.Linear(*weight.shape, bias=not is_normed(widths))
        linear.weight.data[...] = torch.tensor(weight.T)
        if linear.bias is not None:
            linear.bias.data.zero_()
        modules.append(linear)
        if not last:
            modules += [torch.nn.BatchNorm1d(weight.shape[1])] * is_normed(widths) + [torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules)
    loss, optimizer = torch.nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), RATE, fused=fused)

    def step(needs_loss: bool) -> float:
        optimizer.zero_grad()
        result = loss(model(x), y)
        result.backward()
        optimizer.step()
        return result.item() if needs_loss else 0.0

    return step


def jax(widths: list[int], batch: int) -> Callable[[bool], float]:
    import jax.numpy as jnp

    weights, x, y = inputs(widths, batch)
    x, y = jnp.asarray(x), jnp.asarray(y)
    normed = is_normed(widths)

    def loss_of(parameters: Any) -> Any:
        out = x
        for index, (weight, *rest) in enumerate(parameters):
            out = out @ weight
            if not normed:
                out = out + rest[0]
            if index == len(parameters) - 1:
                break
            if normed:
                out = (out - out.mean(0)) / jnp.sqrt(out.var(0) + 1e-5) * rest[0] + rest[1]
            out = jnp.maximum(out, 0)
        return jax_cross_entropy(out, y)

    parameters = [(jnp.asarray(w), *([jnp.ones(w.shape[1])] if normed else []), jnp.zeros(w.shape[1])) for w in weights]
    return jax_adam(loss_of, parameters, RATE)


def keras(widths: list[int], batch: int) -> Callable[[bool], float] | None:
    if is_normed(widths):
        return None
    import keras

    weights, x, y = inputs(widths, batch)
    dense = [keras.layers.Dense(units, "relu") for units in widths[1:-1]] + [keras.layers.Dense(widths[-1])]
    model = keras.Sequential([keras.Input((widths[0],)), *dense])
    for layer, weight in zip(dense, weights, strict=True):
        layer.set_weights([weight, np.zeros(weight.shape[1])])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE, epsilon=1e-8), loss)
    return lambda _needs_loss: float(model.train_on_batch(x, y))


def scikit_learn(widths: list[int], batch: int) -> Callable[[bool], float] | None:
    if is_normed(widths):
        return None
    from sklearn.neural_network import MLPClassifier

    weights, x, y = inputs(widths, batch)
    model = MLPClassifier(widths[1:-1], batch_size=batch, learning_rate_init=RATE, alpha=0, shuffle=False)
    model.partial_fit(x, y, classes=np.arange(widths[-1]))
    for arrays, start in ((model.coefs_, weights), (model.intercepts_, [0] * len(weights))):
        for array, value in zip(arrays, start, strict=True):
            array[...] = value
    optimizer = model._optimizer
    optimizer.t = 0
    for array in (*optimizer.ms, *optimizer.vs):
        array[...] = 0

    def step(_needs_loss: bool) -> float:
        model.partial_fit(x, y)
        return float(model.loss_)

    return step


def thinc(widths: list[int], batch: int) -> Callable[[bool], float] | None:
    if is_normed(widths):
        return None
    from thinc.api import Adam, CategoricalCrossentropy, Relu, Softmax_v2, chain

    weights, x, y = inputs(widths, batch)
    model = chain(*[Relu(b, a) for a, b in pairwise(widths[:-1])], Softmax_v2(*widths[:-3:-1]))
    model.initialize(x, np.zeros((batch, widths[-1]), "f4"))
    for layer, weight in zip(model.layers, weights, strict=True):
        layer.set_param("W", np.ascontiguousarray(weight.T))
        layer.set_param("b", np.zeros(weight.shape[1], "f4"))
    optimizer = Adam(RATE, L2=0, grad_clip=0, use_averages=False)
    loss = CategoricalCrossentropy()

    def step(needs_loss: bool) -> float:
        p, backward = model.begin_update(x)
        backward(loss.get_grad(p, y))
        model.finish_update(optimizer)
        return float(-np.log(p[np.arange(batch), y]).mean()) if needs_loss else 0.0

    return step


if __name__ == "__main__":
    main(
        __file__,
        __doc__ or "",
        list(NETWORKS),
        {
            "floor": floor,
            "specnet": contender(specnet),
            "specnet, numpy": contender(specnet),
            "torch": contender(lambda widths, batch: torch(widths, batch, fused=False)),
            "torch, fused": contender(lambda widths, batch: torch(widths, batch, fused=True)),
            "jax": contender(jax),
            "keras": contender(keras),
            "scikit-learn": contender(scikit_learn),
            "thinc": contender(thinc),
            "textbook": contender(textbook),
        },
        rtol=0.01,
    )
