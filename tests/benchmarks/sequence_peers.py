"""The recurrent layers and the attention block of sequences.py in other libraries.

Each function takes a case, its weights by specnet's names, and its data, and returns a step, or None if its library has
no part in the case.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from peers import jax_adam, jax_cross_entropy, onnx_session

CLASSES, HEADS = 10, 4
RATE = 0.001
Arrays = dict[str, Any]


class Case(NamedTuple):
    layer: str  # "lstm", "gru" or "attention"
    units: int
    features: int
    batch: int
    count: int  # calls a burst
    task: str = "train"  # "train", "block" (a mean square, no Adam), "predict" or "step"


Step = Callable[[bool], Any]
"""Computes a step; if the argument is true, returns the loss (and of a block the size of ∂loss/∂x), or the outputs."""


def of_layer(arrays: Arrays, layer: str) -> Arrays:
    """Return the arrays of one layer, by their names in it."""
    return {name.removeprefix(f"{layer}."): array for name, array in arrays.items() if name.startswith(f"{layer}.")}


def biases(case: Case, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return the two biases of other libraries: one is added to the product of x, one to the product of the state."""
    recurrent = np.zeros_like(arrays["bias"])
    if case.layer == "gru":
        recurrent[-case.units :] = arrays["recurrent_bias"]
    return arrays["bias"], recurrent


def in_order(array: np.ndarray, gates: tuple[int, ...]) -> np.ndarray:
    """Return the columns of an array with the gates in another order."""
    return np.concatenate([np.split(array, len(gates), axis=-1)[gate] for gate in gates], axis=-1)


def torch(case: Case, arrays: Arrays, x: Any, y: Any) -> Step:
    import torch

    x, y = torch.tensor(x), torch.tensor(y)
    if case.task == "block":
        return torch_block(arrays, x)
    layer = of_layer(arrays, f"{case.layer}_1")
    net = getattr(torch.nn, case.layer.upper())(case.features, case.units, batch_first=True)
    values = [layer["weight"].T, layer["recurrent_weight"].T, *biases(case, layer)]
    for parameter, value in zip(net.parameters(), values, strict=True):
        parameter.data[...] = torch.tensor(value)
    rows, state = cycle(x.split(1, dim=1)), None

    def last_state(x: Any) -> Any:
        _, state = net(x)
        return (state[0] if case.layer == "lstm" else state)[0]

    def predict(_needs_loss: bool) -> np.ndarray:
        with torch.inference_mode():
            return last_state(x).numpy()

    def take_step(_needs_loss: bool) -> np.ndarray:
        nonlocal state
        with torch.inference_mode():
            outputs, state = net(next(rows), state)
            return outputs.numpy()

    if case.task != "train":
        return predict if case.task == "predict" else take_step
    head = torch.nn.Linear(case.units, CLASSES)
    head.weight.data[...] = torch.tensor(arrays["affine_1.weight"].T)
    head.bias.data[...] = torch.tensor(arrays["affine_1.bias"])
    if case.layer == "lstm":  # both biases would learn the same
        net.bias_hh_l0.requires_grad_(False)
    else:
        learns = torch.tensor(np.repeat([0.0, 0.0, 1.0], case.units).astype("f4"))
        net.bias_hh_l0.register_hook(lambda gradient: gradient * learns)
    trained = [parameter for parameter in (*net.parameters(), *head.parameters()) if parameter.requires_grad]
    loss, optimizer = torch.nn.CrossEntropyLoss(), torch.optim.Adam(trained, RATE, fused=True)

    def step(needs_loss: bool) -> float:
        optimizer.zero_grad()
        result = loss(head(last_state(x)), y)
        result.backward()
        optimizer.step()
        return result.item() if needs_loss else 0.0

    return step


def torch_block(arrays: Arrays, x: Any) -> Step:
    import torch

    linear, layer_norm = torch.nn.functional.linear, torch.nn.functional.layer_norm
    joined = dict(arrays)  # one product for queries, keys and values
    for end in ("", "_bias"):
        parts = [joined.pop(f"residual_1.attention_1.{name}{end}") for name in ("query", "key", "value")]
        joined[f"residual_1.joined{end}"] = np.hstack(parts)
    p = {name: torch.tensor(np.ascontiguousarray(array.T), requires_grad=True) for name, array in joined.items()}
    first, second = of_layer(p, "residual_1"), of_layer(p, "residual_2")
    x.requires_grad_()

    def apply() -> Any:
        h = layer_norm(x, x.shape[-1:], first["layer_norm_1.scale"], first["layer_norm_1.shift"])
        h = linear(h, first["joined"], first["joined_bias"]).view(*x.shape[:2], 3, HEADS, -1)
        h = torch.nn.functional.scaled_dot_product_attention(*h.permute(2, 0, 3, 1, 4))
        h = h.transpose(1, 2).reshape(x.shape)
        h = x + linear(h, first["attention_1.output"], first["attention_1.output_bias"])
        hidden = layer_norm(h, x.shape[-1:], second["layer_norm_1.scale"], second["layer_norm_1.shift"])
        hidden = linear(hidden, second["affine_1.weight"], second["affine_1.bias"]).relu()
        return h + linear(hidden, second["affine_2.weight"], second["affine_2.bias"])

    def block(needs_loss: bool) -> Any:
        result = apply().square().mean()
        dx, *_ = torch.autograd.grad(result, [x, *p.values()])
        return [result.item(), dx.abs().sum().item()] if needs_loss else None

    return block


def jax_block(p: Arrays, x: Any) -> Any:
    import jax

    def norm(x: Any, scale: Any, shift: Any) -> Any:
        return jax.nn.standardize(x, epsilon=1e-5) * scale + shift

    first, second = of_layer(p, "residual_1"), of_layer(p, "residual_2")
    attention = of_layer(first, "attention_1")
    h = norm(x, first["layer_norm_1.scale"], first["layer_norm_1.shift"])
    maps = [h @ attention[name] + attention[f"{name}_bias"] for name in ("query", "key", "value")]
    h = jax.nn.dot_product_attention(*(y.reshape(*x.shape[:2], HEADS, -1) for y in maps)).reshape(x.shape)
    h = x + h @ attention["output"] + attention["output_bias"]
    hidden = norm(h, second["layer_norm_1.scale"], second["layer_norm_1.shift"])
    hidden = jax.nn.relu(hidden @ second["affine_1.weight"] + second["affine_1.bias"])
    return h + hidden @ second["affine_2.weight"] + second["affine_2.bias"]


def jax_scan(case: Case, p: Arrays, x: Any, state: Any) -> Any:
    """Return the state after all steps of x; its first array is the output."""
    import jax
    import jax.numpy as jnp

    sigmoid = jax.nn.sigmoid

    def lstm(state: Any, inputs: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(inputs + h @ p["recurrent_weight"], 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return (sigmoid(o) * jnp.tanh(c), c), None

    def gru(state: Any, inputs: Any) -> Any:
        (h,), parts = state, jnp.split(inputs, 3, axis=-1)
        of_state = jnp.split(h @ p["recurrent_weight"], 3, axis=-1)
        r, z = (sigmoid(a + b) for a, b in zip(parts[:2], of_state[:2], strict=True))
        n = jnp.tanh(parts[2] + r * (of_state[2] + p["recurrent_bias"]))
        return ((1 - z) * n + z * h,), None

    step = lstm if case.layer == "lstm" else gru
    return jax.lax.scan(step, state, x.swapaxes(0, 1) @ p["weight"] + p["bias"])[0]


def jax(case: Case, arrays: Arrays, x: Any, y: Any) -> Step:
    import jax
    import jax.numpy as jnp

    rows = cycle(np.split(x, x.shape[1], axis=1))
    x, y, p = jnp.asarray(x), jnp.asarray(y), {name: jnp.asarray(array) for name, array in arrays.items()}
    if case.task == "block":
        gradients = jax.jit(jax.value_and_grad(lambda p, x: (jax_block(p, x) ** 2).mean(), argnums=(0, 1)))

        def block(needs_loss: bool) -> Any:
            loss, found = jax.block_until_ready(gradients(p, x))
            return [float(loss), float(jnp.abs(found[1]).sum())] if needs_loss else None

        return block
    start = (jnp.zeros((case.batch, case.units)),) * (2 if case.layer == "lstm" else 1)

    def scan(p: Arrays, x: Any, state: Any) -> Any:
        return jax_scan(case, of_layer(p, f"{case.layer}_1"), x, state)

    compiled, state = jax.jit(scan), start

    def take_step(_needs_loss: bool) -> np.ndarray:
        nonlocal state
        state = compiled(p, next(rows), state)
        return np.asarray(state[0])

    if case.task != "train":
        return take_step if case.task == "step" else lambda _needs_loss: np.asarray(compiled(p, x, start)[0])

    def loss_of(p: Arrays) -> Any:
        return jax_cross_entropy(scan(p, x, start)[0] @ p["affine_1.weight"] + p["affine_1.bias"], y)

    return jax_adam(loss_of, p, RATE)


def keras(case: Case, arrays: Arrays, x: Any, y: Any) -> Step | None:
    if case.task != "train":
        return None
    import keras

    layer = of_layer(arrays, f"{case.layer}_1")
    weights = [layer["weight"], layer["recurrent_weight"], layer["bias"]]
    if case.layer == "gru":
        weights = [in_order(array, (1, 0, 2)) for array in (*weights[:2], np.stack(biases(case, layer)))]
    recurrent = keras.layers.LSTM(case.units) if case.layer == "lstm" else keras.layers.GRU(case.units)
    head = keras.layers.Dense(CLASSES)
    net = keras.Sequential([keras.Input(x.shape[1:]), recurrent, head])
    recurrent.set_weights(weights)
    head.set_weights([arrays["affine_1.weight"], arrays["affine_1.bias"]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(RATE, epsilon=1e-8), loss)
    return lambda _needs_loss: float(net.train_on_batch(x, y))


def onnx_runtime(case: Case, arrays: Arrays, x: Any, y: Any) -> Step | None:
    if case.task in ("train", "block"):
        return None
    from onnx import TensorProto, helper, numpy_helper

    layer, steps = of_layer(arrays, f"{case.layer}_1"), 1 if case.task == "step" else x.shape[1]
    order, keys = ((0, 3, 1, 2), {}) if case.layer == "lstm" else ((1, 0, 2), {"linear_before_reset": 1})
    matrices = [in_order(layer[name], order).T for name in ("weight", "recurrent_weight")]
    both = np.hstack([in_order(bias, order) for bias in biases(case, layer)])
    constants = [
        numpy_helper.from_array(array[np.newaxis].copy(), name)
        for name, array in zip("wrb", (*matrices, both), strict=True)
    ]
    states = ("h", "c") if case.task == "step" else ()
    outputs = ("new_h", "new_c") if case.task == "step" else ("new_h",)
    node = helper.make_node(
        case.layer.upper(), ["x", *"wrb", "", *states], ["", *outputs], hidden_size=case.units, **keys
    )

    def arguments(names: tuple[str, ...], *shape: int) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]

    x_info, shape = arguments(("x",), steps, 1, case.features), (1, 1, case.units)
    graph = helper.make_graph(
        [node], "network", x_info + arguments(states, *shape), arguments(outputs, *shape), constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnx_session(model.SerializeToString())
    x = x.swapaxes(0, 1).copy()  # ONNX takes the time first
    if not states:
        return lambda _needs_loss: session.run(None, {"x": x})[0]
    rows, state = cycle(np.split(x, len(x))), [np.zeros(shape, "f4")] * 2

    def take_step(_needs_loss: bool) -> np.ndarray:
        nonlocal state
        state = session.run(None, {"x": next(rows), "h": state[0], "c": state[1]})
        return state[0]

    return take_step
