"""Time of prediction, compared with ONNX Runtime, torch and JAX, and with the matrix products alone (the floor).

    python tests/benchmarks/predict.py [--rounds 5] [--one-core] [--only 64] [--json FILE]

All contenders predict with the same weights, and their predictions must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from contest import Measurement, main, timed
from peers import onnx_session

NETWORKS = {
    "64-32-10, 1 row": ([64, 32, 10], 1, 5000),
    "784-512-512-10, 1 row": ([784, 512, 512, 10], 1, 2000),
    "784-512-512-10, 4096 rows": ([784, 512, 512, 10], 4096, 10),
}


def inputs(widths: list[int], rows: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, (2 / a) ** 0.5, (a, b)).astype("f4") for a, b in pairwise(widths)]
    return weights, rng.uniform(size=(rows, widths[0])).astype("f4")


def contender(make: Callable[[list[np.ndarray], np.ndarray], Callable[[], np.ndarray]]) -> Callable[[str], Measurement]:
    def measure(network: str) -> Measurement:
        widths, rows, count = NETWORKS[network]
        predict = make(*inputs(widths, rows))
        answer = np.asarray(predict())[0].tolist()
        return {"time": timed(predict, count), "answer": answer}

    return measure


def floor(network: str) -> Measurement:
    widths, rows, count = NETWORKS[network]
    weights, x = inputs(widths, rows)
    outputs = [x, *(np.empty((rows, units), "f4") for units in widths[1:])]
    if rows == 1:  # numpy has a cheaper call for a single row
        outputs = [output[0] for output in outputs]

    def products() -> None:
        for weight, before, after in zip(weights, outputs, outputs[1:], strict=False):
            np.dot(before, weight, after)

    return {"time": timed(products, count)}


def specnet(weights: list[np.ndarray], x: np.ndarray) -> Callable[[], np.ndarray]:
    import specnet

    layers: list[dict[str, object]] = []
    for weight in weights:
        layers += [{"type": "affine", "units": weight.shape[1]}, {"type": "relu"}]
    model = specnet.build(specnet.ModelSpec(input_shape=weights[0].shape[:1], layers=layers[:-1]))
    for index, weight in enumerate(weights, 1):
        model.parameters[f"affine_{index}.weight"][...] = weight
    return lambda: model.predict(x)


def onnx_runtime(weights: list[np.ndarray], x: np.ndarray) -> Callable[[], np.ndarray]:
    from onnx import TensorProto, helper, numpy_helper

    nodes, arrays, name = [], [], "x"
    for index, weight in enumerate(weights):
        arrays += [
            numpy_helper.from_array(weight, f"w{index}"),
            numpy_helper.from_array(np.zeros(weight.shape[1], "f4"), f"b{index}"),
        ]
        nodes.append(helper.make_node("Gemm", [name, f"w{index}", f"b{index}"], [f"z{index}"]))
        nodes.append(helper.make_node("Relu", [f"z{index}"], [f"a{index}"]))
        name = f"a{index}"
    name = f"z{len(weights) - 1}"
    ends = (("x", weights[0].shape[0]), (name, weights[-1].shape[1]))
    graph_input, graph_output = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", width]) for n, width in ends
    )
    graph = helper.make_graph(nodes[:-1], "network", [graph_input], [graph_output], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnx_session(model.SerializeToString())
    return lambda: session.run(None, {"x": x})[0]


def torch(weights: list[np.ndarray], x: np.ndarray) -> Callable[[], np.ndarray]:
    import torch

    modules: list[torch.nn.Module] = []
    for weight in weights:
        linear = torch.nn.Linear(*weight.shape)
        linear.weight.data[...] = torch.tensor(weight.T)
        linear.bias.data.zero_()
        modules += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1])
    x_tensor = torch.tensor(x)

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return model(x_tensor).numpy()

    return predict


def jax(weights: list[np.ndarray], x: np.ndarray) -> Callable[[], np.ndarray]:
    import jax
    import jax.numpy as jnp

    arrays = [jnp.asarray(weight) for weight in weights]
    biases = [jnp.zeros(weight.shape[1]) for weight in weights]

    @jax.jit
    def network(arrays: list[jax.Array], biases: list[jax.Array], out: jax.Array) -> jax.Array:
        for index, (weight, bias) in enumerate(zip(arrays, biases, strict=True)):
            out = out @ weight + bias
            if index < len(arrays) - 1:
                out = jnp.maximum(out, 0)
        return out

    return lambda: np.asarray(network(arrays, biases, x))


if __name__ == "__main__":
    main(
        __file__,
        __doc__ or "",
        list(NETWORKS),
        {
            "floor": floor,
            "specnet": contender(specnet),
            "specnet, numpy": contender(specnet),
            "onnxruntime": contender(onnx_runtime),
            "torch": contender(torch),
            "jax": contender(jax),
        },
    )
