"""Random networks agree with the same networks built from torch functions, in training and in prediction."""

import random

import numpy as np
import pytest

import specnet
from specnet.testing import build_sample, sample_inputs

torch = pytest.importorskip("torch", reason="torch is not installed")
F = torch.nn.functional

ACTIVATIONS = {
    "relu": lambda _, x: F.relu(x),
    "leaky_relu": lambda s, x: F.leaky_relu(x, s.negative_slope),
    "elu": lambda s, x: F.elu(x, s.alpha),
    "selu": lambda _, x: F.selu(x),
    "gelu": lambda s, x: F.gelu(x, approximate=s.approximate),
    "silu": lambda _, x: F.silu(x),
    "mish": lambda _, x: F.mish(x),
    "softplus": lambda s, x: F.softplus(x, s.beta, threshold=500),
    "sigmoid": lambda _, x: torch.sigmoid(x),
    "tanh": lambda _, x: torch.tanh(x),
    "softmax": lambda _, x: F.softmax(x, -1),
    "log_softmax": lambda _, x: F.log_softmax(x, -1),
    "flatten": lambda _, x: x.flatten(1),
    "reshape": lambda s, x: x.reshape(len(x), *s.shape),
}
WITH_ARRAYS = ["affine", "affine", "prelu", "batch_norm", "layer_norm", "rms_norm", "standardize"]


def random_layers(rng, shape, depth):
    """Draw random layers for inputs of this shape; return the layers and their output shape."""
    layers = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice([*WITH_ARRAYS, "composite", *ACTIVATIONS])
        entry = {"type": kind}
        if kind == "affine":
            entry |= {"units": rng.randint(1, 6), "bias": rng.random() < 0.7}
            shape = (*shape[:-1], entry["units"])
        elif kind == "reshape":
            shape = tuple(rng.choice([(*shape, 1), (1, *shape), shape[::-1]]))
            entry["shape"] = list(shape)
        elif kind == "flatten":
            shape = (int(np.prod(shape)),)
        elif kind == "leaky_relu":
            entry["negative_slope"] = rng.uniform(-0.5, 0.9)
        elif kind == "gelu":
            entry["approximate"] = rng.choice(["none", "tanh"])
        elif kind == "elu":
            entry["alpha"] = rng.uniform(0.2, 2)
        elif kind == "softplus":
            entry["beta"] = rng.uniform(0.5, 3)
        elif kind == "standardize":
            entry |= {"mean": [rng.uniform(-1, 1) for _ in range(shape[-1])], "std": rng.uniform(0.5, 2)}
        elif kind == "composite":
            entry, shape = random_composite(rng, shape, depth)
        layers.append(entry)
    return layers, shape


def random_composite(rng, shape, depth):
    """Draw a random composite layer for inputs of this shape; return its entry and its output shape."""
    if depth == 0:
        return {"type": "residual", "layers": [{"type": "tanh"}]}, shape
    kind = rng.choice(["sequential", "residual", "concat"])
    if kind == "sequential":
        layers, shape = random_layers(rng, shape, depth - 1)
        return {"type": kind, "layers": layers}, shape
    branches = []
    for _ in range(2):
        layers, output_shape = random_layers(rng, shape, depth - 1)
        layers.append({"type": "flatten"})
        branches.append((layers, int(np.prod(output_shape))))
    if kind == "concat":
        return {"type": kind, "branches": [b for b, _ in branches]}, (branches[0][1] + branches[1][1],)
    units = rng.randint(1, 5)
    sides = [[*layers, {"type": "affine", "units": units}] for layers, _ in branches]
    return {"type": kind, "layers": sides[0], "shortcut": sides[1]}, (units,)


def evaluate(specs, prefix, x, arrays, training):
    """Compute the output of a list of layers with torch; `arrays` holds the tensors by full name."""
    for spec in specs:
        name = f"{prefix}{spec.name}"
        tensors = {n.removeprefix(f"{name}."): t for n, t in arrays.items() if n.startswith(f"{name}.")}
        if spec.type in ACTIVATIONS:
            x = ACTIVATIONS[spec.type](spec, x)
        elif spec.type == "affine":
            x = F.linear(x, tensors["weight"].T, tensors.get("bias"))
        elif spec.type == "prelu":
            x = torch.where(x > 0, x, tensors["slope"] * x)
        elif spec.type == "embedding":
            x = F.embedding(x, tensors["weight"])
        elif spec.type == "standardize":
            x = (x - tensors["mean"]) / tensors["std"]
        elif spec.type == "layer_norm":
            x = F.layer_norm(x, x.shape[-1:], tensors["scale"], tensors["shift"], spec.epsilon)
        elif spec.type == "rms_norm":
            x = F.rms_norm(x, x.shape[-1:], tensors["scale"], spec.epsilon)
        elif spec.type == "batch_norm":
            rows = x.reshape(-1, x.shape[-1])
            running = tensors["running_mean"], tensors["running_var"]
            y = F.batch_norm(rows, *running, tensors["scale"], tensors["shift"], training, spec.momentum, spec.epsilon)
            x = y.reshape(x.shape)
        elif spec.type == "sequential":
            x = evaluate(spec.layers, f"{name}.", x, arrays, training)
        elif spec.type == "residual":
            sides = [evaluate(side, f"{name}.", x, arrays, training) for side in (spec.layers, spec.shortcut)]
            x = sides[0] + sides[1]
        else:
            x = torch.cat([evaluate(b, f"{name}.", x, arrays, training) for b in spec.branches], -1)
    return x


def nearly_equal(ours, theirs):
    return np.allclose(ours, theirs.detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_agree_with_torch(seed):
    rng = random.Random(seed)
    shape = tuple(rng.randint(1, 5) for _ in range(rng.randint(1, 3)))
    if seed % 6:
        layers, _ = random_layers(rng, shape, depth=2)
    else:
        layers, _ = random_layers(rng, (*shape, 3), depth=2)
        layers.insert(0, {"type": "embedding", "vocabulary": 5, "dimension": 3})
    spec = specnet.ModelSpec(input_shape=shape, dtype="float64", seed=seed, layers=layers)
    model = build_sample(spec, seed)
    buffers = {n: torch.tensor(a) for n, a in model.buffers.items()}
    for step, training in enumerate((True, True, False)):
        x = sample_inputs(model, 7, seed=step)
        dy = np.random.default_rng(step).normal(size=(7, *model.output_shape))
        arrays = {n: torch.tensor(a, requires_grad=True) for n, a in model.parameters.items()}
        inputs = torch.tensor(x, requires_grad=x.dtype.kind == "f")
        expected = evaluate(spec.layers, "", inputs, {**arrays, **buffers}, training)
        if expected.requires_grad:
            expected.backward(torch.tensor(dy))
        assert nearly_equal(model.forward(x, training=training), expected), spec.to_json()
        dx = model.backward(dy)
        if dx is not None:
            assert nearly_equal(dx, inputs.grad), spec.to_json()
        for name, tensor in arrays.items():
            gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            assert nearly_equal(model.gradients[name], gradient), name
        for name, tensor in buffers.items():
            if not name.endswith("count"):
                assert nearly_equal(model.buffers[name], tensor), name
    assert nearly_equal(model.predict(x), expected)
