"""What depends on the version of ONNX's operator set: the valid attributes, and how operands were broadcast."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from specnet.interop.imported_model import unsupported
from specnet.interop.onnx.builder import UnsupportedNodeError

NEWEST = 28
"""The newest operator set whose definitions of all operators that specnet reads have been compared with the readers."""


OLD_BROADCAST = 7
"""From this operator set on, operands are broadcast as in numpy, and nodes describe what is computed in inference."""


_BROADCASTING = ("Add", "Div", "Gemm", "Greater", "Mul", "Pow", "Sub")


_LONGEST_LIST = 2**16
"""The most numbers in an attribute. Larger constants are tensors."""


def operator_set(name: str, model: Any, onnx: Any) -> int:
    """Return the version of the operator set that a file uses. Raises CheckpointUnsupportedError for unknown ones."""
    newest = min(NEWEST, onnx.defs.onnx_opset_version())
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = plain_domain(entry.domain)
        if versions.setdefault(domain, entry.version) != entry.version:
            detail = f"{versions[domain]} and {entry.version}"
            raise unsupported(name, f"states two versions of the operator set {domain!r:.80}: {detail}")
    version = versions.get("")
    if version is None or not 1 <= version <= newest:
        stated = "states no version of the operator set" if version is None else f"uses operator set {version}"
        raise unsupported(name, f"{stated}, expected 1 to {newest}; export the model with another opset_version")
    return version


def plain_domain(domain: str) -> str:
    """Return "" for both names of ONNX's own domain."""
    return "" if domain == "ai.onnx" else domain


def check_node(node: Any, version: int, onnx: Any) -> None:
    """Check the numbers of inputs and outputs and the attributes of a node. Raises UnsupportedNodeError."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        raise UnsupportedNodeError(f"operator set {version} has no such operator") from None
    inputs, outputs = (schema.min_input, schema.max_input), (schema.min_output, schema.max_output)
    for what, names, (least, most) in (("inputs", node.input, inputs), ("outputs", node.output, outputs)):
        if not least <= len(names) <= most:
            expected = least if least == most else f"{least} to {most}"
            raise UnsupportedNodeError(f"expected {expected} {what} in operator set {version}, got {len(names)}")
    seen = set()
    for attribute in node.attribute:
        known = schema.attributes.get(attribute.name)
        if known is None or known.type.value != attribute.type or attribute.name in seen:
            raise UnsupportedNodeError(f"operator set {version} has no such attribute {attribute.name!r:.40}")
        if len(attribute.ints) + len(attribute.floats) > _LONGEST_LIST:
            raise UnsupportedNodeError(f"its attribute {attribute.name} has more than {_LONGEST_LIST:,} numbers")
        seen.add(attribute.name)
    missing = [key for key, known in schema.attributes.items() if known.required and key not in seen]
    if missing:
        raise UnsupportedNodeError(f"has no attribute {missing[0]}")


def check_constants(node: Any, constants: list[bool], version: int, attributes: dict[str, Any]) -> None:
    """Check that an old node with a constant operand says how it is broadcast. Raises UnsupportedNodeError.

    `constants` says which inputs are constant. Before operator set 7 only the last operand was broadcast, and only with
    broadcast=1; Max and Min did not broadcast before operator set 8.
    """
    if version >= 8 or not any(constants):
        return
    first = constants.index(True)
    if node.op_type in ("Max", "Min"):
        raise UnsupportedNodeError(f"operator set {version} does not broadcast its constant")
    if version < OLD_BROADCAST and node.op_type in _BROADCASTING:
        is_last = first >= 1 and all(constants[first:])
        broadcasts = attributes.get("broadcast") == 1 or (node.op_type == "Gemm" and len(constants) < 3)
        if not is_last or not broadcasts:
            raise UnsupportedNodeError(f"operator set {version} broadcasts only the last operand, with broadcast=1")


def align(array: npt.NDArray[Any], attributes: dict[str, Any], rank: int) -> npt.NDArray[Any]:
    """Return the last operand of an old node with the axes that numpy broadcasts. Raises UnsupportedNodeError.

    Its axes are those of the first operand, which has this `rank`, from `axis` on; without `axis`, the last ones.
    """
    axis = attributes.get("axis", rank - array.ndim)
    behind = rank - axis - array.ndim
    if axis < 0 or behind < 0:
        raise UnsupportedNodeError(f"a constant of shape {array.shape} does not fit {rank} axes from axis {axis} on")
    return array.reshape(array.shape + (1,) * behind)
