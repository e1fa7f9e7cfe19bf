"""The result of every importer, and the functions that build a model from named arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

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
NameMap: TypeAlias = Mapping[str, str]
"""Layer name in the other program's file -> layer name in the document; what `--map` gives."""


LARGEST_INPUT = 2**24
"""The most numbers of an input; one of 2048 x 2048 pixels with four channels."""


LARGEST_OUTPUT = 2**28
"""The most numbers that one input makes of a layer's output: a gibibyte in float32."""


MODEL_KEY = "specnet.model"
"""The key of the model document in exported files."""


class Imported(NamedTuple):
    """An imported model, notes on what was changed or not imported, and the optimizer with its state.

    `optimizer` is None if the file has none, or one that specnet does not support.
    """

    model: Model
    notes: tuple[str, ...] = ()
    optimizer: Optimizer | None = None


def arrays_of(model: Model) -> Arrays:
    """Return all parameters and buffers by their full names."""
    return {**model.parameters, **model.buffers}


def fill_model(name: str, spec: ModelSpec, arrays: Arrays, notes: list[str] | None = None) -> Model:
    """Build a model from arrays by full name; `notes` gets a line if values were rounded. Empties `arrays`.

    Raises CheckpointUnsupportedError if names, shapes or dtypes do not fit.
    """
    rounded = []
    check_size(name, spec, arrays)
    model = assemble(spec.plan(), lambda: spec)
    standardizing = [
        layer for layer, entry, _ in spec.walk() if entry.type == "standardize" and not entry.must_be_first
    ]
    optional = {f"{layer}.{short}" for layer in standardizing for short in ("mean", "std")}
    for full, target in arrays_of(model).items():
        array = arrays.pop(full, None)
        if array is None:
            if full in optional or full.endswith(".count"):  # other programs do not store these
                continue
            raise unsupported(name, f"{full} is missing")
        if array.shape != target.shape or array.dtype.kind not in "iuf":
            detail = f"{array.dtype} of shape {array.shape}"
            raise unsupported(name, f"{full}: expected {target.dtype} of shape {target.shape}, got {detail}")
        with np.errstate(over="ignore"):
            target[...] = array
        if array.dtype != target.dtype and _loses_precision(array, target):
            if not np.isfinite(target).all() and np.isfinite(array).all():
                raise unsupported(name, f"{full}: its numbers are too large for {target.dtype}")
            rounded.append(full)
    if rounded and notes is not None:
        notes.append(f"{len(rounded)} arrays were rounded to {model.dtype}, the first is {rounded[0]}")
    if arrays:
        unused = f"{next(iter(arrays))!r:.80} is not part of the model; {len(arrays)} arrays are unused"
        raise unsupported(name, unused)
    return model


def array_names(spec: ModelSpec) -> list[str]:
    """Return the full names of the parameters and buffers of a document's model, without building it."""
    plan = spec.plan()
    return [*plan.parameter_shapes(), *plan.buffer_shapes()]


def check_size(name: str, spec: ModelSpec, arrays: Arrays) -> None:
    """Check, before a model is built, that its size fits what the file holds. Raises CheckpointUnsupportedError.

    A document can claim arrays that the file lacks, and many layers can share one array of it.
    """
    plan = spec.plan()
    shapes = [*plan.parameter_shapes().values(), *(shape for shape, _ in plan.buffer_shapes().values())]
    needed = sum(map(math.prod, shapes))
    stored = {}
    for array in arrays.values():
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        stored[id(root)] = root.size
    held = sum(stored.values())
    if needed > LARGEST_INPUT + 8 * held:
        raise unsupported(name, f"its model would have {needed:,} numbers, but the file holds {held:,}")


def put_once(name: str, arrays: Arrays, full: str, array: npt.NDArray[Any]) -> None:
    """Add an array under its full name. Raises CheckpointUnsupportedError if there is one, because of `--map`."""
    if full in arrays:
        raise unsupported(name, f"has two arrays for {full!r:.80}; map each layer to another one: --map THEIRS=OURS")
    arrays[full] = array


def _loses_precision(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> bool:
    """Return whether converting `source` to `target` changed any value; NaN counts as equal to NaN."""
    back = target.astype(source.dtype)
    return not bool(((back == source) | (back != back) & (source != source)).all())  # noqa: PLR0124 - NaN


def document_of(name: str, text: str | bytes | None, place: str = MODEL_KEY) -> ModelSpec:
    """Read the model document in a file that specnet wrote. Raises CheckpointUnsupportedError."""
    if text is None:
        raise unsupported(name, "contains no model document; pass one: --model FILE")
    try:
        return ModelSpec.from_text(text, f"{name}:{place}")
    except SpecError as error:
        raise CheckpointUnsupportedError("; ".join(error.lines())) from None


def spec_of_layers(
    file: str, input_shape: Sequence[int], layers: Sequence[Mapping[str, Any]], **more: Any
) -> ModelSpec:
    """Build the document of layers read from a foreign file. Raises CheckpointUnsupportedError."""
    try:
        return ModelSpec(input_shape=tuple(input_shape), layers=list(layers), **more)
    except SpecError as error:
        detail = "; ".join(line.removeprefix(": ") for line in error.lines())
        raise unsupported(file, f"does not form a valid model: {detail}") from None


def unsupported(name: str, why: str) -> CheckpointUnsupportedError:
    """Return the error for a file that cannot be imported."""
    return CheckpointUnsupportedError(f"{name}: {why}")


def one_line(error: Exception) -> str:
    """Return the first line of the message of a library's error."""
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return text.splitlines()[0][:200]


def undo_float32_rounding(value: float) -> float:
    """Return the shortest decimal of a setting that was stored as float32: 0.3 for 0.30000001192092896."""
    with np.errstate(over="ignore", under="ignore"):
        short = np.float32(value)
    return float(str(short)) if float(short) == value else value


def checked_inputs(name: str, shape: Sequence[int]) -> ShapeTuple:
    """Check that the input size that a file claims is at most LARGEST_INPUT. Raises CheckpointUnsupportedError."""
    if math.prod(shape) > LARGEST_INPUT:
        raise unsupported(name, f"takes inputs of {math.prod(shape):,} numbers, expected at most {LARGEST_INPUT:,}")
    return tuple(shape)


def shape_after(file: str, entry: Mapping[str, Any], shape: ShapeTuple) -> ShapeTuple:
    """Return the output shape of one layer. Raises CheckpointUnsupportedError if it does not accept this input."""
    kind, nameless = find_layer(entry["type"]), {key: value for key, value in entry.items() if key != "name"}
    try:
        assert kind is not None
        output = kind.nested(nameless).plan(shape).output_shape
    except (ValidationError, SpecnetError):  # validating a whole document words the error
        output = spec_of_layers(file, shape, [nameless]).plan().layers[-1].output_shape
    if math.prod(output) > LARGEST_OUTPUT:
        what = f"{entry.get('name', entry['type'])}: an output would have {math.prod(output):,} numbers"
        raise unsupported(file, f"{what}, expected at most {LARGEST_OUTPUT:,}")
    return output


class LayerNames:
    """Assigns unique names to imported layers: the original name if a document allows it, else one close to it."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}
        self.changed: dict[str, str] = {}

    def __call__(self, wanted: str) -> str:
        """Return an unused name, as close to the wanted one as a document allows."""
        valid = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in wanted)[:200] or "layer"
        valid = valid if valid[0].isalpha() or valid[0] == "_" else f"_{valid}"
        name = valid
        while name in self._taken:
            self._numbers[valid] = self._numbers.get(valid, 1) + 1
            name = f"{valid}_{self._numbers[valid]}"
        self._taken.add(name)
        if name != wanted:
            self.changed[wanted] = name
        return name
