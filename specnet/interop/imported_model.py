"""What every importer gives, and how arrays by name become a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from specnet.arrays.parameters import ShapeTuple
from specnet.errors import CheckpointUnsupportedError, SpecError, SpecnetError
from specnet.model import Model, assemble
from specnet.spec.model_spec import ModelSpec
from specnet.spec.registry import find_layer
from specnet.training.optimizers.base import Optimizer

Arrays = dict[str, npt.NDArray[Any]]


LARGEST_INPUT = 2**24


MODEL_KEY = "specnet.model"
"""Under this name a file for others carries the model document."""


class Imported(NamedTuple):
    """A model from elsewhere; notes of what was changed, or left behind; the model's optimizer, with its state.

    `optimizer` is None where the file has none, or one that specnet does not know.
    """

    model: Model
    notes: tuple[str, ...] = ()
    optimizer: Optimizer | None = None


def arrays_of(model: Model) -> Arrays:
    """Give all parameters and buffers by their full names."""
    return {**model.parameters, **model.buffers}


def fill_model(name: str, spec: ModelSpec, arrays: Arrays, notes: list[str] | None = None) -> Model:
    """Make a model of arrays by full name; a note says where digits are lost.

    Raises CheckpointUnsupportedError where names, shapes or types do not fit.
    """
    rounded = []
    model = assemble(spec.plan(), lambda: spec)
    standardizing = [
        layer for layer, entry, _ in spec.walk() if entry.type == "standardize" and not entry.must_be_first
    ]
    preset = {f"{layer}.{short}" for layer in standardizing for short in ("mean", "std")}
    for full, target in arrays_of(model).items():
        found = arrays.pop(full, None)
        if found is None:
            if full in preset or full.endswith(".count"):  # others do not keep it
                continue
            raise unsupported(name, f"{full} is missing")
        if found.shape != target.shape or found.dtype.kind not in "iuf":
            told = f"{found.dtype} of shape {found.shape}"
            raise unsupported(name, f"{full}: expected {target.dtype} of shape {target.shape}, got {told}")
        with np.errstate(over="ignore"):
            target[...] = found
        if found.dtype != target.dtype and _loses(found, target):
            if not np.isfinite(target).all() and np.isfinite(found).all():
                raise unsupported(name, f"{full}: its numbers are too large for {target.dtype}")
            rounded.append(full)
    if rounded and notes is not None:
        notes.append(f"{len(rounded)} arrays were rounded to {model.dtype}, {rounded[0]} first")
    if arrays:
        left = f"{next(iter(arrays))!r:.80} is no part of the model; {len(arrays)} arrays are left over"
        raise unsupported(name, left)
    return model


def _loses(found: npt.NDArray[Any], target: npt.NDArray[Any]) -> bool:
    """Tell whether digits were lost; NaN stays NaN."""
    back = target.astype(found.dtype)
    return not bool(((back == found) | (back != back) & (found != found)).all())  # noqa: PLR0124 - NaN


def document_of(name: str, text: str | bytes | None, place: str = MODEL_KEY) -> ModelSpec:
    """Read the document that a file of ours carries. Raises CheckpointUnsupportedError."""
    if text is None:
        raise unsupported(name, "holds no model document; name one: --model FILE")
    try:
        return ModelSpec.from_text(text, f"{name}:{place}")
    except SpecError as error:
        raise CheckpointUnsupportedError("; ".join(error.lines())) from None


def spec_of_layers(
    file: str, input_shape: Sequence[int], layers: Sequence[Mapping[str, Any]], **more: Any
) -> ModelSpec:
    """Make the document of what was found in a foreign file. Raises CheckpointUnsupportedError."""
    try:
        return ModelSpec(input_shape=tuple(input_shape), layers=list(layers), **more)
    except SpecError as error:
        told = "; ".join(line.removeprefix(": ") for line in error.lines())
        raise unsupported(file, f"makes no valid model: {told}") from None


def unsupported(name: str, why: str) -> CheckpointUnsupportedError:
    """Make the error of a file that is not taken."""
    return CheckpointUnsupportedError(f"{name}: {why}")


def one_line(error: Exception) -> str:
    """Return the first line of what an error of a library says."""
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return text.splitlines()[0][:200]


def undo_float32_rounding(value: float) -> float:
    """Give a setting that has been a float32 as the decimal it was: 0.30000001192092896 as 0.3."""
    with np.errstate(over="ignore", under="ignore"):
        short = np.float32(value)
    return float(str(short)) if float(short) == value else value


def checked_inputs(name: str, shape: Sequence[int]) -> ShapeTuple:
    """Hold that inputs are of a size that a file may claim without holding it. Raises CheckpointUnsupportedError."""
    if math.prod(shape) > LARGEST_INPUT:
        raise unsupported(name, f"takes inputs of {math.prod(shape):,} numbers, expected at most {LARGEST_INPUT:,}")
    return tuple(shape)


def shape_after(file: str, entry: Mapping[str, Any], shape: ShapeTuple) -> ShapeTuple:
    """Give the shape behind one layer. Raises CheckpointUnsupportedError where it is no valid layer for this input."""
    kind, nameless = find_layer(entry["type"]), {key: value for key, value in entry.items() if key != "name"}
    try:
        assert kind is not None
        return kind.nested(nameless).plan(shape).output_shape
    except (ValidationError, SpecnetError):  # whose words come with the whole document's
        return spec_of_layers(file, shape, [nameless]).plan().layers[-1].output_shape


class LayerNames:
    """Names for layers that come from elsewhere: theirs where the document allows it, no name twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}
        self.changed: dict[str, str] = {}

    def __call__(self, wanted: str) -> str:
        """Give a name that nobody else has, as near to the wanted one as a document allows."""
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in wanted)[:200] or "layer"
        plain = plain if plain[0].isalpha() or plain[0] == "_" else f"_{plain}"
        name = plain
        while name in self._taken:
            self._numbers[plain] = self._numbers.get(plain, 1) + 1
            name = f"{plain}_{self._numbers[plain]}"
        self._taken.add(name)
        if name != wanted:
            self.changed[wanted] = name
        return name
