"""From the steps of an ONNX graph to layers and their arrays, first to last, shapes in hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import CheckpointError
from specnet.interop.imported_model import Arrays, LayerNames, shape_after, undo_float32_rounding, unsupported
from specnet.interop.onnx import activations as elementwise
from specnet.interop.onnx.steps import Given, NodeRead

Entry = dict[str, Any]


NO_EPSILON = 1e-30
"""For a variance that holds it already: a document has none of 0."""


IGNORED = ("Identity", "Cast")


class _Unsupported(Exception):  # noqa: N818 - becomes the file's error, with the node's name
    """Why a node is no layer."""


class _Reader:
    """Where steps become entries: the layers so far, the shape behind them, arrays by full name."""

    def __init__(self, file: str, given: Given, shape: ShapeTuple, prefix: str, names: LayerNames) -> None:
        self.file = file
        self.given = given
        self.shape = shape
        self.version = given.version
        self.integers = given.integers and shape == given.shape and not prefix
        self.prefix = prefix
        self.names = names
        self.entries: list[Entry] = []
        self.arrays: Arrays = {}
        self.notes: list[str] = []
        self.counts: dict[str, int] = {}

    def add(self, entry: Entry, arrays: Arrays | None = None, source: str = "") -> None:
        """Add a layer; `source` is the name of one of its arrays in the file, "hidden.weight"."""
        kind = entry["type"]
        self.counts[kind] = self.counts.get(kind, 0) + 1
        module = source.rpartition(".")[0].rpartition("/")[2].rpartition(".")[2]
        wanted = module if module and not module.isdecimal() else f"{kind}_{self.counts[kind]}"
        name = self.names(wanted)
        if self.integers and kind != "embedding":
            raise _Unsupported("computes with integers, as the graph's input are")
        self.integers = False
        self.shape = shape_after(self.file, entry, self.shape)
        self.entries.append({"name": name, **entry})
        self.arrays |= {f"{self.prefix}{name}.{short}": array for short, array in (arrays or {}).items()}

    @property
    def features(self) -> int:
        return self.shape[-1]


def layers_of(file: str, steps: Sequence[NodeRead], given: Given) -> tuple[list[Entry], Arrays, list[str]]:
    """Give entries, arrays and notes. Raises CheckpointUnsupportedError, which names the node."""
    reader = _read(file, steps, given, given.shape, "", LayerNames())
    return reader.entries, reader.arrays, reader.notes


def _read(
    file: str, steps: Sequence[NodeRead], given: Given, shape: ShapeTuple, prefix: str, names: LayerNames
) -> _Reader:
    reader = _Reader(file, given, shape, prefix, names)
    index = 0
    while index < len(steps):
        step = steps[index]
        try:
            if step.ways:
                _join(reader, step)
                used = 1
            else:
                used = OPERATORS[step.operator](reader, steps[index : index + 3])
        except CheckpointError as error:
            told = str(error).removeprefix(f"{file}: ")
            raise unsupported(file, f"{step.name} ({step.operator}): {told}") from None
        except (_Unsupported, KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            why = str(error) if isinstance(error, _Unsupported) else "is used in a way that is not known"
            raise unsupported(file, f"{step.name} ({step.operator}): {why}") from None
        index += used
    return reader


def _join(reader: _Reader, step: NodeRead) -> None:
    """Make a residual of an Add, a concat of a Concat; the ways' layers are siblings of one block."""
    kind = "residual" if step.operator == "Add" else "concat"
    reader.counts[kind] = reader.counts.get(kind, 0) + 1
    name, inner = reader.names(f"{kind}_{reader.counts[kind]}"), LayerNames()
    prefix = f"{reader.prefix}{name}."
    if reader.integers:
        raise _Unsupported("joins integers")
    ways = [_read(reader.file, way, reader.given, reader.shape, prefix, inner) for way in step.ways]
    lists, shapes = [way.entries for way in ways], [way.shape for way in ways]
    if kind == "residual":
        if not lists[0]:  # x + f(x): the layers come first
            lists.reverse()
        if not lists[0]:
            raise _Unsupported("adds a value to itself")
        if shapes[0] != shapes[1]:
            raise _Unsupported(f"adds {shapes[0]} and {shapes[1]}")
        entry: Entry = {"type": kind, "layers": lists[0], "shortcut": lists[1]}
        reader.shape = shapes[0]
    else:
        if step.attributes.get("axis") not in (-1, len(reader.shape)) or len({shape[:-1] for shape in shapes}) > 1:
            raise _Unsupported("joins on another axis than the last")
        entry = {"type": kind, "branches": lists}
        reader.shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
    reader.entries.append({"name": name, **entry})
    for way in ways:
        reader.arrays |= way.arrays
        reader.notes += way.notes


def _vector(array: npt.NDArray[Any], size: int, rank: int = 2) -> npt.NDArray[Any]:
    """Give one number a feature, of a constant that is broadcast along all other axes of `rank`."""
    if array.size not in (1, size) or (array.ndim and array.shape[-1] != array.size) or array.ndim > rank:
        raise _Unsupported(f"a constant of shape {array.shape} for {size} features")
    return np.broadcast_to(array.reshape(-1), (size,))


def _affine(reader: _Reader, weight: tuple[str, npt.NDArray[Any]], bias: npt.NDArray[Any] | None) -> None:
    name, array = weight
    if name in reader.given.seen:
        reader.notes.append(f"{name} is used more than once; each use is trained on its own from now on")
    reader.given.seen.add(name)
    if array.ndim != 2:
        raise _Unsupported(f"a weight of shape {array.shape}")
    arrays: Arrays = {"weight": array}
    if bias is not None:
        arrays["bias"] = _vector(bias, array.shape[1], len(reader.shape) + 1)
    reader.add({"type": "affine", "units": array.shape[1], "bias": bias is not None}, arrays, name)


def _gemm(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    given = step.attributes
    if given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1 or given.get("transA", 0) or step.constant_first:
        raise _Unsupported("alpha, beta and transA other than 1, 1 and 0")
    (name, weight), *bias = step.constants
    _affine(reader, (name, weight.T if given.get("transB", 0) else weight), bias[0][1] if bias else None)
    return 1


def _matmul(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    step, behind = steps[0], steps[1:2]
    if step.constant_first:
        raise _Unsupported("a constant from the left")
    with_bias = bool(behind and behind[0].operator == "Add" and not behind[0].ways)
    _affine(reader, step.constants[0], behind[0].constants[0][1] if with_bias else None)
    return 2 if with_bias else 1


def _shift(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    """Read x - c, x + c and x / c, also one behind the other, as standardize: (x - mean) / std."""
    step, behind = steps[0], steps[1:2]
    if step.constant_first and step.operator != "Add":
        raise _Unsupported("a constant from the left")
    constant = _number(reader, step.constants[0][1])
    divides = bool(step.operator != "Div" and behind and behind[0].operator == "Div" and not behind[0].constant_first)
    divides = divides and not behind[0].ways
    divisor = constant if step.operator == "Div" else _number(reader, behind[0].constants[0][1]) if divides else 1.0
    mean = {"Add": _negated(constant), "Sub": constant}.get(step.operator, 0.0)
    reader.add({"type": "standardize", "mean": mean, "std": divisor})
    return 2 if divides else 1


def _number(reader: _Reader, array: npt.NDArray[Any]) -> Any:
    """Give a constant as a number for all features, or a list of one each."""
    rank = len(reader.shape) + 1
    return array.item() if array.size == 1 and array.ndim <= rank else _vector(array, reader.features, rank).tolist()


def _negated(value: Any) -> Any:
    return [-number for number in value] if isinstance(value, list) else -value


def _batch_norm(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    """Read a batch norm; ONNX normalizes the axis behind the batch, which has to be the last, too."""
    step = steps[0]
    if len(reader.shape) > 1:
        raise _Unsupported(f"normalizes the second axis of {reader.shape}, specnet the last")
    return _take_batch_norm(reader, step)


def _take_batch_norm(reader: _Reader, step: NodeRead) -> int:
    if step.attributes.get("training_mode") or step.outputs > 1:
        raise _Unsupported("was exported for training; export the model for inference")
    names = ("scale", "shift", "running_mean", "running_var")
    arrays = {short: array for short, (_, array) in zip(names, step.constants, strict=True)}
    momentum = round(1 - step.attributes.get("momentum", 0.9), 7)  # of a float32
    epsilon = undo_float32_rounding(step.attributes.get("epsilon", 1e-5)) or NO_EPSILON
    entry = {"type": "batch_norm", "epsilon": epsilon, "momentum": momentum}
    reader.add(entry, arrays, step.constants[0][0])
    return 1


def _layer_norm(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    if step.attributes.get("axis", -1) not in (-1, len(reader.shape)):
        raise _Unsupported("normalizes more than the last axis")
    (name, scale), *shift = step.constants
    zeros = np.zeros_like(scale)
    arrays = {"scale": scale, "shift": shift[0][1] if shift else zeros}
    reader.add(
        {"type": "layer_norm", "epsilon": undo_float32_rounding(step.attributes.get("epsilon", 1e-5))}, arrays, name
    )
    return 1


def _rms_norm(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    if step.attributes.get("axis", -1) not in (-1, len(reader.shape)):
        raise _Unsupported("normalizes more than the last axis")
    name, scale = step.constants[0]
    reader.add(
        {"type": "rms_norm", "epsilon": undo_float32_rounding(step.attributes.get("epsilon", 1e-5))},
        {"scale": scale},
        name,
    )
    return 1


def _flatten(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    if steps[0].attributes.get("axis", 1) not in (1, -len(reader.shape)):
        raise _Unsupported("joins the batch's axis with others")
    if len(reader.shape) > 1:
        reader.add({"type": "flatten"})
    return 1


def _reshape(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    step, behind = steps[0], steps[1:3]
    first, *sizes = (int(size) for size in step.constants[0][1].reshape(-1))
    merged = (first, sizes) == (-1, [reader.features]) and len(reader.shape) > 1
    if merged and [other.operator for other in behind] == ["BatchNormalization", "Reshape"]:
        if list(behind[1].constants[0][1][1:]) != list(reader.shape):
            raise _Unsupported("is not turned back behind the batch norm")
        _take_batch_norm(reader, behind[0])
        return 3
    sizes = [reader.shape[i] if size == 0 and i < len(reader.shape) else size for i, size in enumerate(sizes)]
    total = math.prod(reader.shape)
    if sizes.count(-1) == 1 and first != -1:
        sizes[sizes.index(-1)] = total // -math.prod(sizes) if math.prod(sizes) else 0
    if math.prod(sizes) != total or first not in (-1, 0, reader.given.batch or -1):
        raise _Unsupported("changes the batch's axis")
    if tuple(sizes) != reader.shape:
        reader.add({"type": "flatten"} if len(sizes) == 1 else {"type": "reshape", "shape": sizes})
    return 1


def _dropout(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    flags = [array for _, array in step.constants if array.dtype.kind == "b"]
    if any(flag.any() for flag in flags):
        raise _Unsupported("was exported for training; export the model for inference")
    ratios = [array.item() for _, array in step.constants if array.dtype.kind == "f"]
    ratio = ratios[0] if ratios else step.attributes.get("ratio", 0.5)
    reader.add({"type": "dropout", "rate": undo_float32_rounding(ratio)})
    return 1


def _over_last(kind: str) -> Callable[[_Reader, Sequence[NodeRead]], int]:
    def read(reader: _Reader, steps: Sequence[NodeRead]) -> int:
        default = -1 if reader.version >= 13 else 1
        axis = steps[0].attributes.get("axis", default)
        if axis not in (-1, len(reader.shape)) or (reader.version < 13 and len(reader.shape) > 1):
            raise _Unsupported("works on another axis than the last")
        reader.add({"type": kind})
        return 1

    return read


def _prelu(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    name, slope = steps[0].constants[0]
    if slope.size == 1 < reader.features:
        reader.notes.append(f"{steps[0].name}: one slope for all features; each is trained on its own from now on")
    reader.add({"type": "prelu"}, {"slope": _vector(slope, reader.features, len(reader.shape) + 1)}, name)
    return 1


def _embedding(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    step = steps[0]
    if step.attributes.get("axis", 0) != 0 or not step.constant_first or step.constants[0][1].ndim != 2:
        raise _Unsupported("picks other than rows of a matrix")
    name, weight = step.constants[0]
    sizes = {"vocabulary": weight.shape[0], "dimension": weight.shape[1]}
    reader.add({"type": "embedding", **sizes}, {"weight": weight}, name)
    return 1


def _activation(kind: str, **settings: tuple[str, Any]) -> Callable[[_Reader, Sequence[NodeRead]], int]:
    """Make the reader of an activation whose settings are attributes, with these defaults."""

    def read(reader: _Reader, steps: Sequence[NodeRead]) -> int:
        entry: Entry = {"type": kind}
        for ours, (theirs, default) in settings.items():
            value = steps[0].attributes.get(theirs, default)
            entry[ours] = (
                value.decode()
                if isinstance(value, bytes)
                else undo_float32_rounding(value)
                if value != default
                else default
            )
        reader.add(entry)
        return 1

    return read


def _as_it_is(_reader: _Reader, _steps: Sequence[NodeRead]) -> int:
    return 1


def _cast(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    """Pass over a cast to the type that there is already; others change numbers."""
    kinds = ("INT64", "INT32") if reader.integers else (reader.given.kind,)
    if steps[0].attributes.get("to_name") not in kinds:
        raise _Unsupported(f"to {steps[0].attributes.get('to_name')} changes what is computed")
    return 1


def _recognized(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    reader.add(steps[0].attributes)
    return 1


def _selu(reader: _Reader, steps: Sequence[NodeRead]) -> int:
    if steps[0].attributes:
        raise _Unsupported("alpha and gamma other than selu's")
    reader.add({"type": "selu"})
    return 1


def _concat(_reader: _Reader, steps: Sequence[NodeRead]) -> int:
    if steps[0].constants:
        raise _Unsupported("joins a constant")
    return 1  # of one value


def _no_layer(_reader: _Reader, _steps: Sequence[NodeRead]) -> int:
    raise _Unsupported("is no part of an activation that specnet knows")


OPERATORS: dict[str, Callable[[_Reader, Sequence[NodeRead]], int]] = {
    **dict.fromkeys(elementwise.OPERATORS, _no_layer),
    "Add": _shift,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Div": _shift,
    "Dropout": _dropout,
    "Elu": _activation("elu", alpha=("alpha", 1.0)),
    "Flatten": _flatten,
    "Gather": _embedding,
    "Gelu": _activation("gelu", approximate=("approximate", "none")),
    "Gemm": _gemm,
    "Identity": _as_it_is,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _activation("leaky_relu", negative_slope=("alpha", 0.01)),
    "LogSoftmax": _over_last("log_softmax"),
    "MatMul": _matmul,
    "Mish": _activation("mish"),
    "PRelu": _prelu,
    "RMSNormalization": _rms_norm,
    "Relu": _activation("relu"),
    "Reshape": _reshape,
    "Selu": _selu,
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _over_last("softmax"),
    "Softplus": _activation("softplus"),
    "Sub": _shift,
    "Tanh": _activation("tanh"),
    "layer": _recognized,
}
