"""Test that operators are read as the operator set of the file defines them, or are refused: no prediction differs."""

import itertools

import numpy as np
import pytest

import specnet
from specnet.interop.importing import import_model
from specnet.interop.onnx.constants import FOLDED
from specnet.interop.onnx.layers import OPERATORS
from specnet.interop.onnx.operator_sets import NEWEST

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
FLOAT = onnx.TensorProto.FLOAT
RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 3)).astype("f4")
SHAPES = ((3,), (3, 3))
"""The shapes of a row: equal sizes hide a wrong axis."""

REVIEWED = {
    "Abs": "1 6 13",
    "Add": "1 6 7 13 14",
    "AveragePool": "1 7 10 11 19 22",
    "BatchNormalization": "1 6 7 9 14 15",
    "Cast": "1 6 9 13 19 21 23 24 25 28",
    "Concat": "1 4 11 13",
    "Constant": "1 9 11 12 13 19 21 23 24 25",
    "Conv": "1 11 22",
    "ConvTranspose": "1 11 22",
    "Div": "1 6 7 13 14",
    "Dropout": "1 6 7 10 12 13 22",
    "Elu": "1 6 22",
    "Erf": "9 13",
    "Exp": "1 6 13",
    "Flatten": "1 9 11 13 21 23 24 25",
    "Gather": "1 11 13",
    "Gelu": "20",
    "GRU": "1 3 7 14 22",
    "Gemm": "1 6 7 9 11 13",
    "GlobalAveragePool": "1 22",
    "GlobalMaxPool": "1 22",
    "Greater": "1 7 9 13",
    "Identity": "1 13 14 16 19 21 23 24 25",
    "LSTM": "1 7 14 22",
    "LayerNormalization": "17",
    "LeakyRelu": "1 6 16",
    "Log": "1 6 13",
    "LogSoftmax": "1 11 13",
    "MatMul": "1 9 13",
    "Max": "1 6 8 12 13",
    "MaxPool": "1 8 10 11 12 22",
    "Min": "1 6 8 12 13",
    "Mish": "18 22",
    "Mul": "1 6 7 13 14",
    "Neg": "1 6 13",
    "PRelu": "1 6 7 9 16",
    "Pad": "1 2 11 13 18 19 21 23 24 25",
    "Pow": "1 7 12 13 15",
    "RMSNormalization": "23",
    "RNN": "1 7 14 22",
    "ReduceMax": "1 11 12 13 18 20",
    "ReduceMean": "1 11 13 18",
    "Relu": "1 6 13 14",
    "Reshape": "1 5 13 14 19 21 23 24 25",
    "Resize": "10 11 13 18 19",
    "Selu": "1 6 22",
    "Sigmoid": "1 6 13",
    "Slice": "1 10 11 13",
    "Softmax": "1 11 13",
    "Softplus": "1 22",
    "Squeeze": "1 11 13 21 23 24 25",
    "Sub": "1 6 7 13 14",
    "Tanh": "1 6 13",
    "Transpose": "1 13 21 23 24 25",
    "Where": "9 16",
}
"""The versions of each operator that its reader takes into account."""


def test_every_version_of_an_operator_was_reviewed():
    """Check that a higher NEWEST comes with a look at the definitions that changed."""
    read = {*OPERATORS, *FOLDED, "Constant"} - {"layer", "attention"}
    versions = {operator: set() for operator in read}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in read and schema.since_version <= NEWEST:
            versions[schema.name].add(schema.since_version)
    assert versions.keys() == REVIEWED.keys()
    for operator, found in versions.items():
        assert found <= {int(version) for version in REVIEWED[operator].split()}, operator


def arrays(*shapes, low=0.5):
    """Return arrays of positive numbers, which std, variances and slopes can be."""
    return [RNG.uniform(low, 2, shape).astype("f4") for shape in shapes]


def operands():
    """Return (constants, position of the value) of two-operand nodes."""
    shapes = ((), (1,), (3,), (1, 3), (3, 1), (3, 3), (1, 1, 1, 1))
    return [(arrays(shape), position) for shape in shapes for position in (0, 1)]


def variants():
    """Return all cases: operator, attributes, constants, position of the value, number of outputs."""
    broadcasts = [{}, {"broadcast": 1}, *({"broadcast": 1, "axis": axis} for axis in (-1, 0, 1, 2))]
    for operator in ("Add", "Sub", "Div", "Mul", "Pow", "Max", "Min", "PRelu"):
        for (constants, position), attributes in itertools.product(operands(), broadcasts):
            yield operator, attributes, constants, position, 1
    axes = [{}, *({"axis": axis} for axis in (-2, -1, 0, 1, 2))]
    for operator in ("Softmax", "LogSoftmax", "Flatten", "Concat"):
        yield from ((operator, attributes, [], 0, 1) for attributes in axes)
    for attributes in ({}, {"alpha": 0.3}, {"alpha": 1.7}, {"gamma": 1.1}, {"alpha": 1.6732632, "gamma": 1.0507}):
        yield from ((operator, attributes, [], 0, 1) for operator in ("Elu", "LeakyRelu", "Selu"))
    for operator in ("Relu", "Sigmoid", "Tanh", "Softplus", "Gelu", "Mish", "Identity", "Abs", "Neg", "Erf", "Exp"):
        yield operator, {}, [], 0, 1
        yield operator, {"consumed_inputs": [0]}, [], 0, 1
    yield "Gelu", {"approximate": "tanh"}, [], 0, 1
    statistics = arrays((3,), (3,), (3,), (3,))
    flags = [{}, *({name: value} for name in ("is_test", "spatial", "training_mode") for value in (0, 1))]
    flags += [{"is_test": 1, "spatial": spatial} for spatial in (0, 1)] + [{"epsilon": 0.1, "momentum": 0.5}]
    for attributes, position, outputs in itertools.product(flags, (0, 1, 3), (1, 3)):
        yield "BatchNormalization", attributes, statistics, position, outputs
        yield "BatchNormalization", {**attributes, "consumed_inputs": [0]}, statistics, position, outputs
    for attributes, outputs in itertools.product([*flags, {"ratio": 0.3}, {"ratio": 0.3, "is_test": 1}], (1, 2)):
        yield "Dropout", attributes, [], 0, outputs
    for training in (False, True):
        yield "Dropout", {}, [np.float32(0.3), np.bool_(training)], 0, 1
    yield from gemms()
    for attributes, shape in itertools.product([{}, {"axis": 1}, {"axis": -1}, {"epsilon": 0.1}], ((3,), (1,), (3, 3))):
        yield from (("LayerNormalization", attributes, arrays(*[shape] * n), 0, 1) for n in (1, 2))
        yield "RMSNormalization", attributes, arrays(shape), 0, 1
    for shape, attributes in itertools.product(
        ([-1, 3], [0, -1], [0, 3, 1], [-1, 9], [4, -1], [3, -1], [0, 0]), ({}, {"allowzero": 0}, {"allowzero": 1})
    ):
        yield "Reshape", attributes, [np.array(shape)], 0, 1
    yield "Reshape", {"shape": [0, -1]}, [], 0, 1
    for to in (1, 6, 7, 9, 10, 11, "FLOAT", "DOUBLE", "INT32"):
        yield "Cast", {"to": to}, [], 0, 1


def gemms():
    """Return cases of Gemm and MatMul."""
    for shapes in ([(3, 3)], [(3, 3), ()], [(3, 3), (3,)], [(3, 3), (1, 3)], [(3, 3), (3, 1)], [(3, 3), (4, 3)]):
        for attributes in ({}, {"broadcast": 1}, {"broadcast": 0}, {"transB": 1}, {"transA": 1}, {"alpha": 0.5}):
            yield "Gemm", attributes, arrays(*shapes), 0, 1
            yield "Gemm", {**attributes, "broadcast": 1}, arrays(*shapes), 0, 1
        yield "Gemm", {"beta": 0.5}, arrays(*shapes), 0, 1
        yield "Gemm", {}, arrays(*shapes), 1, 1
    yield from (("MatMul", {}, arrays(shape), position, 1) for shape in ((3, 3), (3,)) for position in (0, 1))


def model_of(case, version, shape, batch="n"):
    """Return the model x @ W, then the operator of a case, then a Relu."""
    operator, attributes, constants, position, outputs = case
    names = [f"c{index}" for index in range(len(constants))]
    node = onnx.helper.make_node
    nodes = [
        node("MatMul", ["x", "W"], ["h"]),
        node(operator, [*names[:position], "h", *names[position:]], [f"o{n}" for n in range(outputs)], **attributes),
        node("LeakyRelu", ["o0"], ["y"], alpha=0.5),
    ]
    value = onnx.helper.make_tensor_value_info
    values = {"W": W, **dict(zip(names, constants, strict=True))}
    initializers = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in values.items()]
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", FLOAT, [batch, *shape])], [value("y", FLOAT, None)], initializers
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)


def expected_outputs(model, case, x):
    """Return what ONNX Runtime computes, from the model or its conversion to a newer operator set; else the reference.

    Returns None if none of them runs the model.
    """
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from onnx import version_converter
    from onnx.reference import ReferenceEvaluator

    options = runtime.SessionOptions()
    options.log_severity_level = 4
    version = model.opset_import[0].version

    def in_runtime(form):
        session = runtime.InferenceSession(form.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(["y"], {"x": x})[0]

    for run in (
        lambda: in_runtime(model) if version >= 7 else None,
        lambda: in_runtime(version_converter.convert_version(model, 13)) if version < 13 else None,
        lambda: ReferenceEvaluator(model).run(["y"], {"x": x})[0] if version >= 13 else None,
        lambda: from_numpy(case, version, x),
    ):
        try:
            outputs = run()
        except Exception:  # noqa: BLE001 - the next one may run it
            continue
        if outputs is not None:
            return outputs
    return None


def from_numpy(case, version, x):
    """Return the outputs of the old operators that neither the runtime nor the converter knows; None for others."""
    operator, attributes, constants, position, _ = case
    h = x @ W
    if operator in ("Add", "Sub", "Div") and version < 7 and position == 0 and attributes.get("broadcast"):
        axis = attributes.get("axis", h.ndim - constants[0].ndim)
        operand = constants[0].reshape(constants[0].shape + (1,) * (h.ndim - axis - constants[0].ndim))
        o = {"Add": np.add, "Sub": np.subtract, "Div": np.divide}[operator](h, operand)
    elif operator == "PRelu" and version < 7 and position == 0:
        slope = constants[0].reshape(-1)
        o = np.where(h > 0, h, h * (slope if slope.size == 1 else slope.reshape(-1, *[1] * (h.ndim - 2))))
    elif operator == "BatchNormalization" and position == 0 and attributes.get("is_test"):
        scale, shift, mean, variance = constants
        o = (h - mean) / np.sqrt(variance + np.float32(attributes.get("epsilon", 1e-5))) * scale + shift
    elif operator == "Gemm" and position == 0 and attributes.keys() <= {"broadcast", "transB"}:
        o = h @ (constants[0].T if attributes.get("transB") else constants[0]) + constants[1]
    elif operator == "Dropout" and attributes.get("is_test"):
        o = h
    elif operator == "Cast":
        o = h.astype({"FLOAT": "f4", 1: "f4"}[attributes["to"]])
    else:
        return None
    return np.where(o > 0, o, o / 2)


def versions_of(operator, full):
    """Return the operator sets that changed an operator, those before them, and the newest; of these, some."""
    changes = {int(version) for version in REVIEWED[operator].split()}
    changes = {version for change in changes for version in (change, change - 1)} - {0} | {6, 7, 12, 13, NEWEST}
    return sorted(changes if full else changes & {6, 7, 14, NEWEST})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operator", sorted({case[0] for case in variants()}))
def test_no_operator_is_read_with_another_meaning(tmp_path, operator, full):
    """Check all cases of an operator in all operator sets that changed something: refused, or the same outputs."""
    imported_count = 0
    path = tmp_path / "m.onnx"
    for case in (case for case in variants() if case[0] == operator):
        for version, shape in itertools.product(versions_of(operator, full), SHAPES):
            model = model_of(case, version, shape)
            path.write_bytes(model.SerializeToString())
            try:
                imported = import_model(path).model
            except specnet.CheckpointError as error:
                assert "\n" not in str(error)
                continue
            imported_count += 1
            x = RNG.normal(size=(4, *shape)).astype("f4")
            expected, outputs = expected_outputs(model, case, x), imported.predict(x)
            place = f"operator set {version}, row {shape}: {case}"
            assert expected is not None, f"was imported, but nothing else runs it: {place}"
            assert outputs.shape == expected.shape, place
            assert np.abs(outputs - expected).max() < 1e-5, place
    known_only_within_others = ("Abs", "Erf", "Exp", "Max", "Min", "Mul", "Neg", "Pow")
    assert imported_count or operator in known_only_within_others
