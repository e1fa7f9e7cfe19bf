"""Time and memory of networks with convolutions, training steps and predictions, compared with others and the floor.

    python tests/benchmarks/images.py [--rounds 5] [--one-core] [--only LeNet] [--json FILE]

The floor is the matrix products alone, computed by numpy in blocks that stay in the cache: windows that are already
unfolded, forward and for both gradients. All contenders start from the same weights and data, and their losses in the
first steps, or their predictions, must agree. A step is forward, softmax cross-entropy, backward, Adam; the separable
block has a mean square of its outputs as loss, and no Adam. ONNX Runtime only predicts, from a file of specnet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from contest import Measurement, main, measured, timed
from peers import jax_adam, jax_cross_entropy, onnx_session

RATE = 0.001


def conv(filters: int, size: int, **keys: Any) -> dict[str, Any]:
    return {"type": "conv2d", "filters": filters, "kernel_size": size, "padding": "same", **keys}


RELU, POOL = {"type": "relu"}, {"type": "max_pool2d"}
NORM = {"type": "batch_norm"}


def dense(*widths: int) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = [{"type": "flatten"}]
    for units in widths:
        layers += [{"type": "affine", "units": units}, RELU]
    return layers[:-1]


LENET = [conv(6, 5), RELU, POOL, conv(16, 5, padding="valid"), RELU, POOL, *dense(120, 84, 10)]
CIFAR = [
    *[part for filters in (32, 32) for part in (conv(filters, 3, bias=False), NORM, RELU)],
    POOL,
    *[part for filters in (64, 64) for part in (conv(filters, 3, bias=False), NORM, RELU)],
    POOL,
    *dense(128, 10),
]
SEQUENCES = [
    *[{"type": "conv1d", "filters": 64, "kernel_size": 5, "padding": "same"}, RELU] * 2,
    {"type": "global_average_pool"},
    {"type": "affine", "units": 6},
]
SEPARABLE = [conv(32, 3, groups=32, bias=False), NORM, RELU, conv(64, 1, bias=False), NORM, RELU]
NETWORKS: dict[str, tuple[tuple[int, ...], list[dict[str, Any]], int, int]] = {
    "LeNet 28x28, batch 32": ((28, 28, 1), LENET, 32, 60),
    "LeNet 28x28, batch 128": ((28, 28, 1), LENET, 128, 20),
    "CIFAR-like 32x32x3, batch 64": ((32, 32, 3), CIFAR, 64, 3),
    "1-D 128x9, batch 64": ((128, 9), SEQUENCES, 64, 15),
    "separable block 32x32x32, batch 64": ((32, 32, 32), SEPARABLE, 64, 5),
    "predict one image, LeNet": ((28, 28, 1), LENET, 1, 1000),
    "predict one image, CIFAR-like": ((32, 32, 3), CIFAR, 1, 100),
}


def is_block(network: str) -> bool:
    """Return whether the network is a block in the middle of one: its loss is the mean square of its outputs."""
    return network.startswith("separable")


def is_prediction(network: str) -> bool:
    return network.startswith("predict")


def inputs(network: str) -> tuple[np.ndarray, np.ndarray]:
    shape, layers, batch, _ = NETWORKS[network]
    rng = np.random.default_rng(0)
    classes = layers[-1].get("units", 1)
    return rng.normal(size=(batch, *shape)).astype("f4"), rng.integers(0, classes, batch)


def model_of(network: str) -> Any:
    import specnet

    shape, layers, _, _ = NETWORKS[network]
    return specnet.build(specnet.ModelSpec(input_shape=shape, layers=layers, seed=1))


Step = Callable[[bool], Any]
"""Computes a step, and returns its loss if the argument is true; or predicts, and returns the outputs."""


def contender(make: Callable[[str], Step]) -> Callable[[str], Measurement]:
    """Return a contender that times the step built by `make`."""

    def measure(network: str) -> Measurement:
        return measured(make(network), NETWORKS[network][3])

    return measure


def floor(network: str) -> Measurement:
    """Multiply matrices of the sizes of the unfolded windows, in blocks of half a megabyte."""
    _, layers, batch, count = NETWORKS[network]
    rng = np.random.default_rng(0)
    shape, products = NETWORKS[network][0], []
    for layer, plan in zip(layers, model_of(network).plan.layers, strict=True):
        if "weight" in plan.parameters:
            *kernel, channels, filters = plan.parameters["weight"]
            inner = int(np.prod(kernel)) * channels
            rows = batch * int(np.prod(plan.output_shape[:-1]))
            if layer.get("groups", 1) == 1:
                products.append((rows, inner, filters, shape != NETWORKS[network][0]))
        shape = plan.output_shape
    calls: list[Callable[[], object]] = []
    for rows, inner, filters, needs_dx in products:
        block = min(rows, max(128 * 1024 // inner, 1))
        a, w, dy = (rng.normal(size=size).astype("f4") for size in ((block, inner), (inner, filters), (block, filters)))
        y, dw, dx = np.empty_like(dy), np.empty_like(w), np.empty_like(a)

        def multiply(a=a, w=w, dy=dy, y=y, dw=dw, dx=dx, times=rows / block, needs_dx=needs_dx) -> None:  # type: ignore[no-untyped-def]
            for _ in range(round(times)):
                np.matmul(a, w, y)
                if is_prediction(network):
                    continue
                np.matmul(a.T, dy, dw)
                if needs_dx:
                    np.matmul(dy, w.T, dx)

        calls.append(multiply)
    return {"time": timed(lambda: [call() for call in calls], count)}


def specnet(network: str) -> Step:
    from specnet.training.losses import SoftmaxCrossEntropy
    from specnet.training.optimizers import Adam

    model = model_of(network)
    x, y = inputs(network)
    if is_prediction(network):
        return lambda _needs_loss: model.predict(x)
    loss, optimizer = SoftmaxCrossEntropy(), Adam(model, RATE)

    def step(_needs_loss: bool) -> float:
        value, dy = loss(model.forward(x, training=True), y)
        model.backward(dy, input_gradient=False)
        optimizer.step()
        return float(value)

    def block(needs_loss: bool) -> float:
        out = model.forward(x, training=True)
        model.backward(np.multiply(out, 2 / out.size))
        return float((out * out).mean()) if needs_loss else 0.0

    return block if is_block(network) else step


def torch_modules(network: str, model: Any) -> list[Any]:
    import torch

    nn = torch.nn
    shape, layers, _, _ = NETWORKS[network]
    modules: list[Any] = []
    channels, flat = shape[-1], None
    for layer, plan in zip(layers, model.plan.layers, strict=True):
        kind, arrays = layer["type"], {n: model.parameters[f"{plan.name}.{n}"] for n in plan.parameters}
        if kind in ("conv1d", "conv2d"):
            make = nn.Conv1d if kind == "conv1d" else nn.Conv2d
            keys = {"padding": layer["padding"], "groups": layer.get("groups", 1), "bias": "bias" in arrays}
            modules.append(make(channels, layer["filters"], layer["kernel_size"], **keys))
            order = (2, 1, 0) if kind == "conv1d" else (3, 2, 0, 1)
            modules[-1].weight.data[...] = torch.tensor(np.ascontiguousarray(arrays["weight"].transpose(order)))
            channels = layer["filters"]
        elif kind == "affine":
            weight = arrays["weight"]
            if flat is not None:  # torch flattens channels first
                weight = weight.reshape(*flat, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
            modules.append(nn.Linear(*weight.shape))
            modules[-1].weight.data[...] = torch.tensor(np.ascontiguousarray(weight.T))
            flat = None
        elif kind == "flatten":
            flat = plan.input_shape
            modules.append(nn.Flatten())
        elif kind == "global_average_pool":
            modules += [nn.AdaptiveAvgPool1d(1), nn.Flatten()]
        else:
            norm = nn.BatchNorm2d(channels)
            modules.append({"relu": nn.ReLU(), "max_pool2d": nn.MaxPool2d(2), "batch_norm": norm}[kind])
        if "bias" in arrays and kind != "batch_norm":
            modules[-1].bias.data.zero_()
    return modules


def torch(network: str, *, channels_last: bool) -> Step:
    import torch

    nn = torch.nn
    x, y = inputs(network)
    net = nn.Sequential(*torch_modules(network, model_of(network)))
    images, classes = torch.tensor(np.moveaxis(x, -1, 1).copy()), torch.tensor(y)
    if channels_last and x.ndim == 4:
        net, images = net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    if is_prediction(network):
        net.eval()

        def predict(_needs_loss: bool) -> np.ndarray:
            with torch.inference_mode():
                return net(images).numpy()

        return predict
    loss, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(net.parameters(), RATE, fused=True)
    images.requires_grad_(is_block(network))

    def step(needs_loss: bool) -> float:
        optimizer.zero_grad()
        result = loss(net(images), classes)
        result.backward()
        optimizer.step()
        return result.item() if needs_loss else 0.0

    def block(needs_loss: bool) -> float:
        net.zero_grad()
        result = net(images).square().mean()
        result.backward()
        return result.item() if needs_loss else 0.0

    return block if is_block(network) else step


def jax_outputs(network: str, model: Any, parameters: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    for layer, plan in zip(NETWORKS[network][1], model.plan.layers, strict=True):
        kind, name = layer["type"], plan.name
        if kind in ("conv1d", "conv2d"):
            axes = ("NWC", "WIO", "NWC") if kind == "conv1d" else ("NHWC", "HWIO", "NHWC")
            strides = (1,) * (x.ndim - 2)
            x = jax.lax.conv_general_dilated(
                x,
                parameters[f"{name}.weight"],
                strides,
                layer["padding"].upper(),
                dimension_numbers=axes,
                feature_group_count=layer.get("groups", 1),
            )
        elif kind == "affine":
            x = x @ parameters[f"{name}.weight"]
        elif kind == "flatten":
            x = x.reshape(len(x), -1)
        elif kind == "global_average_pool":
            x = x.mean(axis=1)
        elif kind == "relu":
            x = jnp.maximum(x, 0)
        elif kind == "max_pool2d":
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        else:
            axes = tuple(range(x.ndim - 1))
            mean, variance = (0, 1) if is_prediction(network) else (x.mean(axes), x.var(axes))
            x = (x - mean) / jnp.sqrt(variance + 1e-5)
            x = x * parameters[f"{name}.scale"] + parameters[f"{name}.shift"]
        if f"{name}.bias" in parameters:
            x = x + parameters[f"{name}.bias"]
    return x


def jax(network: str) -> Step:
    import jax
    import jax.numpy as jnp

    model, x, y = model_of(network), *inputs(network)
    x, y = jnp.asarray(x), jnp.asarray(y)
    parameters = {name: jnp.asarray(array) for name, array in model.parameters.items()}

    apply = partial(jax_outputs, network, model)
    if is_prediction(network):
        compute = jax.jit(apply)
        return lambda _needs_loss: np.asarray(compute(parameters, x))

    def loss_of(parameters: Any) -> Any:
        return jax_cross_entropy(apply(parameters, x), y)

    if not is_block(network):
        return jax_adam(loss_of, parameters, RATE)
    gradients = jax.jit(jax.value_and_grad(lambda p, x: (apply(p, x) ** 2).mean(), argnums=(0, 1)))

    def block(needs_loss: bool) -> float:
        loss, found = gradients(parameters, x)
        jax.block_until_ready(found)
        return float(loss) if needs_loss else 0.0

    return block


def keras(network: str) -> Step:
    import keras

    shape, layers, _, _ = NETWORKS[network]
    model, x, y = model_of(network), *inputs(network)
    built: list[Any] = [keras.Input(shape)]
    for layer, plan in zip(layers, model.plan.layers, strict=True):
        kind = layer["type"]
        if kind in ("conv1d", "conv2d"):
            make = keras.layers.Conv1D if kind == "conv1d" else keras.layers.Conv2D
            built.append(
                make(
                    layer["filters"], layer["kernel_size"], padding=layer["padding"], use_bias="bias" in plan.parameters
                )
            )
        else:
            built.append(
                {
                    "affine": partial(keras.layers.Dense, layer.get("units")),
                    "relu": keras.layers.ReLU,
                    "flatten": keras.layers.Flatten,
                    "max_pool2d": keras.layers.MaxPooling2D,
                    "global_average_pool": keras.layers.GlobalAveragePooling1D,
                    "batch_norm": lambda: keras.layers.BatchNormalization(epsilon=1e-5),
                }[kind]()
            )
    net = keras.Sequential(built)
    for layer, plan in zip(net.layers, model.plan.layers, strict=True):
        if "weight" in plan.parameters:
            layer.set_weights([model.parameters[f"{plan.name}.{name}"] for name in plan.parameters])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(RATE, epsilon=1e-8), loss)
    return lambda _needs_loss: float(net.train_on_batch(x, y))


def onnx_runtime(network: str) -> Step:
    from specnet.interop.exporting import export

    with tempfile.TemporaryDirectory() as folder:
        export(f"{folder}/model.onnx", model_of(network))
        session = onnx_session(f"{folder}/model.onnx")
    x, name = inputs(network)[0], session.get_inputs()[0].name
    return lambda _needs_loss: session.run(None, {name: x})[0]


if __name__ == "__main__":
    main(
        __file__,
        __doc__ or "",
        list(NETWORKS),
        {
            "floor": floor,
            "specnet": contender(specnet),
            "specnet, numpy": contender(specnet),
            "torch": contender(lambda network: torch(network, channels_last=False)),
            "torch, cl": contender(lambda network: torch(network, channels_last=True)),
            "jax": contender(jax),
            "keras": lambda network: None if is_block(network) or is_prediction(network) else contender(keras)(network),
            "onnxruntime": lambda network: contender(onnx_runtime)(network) if is_prediction(network) else None,
        },
        rtol=0.02,
    )
