"""A training step (forward, softmax cross-entropy, backward, Adam), side by side with others and with the floor.

    python tests/benchmarks/step.py [--rounds 5] [--one-core] [--json FILE]

Each contender runs in a process of its own, in turn, for several rounds; medians over the rounds whose floor is within
a tenth of the best one. The floor is the matrix products alone, as numpy does them. Before any time is taken, the
losses of the first steps, from the same weights on the same data, have to agree. torch and JAX are compared with where
they are installed; specnet runs with its kernels, where they were built, and by numpy alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

NETWORKS = {
    "64-32-10, batch 32": ([64, 32, 10], 32, 2000),
    "784-256-128-10, batch 128": ([784, 256, 128, 10], 128, 200),
    "1024-2048-2048-1000, batch 256": ([1024, 2048, 2048, 1000], 256, 5),
}
CONTENDERS = ("floor", "specnet", "specnet, numpy", "torch", "torch fused", "jax")
STEADY = 1.1

Step = Callable[[], float]


def inputs(widths: list[int], batch: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, (2 / a) ** 0.5, (a, b)).astype("f4") for a, b in pairwise(widths)]
    return weights, rng.uniform(size=(batch, widths[0])).astype("f4"), rng.integers(0, widths[-1], batch)


def specnet_step(widths: list[int], batch: int) -> Step:
    import specnet
    from specnet.training.losses import SoftmaxCrossEntropy
    from specnet.training.optimizers import Adam

    weights, x, y = inputs(widths, batch)
    layers: list[dict[str, object]] = []
    for units in widths[1:]:
        layers += [{"type": "affine", "units": units}, {"type": "relu"}]
    model = specnet.build(specnet.ModelSpec(input_shape=(widths[0],), layers=layers[:-1]))
    for index, weight in enumerate(weights, 1):
        model.parameters[f"affine_{index}.weight"][...] = weight
    loss, optimizer = SoftmaxCrossEntropy(), Adam(model, 0.001)

    def step() -> float:
        value, dy = loss(model.forward(x, training=True), y)
        model.backward(dy, input_gradient=False)
        optimizer.step()
        return value

    return step


def torch_step(widths: list[int], batch: int, *, fused: bool) -> Step:
    import torch

    weights, x, y = (inputs(widths, batch)[0], *map(torch.tensor, inputs(widths, batch)[1:]))
    modules: list[torch.nn.Module] = []
    for weight in weights:
        linear = torch.nn.Linear(*weight.shape)
        linear.weight.data[...] = torch.tensor(weight.T)
        linear.bias.data.zero_()
        modules += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1])
    loss, optimizer = torch.nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), 0.001, fused=fused)

    def step(value: bool = False) -> float:
        optimizer.zero_grad()
        result = loss(model(x), y)
        result.backward()
        optimizer.step()
        return result.item() if value else 0.0

    step.wants_value = True  # type: ignore[attr-defined]
    return step


def floor_step(widths: list[int], batch: int) -> Step:
    weights, x, _ = inputs(widths, batch)
    rng = np.random.default_rng(1)
    outputs = [x, *(rng.uniform(size=(batch, units)).astype("f4") for units in widths[1:])]
    deltas = [output.copy() for output in outputs]
    gradients = [np.empty_like(weight) for weight in weights]

    def step() -> float:
        for index, weight in enumerate(weights):
            np.matmul(outputs[index], weight, outputs[index + 1])
        for index in range(len(weights) - 1, -1, -1):
            np.matmul(outputs[index].T, deltas[index + 1], gradients[index])
            if index:
                np.matmul(deltas[index + 1], weights[index].T, deltas[index])
        return 0.0

    return step


def jax_step(widths: list[int], batch: int) -> Step:
    import jax
    import jax.numpy as jnp

    weights, x, y = inputs(widths, batch)
    x, y = jnp.asarray(x), jnp.asarray(y)

    def loss_of(parameters: list[tuple[object, object]]) -> object:
        out = x
        for index, (weight, bias) in enumerate(parameters):
            out = out @ weight + bias
            if index < len(parameters) - 1:
                out = jnp.maximum(out, 0)
        return -jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], 1).mean()

    def update(parameters: object, first: object, second: object, t: object) -> tuple[object, ...]:
        value, gradient = jax.value_and_grad(loss_of)(parameters)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
        rate, root = 0.001 / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        moved = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), parameters, first, second)
        return moved, first, second, value

    compiled = jax.jit(update, donate_argnums=(0, 1, 2))
    parameters = [(jnp.asarray(weight), jnp.zeros(weight.shape[1])) for weight in weights]
    first, second = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    state = [parameters, first, second, 0]

    def step(value: bool = False) -> float:
        state[3] += 1
        *state[:3], loss = compiled(*state[:3], float(state[3]))
        return float(loss) if value else loss.block_until_ready() and 0.0

    step.wants_value = True  # type: ignore[attr-defined]
    return step


MAKERS: dict[str, Callable[[list[int], int], Step]] = {
    "floor": floor_step,
    "specnet": specnet_step,
    "specnet, numpy": specnet_step,
    "jax": jax_step,
    "torch": lambda widths, batch: torch_step(widths, batch, fused=False),
    "torch fused": lambda widths, batch: torch_step(widths, batch, fused=True),
}


def measure(contender: str, network: str) -> None:
    """Print microseconds a step, and the losses of the first steps."""
    widths, batch, count = NETWORKS[network]
    step = MAKERS[contender](widths, batch)
    wants_value = getattr(step, "wants_value", False)
    losses = [step(True) if wants_value else step() for _ in range(5)]  # type: ignore[call-arg]
    for _ in range(max(count // 5, 3)):
        step()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            step()
        times.append((time.perf_counter() - began) / count * 1e6)
    print(json.dumps({"us": statistics.median(times), "losses": losses}))


def run(contender: str, network: str) -> dict[str, object] | None:
    command = [sys.executable, __file__, "--measure", contender, network]
    way = "numpy" if contender == "specnet, numpy" else ""
    environment = {**os.environ, "SPECNET_KERNELS": way}
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if made.returncode:
        if "No module named" in made.stderr.splitlines()[-1]:
            return None
        sys.exit(made.stderr)
    return json.loads(made.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one-core", action="store_true", help="pin everything to one core: steady on a busy machine")
    parser.add_argument("--json", type=Path, help="write all figures to a file")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    if arguments.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures: dict[str, dict[str, list[float]]] = {}
    for network in NETWORKS:
        found = figures[network] = {name: [] for name in CONTENDERS}
        losses = {}
        for _ in range(arguments.rounds):
            for contender in CONTENDERS:
                result = run(contender, network)
                if result is not None:
                    found[contender].append(result["us"])
                    losses[contender] = result["losses"]
        steady = [floor <= STEADY * min(found["floor"]) for floor in found["floor"]]
        figures[network] = found = {
            name: [value for value, kept in zip(values, steady, strict=True) if kept] if values else []
            for name, values in found.items()
        }
        for contender in ("torch", "torch fused", "jax", "specnet, numpy"):
            if contender in losses and not np.allclose(losses[contender], losses["specnet"], rtol=1e-3):
                sys.exit(f"{network}: {contender} computes other losses: {losses}")
        medians = {name: statistics.median(values) for name, values in found.items() if values}
        print(f"\n{network} (microseconds a step, medians of {sum(steady)} of {arguments.rounds} rounds)")
        for name, value in medians.items():
            ratio = f"{value / medians['specnet']:6.2f} x specnet" if name != "specnet" else ""
            print(f"  {name:12} {value:10.1f}  {ratio}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
