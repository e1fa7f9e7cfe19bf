"""Test that spatial operators are read as the operator set of the file defines them, or are refused."""

import itertools

import numpy as np
import pytest

import specnet
from specnet.interop.importing import import_model
from tests.interop.test_onnx_operator_sets import expected_outputs, versions_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
FLOAT = onnx.TensorProto.FLOAT
RNG = np.random.default_rng(0)
SHAPES = ((3, 7), (3, 7, 7), (3, 8, 8))
"""The shapes of a row: equal sizes hide a wrong axis."""
PLACES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def windows(axes):
    """Return attributes that convolutions and pools share."""
    yield {}
    for kernel, stride in itertools.product((1, 2, 3), (1, 2, 3)):
        frame = {"kernel_shape": [kernel] * axes, "strides": [stride] * axes}
        yield frame
        yield {**frame, "pads": [(kernel - 1) // 2] * axes + [kernel // 2] * axes}
        yield {**frame, "pads": [0] * axes + [kernel - 1] * axes}
        yield from ({**frame, "auto_pad": pad} for pad in ("SAME_UPPER", "SAME_LOWER", "VALID"))


def convolutions(operator, axes):
    for frame, groups, dilation in itertools.product(windows(axes), (1, 3), (1, 2)):
        kernel = frame.get("kernel_shape", [2] * axes)
        weight = RNG.normal(size=(3, 3 // groups, *kernel)).astype("f4")
        attributes = {**frame, "group": groups, "dilations": [dilation] * axes}
        yield attributes, [weight], 0, 1
        yield {key: value for key, value in attributes.items() if key != "kernel_shape"}, [weight, weight[:, 0].sum(
            axis=tuple(range(1, axes + 1))) ], 0, 1  # fmt: skip
        if operator == "ConvTranspose":
            yield {**attributes, "output_padding": [1] * axes}, [weight], 0, 1
            yield {**attributes, "output_shape": [9] * axes}, [weight], 0, 1
    yield {}, [weight], 1, 1


def pools(operator, axes):
    for frame in windows(axes):
        yield frame, [], 0, 1
        yield {**frame, "ceil_mode": 1}, [], 0, 1
        if operator == "AveragePool":
            yield {**frame, "count_include_pad": 1}, [], 0, 1
            yield {**frame, "count_include_pad": 1, "ceil_mode": 1}, [], 0, 1
    yield {**frame, "dilations": [2] * axes}, [], 0, 1
    if operator == "MaxPool":
        yield {**frame, "storage_order": 1}, [], 0, 1
        yield frame, [], 0, 2


def resizes(axes):
    for mode, place, rounding in itertools.product(("nearest", "linear", "cubic"), PLACES, ROUNDINGS):
        attributes = {"mode": mode, "coordinate_transformation_mode": place, "nearest_mode": rounding}
        for scale in (1, 2, 3):
            yield attributes, [None, np.array([1, 1] + [scale] * axes, "f4")], 0, 1
    for scales in ([1, 1] + [1.5] * axes, [1, 2] + [1] * axes, [2, 1] + [1] * axes, [2] * axes):
        yield {}, [np.array([], "f4"), np.array(scales, "f4")], 0, 1
        yield {}, [np.array(scales, "f4")], 0, 1
    for size in (7, 14, 16, 21, 20):
        yield {}, [None, None, np.array([4, 3] + [size] * axes)], 0, 1
    last = range(2, axes + 2)
    yield {"axes": [*last]}, [None, np.array([2] * axes, "f4")], 0, 1
    yield {"axes": [*last]}, [None, None, np.array([14] * axes)], 0, 1
    yield {"axes": [1, 2]}, [None, np.array([2, 2], "f4")], 0, 1
    for name, value in (("antialias", 1), ("keep_aspect_ratio_policy", "not_larger"), ("exclude_outside", 1)):
        yield {name: value}, [None, np.array([1, 1] + [2] * axes, "f4")], 0, 1


def pads(axes):
    edges = [0, 0] + [1] * axes + [0, 0] + [2] * axes
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield {"mode": mode, "pads": edges}, [], 0, 1
        yield {"mode": mode, "paddings": edges}, [], 0, 1
        yield {"mode": mode}, [np.array(edges)], 0, 1
    yield {"pads": edges, "value": 1.5}, [], 0, 1
    yield {}, [np.array(edges), np.float32(0)], 0, 1
    yield {}, [np.array(edges), np.float32(1.5)], 0, 1
    yield {}, [np.array([0, 1] + [1] * axes + [0, 0] + [2] * axes)], 0, 1
    yield {}, [np.array([0, 0] + [-1] * axes + [0, 0] + [2] * axes)], 0, 1
    yield {}, [np.array([1] * 2 * axes), None, np.arange(2, axes + 2)], 0, 1
    yield {}, [np.array([1, 2]), np.float32(0), np.array([-1])], 0, 1
    yield {}, [np.array([1, 2]), np.float32(0), np.array([1])], 0, 1


def slices(axes):
    last = [*range(2, axes + 2)]
    for start, end in ((1, 5), (0, 2**31), (-4, -1), (2, -2), (-100, 100), (5, 2)):
        yield {"starts": [start] * axes, "ends": [end] * axes, "axes": last}, [], 0, 1
        numbers = [np.array([start] * axes), np.array([end] * axes), np.array(last)]
        yield {}, numbers, 0, 1
        yield {}, [*numbers, np.array([1] * axes)], 0, 1
        yield {}, [*numbers, np.array([2] * axes)], 0, 1
        yield {}, [*numbers[:2], np.array([-1, -2][:axes])], 0, 1
        yield {}, [np.array([0, 0] + [start] * axes), np.array([9, 9] + [end] * axes)], 0, 1
        yield {}, numbers[:2], 0, 1
    yield {}, [np.array([4, 4]), np.array([1, 1]), np.array([-1, -1]), np.array([-1, -1])], 0, 1


def reductions(axes):
    for keepdims in (0, 1):
        for over in ([*range(2, axes + 2)], [-1, -2][:axes], [2], [1], [0, 1], [*range(1, axes + 1)]):
            yield {"axes": over, "keepdims": keepdims}, [], 0, 1
            yield {"keepdims": keepdims}, [np.array(over)], 0, 1
        yield {"keepdims": keepdims}, [], 0, 1
        yield {"keepdims": keepdims, "noop_with_empty_axes": 1}, [], 0, 1


def transposes(axes):
    yield from (({"perm": list(order)}, [], 0, 1) for order in itertools.permutations(range(axes + 2)))
    yield {}, [], 0, 1


CASES = {
    **{kind: lambda axes, kind=kind: convolutions(kind, axes) for kind in ("Conv", "ConvTranspose")},
    **{kind: lambda axes, kind=kind: pools(kind, axes) for kind in ("AveragePool", "MaxPool")},
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), lambda axes: [({}, [], 0, 1)]),
    **dict.fromkeys(("ReduceMax", "ReduceMean"), reductions),
    "Pad": pads,
    "Resize": resizes,
    "Slice": slices,
    "Transpose": transposes,
}


def model_of(operator, case, version, shape):
    """Return a pointwise convolution, then the operator of a case, then a LeakyRelu."""
    attributes, constants, position, outputs = case
    names = ["" if value is None else f"c{index}" for index, value in enumerate(constants)]
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "W"], ["h"]),
        node(operator, [*names[:position], "h", *names[position:]], [f"o{n}" for n in range(outputs)], **attributes),
        node("LeakyRelu", ["o0"], ["y"], alpha=0.5),
    ]
    value = onnx.helper.make_tensor_value_info
    values = {"W": np.eye(3, dtype="f4").reshape(3, 3, *[1] * (len(shape) - 1)) * 2}
    values |= {name: value for name, value in zip(names, constants, strict=True) if name}
    arrays = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in values.items()]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", FLOAT, ["n", *shape])], [value("y", FLOAT, None)], arrays)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)


def explicit(case, shape):
    """Return a case with auto_pad and dilations as one with pads."""
    attributes, constants, *rest = case
    kernel = constants[0].shape[2:]
    pads = []
    for size, taps, stride, dilation in zip(
        shape[1:], kernel, attributes["strides"], attributes["dilations"], strict=True
    ):
        pads.append(max((-(-size // stride) - 1) * stride + dilation * (taps - 1) + 1 - size, 0))
    lower = attributes["auto_pad"] == "SAME_LOWER"
    halves = [(-(-total // 2), total // 2) if lower else (total // 2, -(-total // 2)) for total in pads]
    before, behind = zip(*halves, strict=True)
    kept = {key: value for key, value in attributes.items() if key != "auto_pad"}
    return {**kept, "pads": [*before, *behind]}, constants, *rest


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operator", CASES)
def test_no_operator_is_read_with_another_meaning(tmp_path, operator, full):
    """Check all cases of an operator in all operator sets that changed something: refused, or the same outputs."""
    imported_count = 0
    path = tmp_path / "m.onnx"
    for shape in SHAPES if full else SHAPES[:2]:
        cases = [*CASES[operator](len(shape) - 1)]
        chosen = np.random.default_rng(1).permutation(len(cases))[: None if full else 60]
        for case in [cases[index] for index in chosen]:
            for version in versions_of(operator, full):
                model = model_of(operator, case, version, shape)
                path.write_bytes(model.SerializeToString())
                try:
                    imported = import_model(path)
                except specnet.CheckpointError as error:
                    assert "\n" not in str(error)
                    continue
                attributes = case[0]
                kernel = attributes.get("kernel_shape", attributes.get("strides", ()))
                if "auto_pad" in attributes and any(s > k for s, k in zip(attributes["strides"], kernel, strict=False)):
                    continue  # the runtime refuses the negative padding that it computes, the reference moves windows
                x = RNG.normal(size=(4, *shape)).astype("f4")
                expected = expected_outputs(model, (operator, *case), x)
                if expected is None and operator == "Conv":  # the runtime has no auto_pad with dilations
                    other = explicit(case, shape)
                    expected = expected_outputs(model_of(operator, other, 13, shape), (operator, *other), x)
                place = f"operator set {version}, row {shape}: {operator} {case}"
                if expected is None and full:  # neither the runtime nor the reference knows every old set
                    continue
                assert expected is not None, f"was imported, but nothing else runs it: {place}"
                imported_count += 1
                outputs = imported.model.predict(np.moveaxis(x, 1, -1))
                if any("an output has the shape" in note for note in imported.notes):
                    outputs = np.moveaxis(outputs, -1, 1)
                assert outputs.shape == expected.shape, place
                assert np.abs(outputs - expected).max() < 1e-6 * max(np.abs(expected).max(), 10), place
    assert imported_count
