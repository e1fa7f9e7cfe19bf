"""Compare two models: their documents, their arrays, and the runs that saved them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.document.diff import differences
from specnet.errors import KeyPath
from specnet.inspection.inspect import last_metrics
from specnet.inspection.statistics import PIECE
from specnet.layerspec import LayerSpec
from specnet.model import Model
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.model_spec import ModelSpec


@dataclass(frozen=True)
class ArrayChange:
    """The difference between two arrays of the same name and shape.

    `differing` is the number of unequal elements; NaN equals NaN. `largest` is the largest absolute difference of two
    elements. `relative` is `largest` divided by the largest finite magnitude in either array. Both are infinite if
    unequal elements include a NaN or an infinity.
    """

    name: str
    shape: tuple[int, ...]
    differing: int
    largest: float
    relative: float


@dataclass(frozen=True)
class Comparison:
    """The differences between two models.

    `structure`: one line for each difference of the documents and of array shapes. `arrays`: the parameters and buffers
    of the same name and shape whose relative change exceeds the tolerance. `compared`: the number of compared arrays.
    `training`: one line for each difference of step, epoch, metrics and experiment.
    """

    structure: tuple[str, ...]
    arrays: tuple[ArrayChange, ...]
    compared: int
    training: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.structure or self.arrays or self.training)


def compare(old: Model | ModelSpec, new: Model | ModelSpec, tolerance: float = 0.0) -> Comparison:
    """Compare two models. If one or both are documents, compare only the documents.

    Arrays count as equal if their relative change is at most `tolerance`; with 0, every element must be equal.
    """
    documents = [side if isinstance(side, ModelSpec) else side.spec for side in (old, new)]
    structure = tuple(_structure(*documents))
    if isinstance(old, ModelSpec) or isinstance(new, ModelSpec):
        return Comparison(structure, (), 0, ())
    pairs = list(_pairs(old, new))
    changes = (_change(name, a, b) for name, a, b in pairs)
    changed = tuple(change for change in changes if change.differing and not change.relative <= tolerance)
    structure += tuple(_reshaped(old, new))
    return Comparison(structure, changed, len(pairs), tuple(_training(old, new)))


def _structure(old: ModelSpec, new: ModelSpec) -> Iterator[str]:
    """Compare the layers with the same full name, then the other keys of the documents."""
    before, after = (_layers(spec) for spec in (old, new))
    for name, entry in before.items():
        if name not in after:
            yield f"layer {name} ({entry['type']}) is gone"
    for name, entry in after.items():
        if name not in before:
            yield f"layer {name} ({entry['type']}) is new"
        elif entry["type"] != before[name]["type"]:
            yield f"layer {name}: type was {before[name]['type']}, is {entry['type']}"
        else:
            for path, _ in differences(before[name], entry):
                key = ".".join(map(str, path))
                yield f"layer {name}: {key} was {_value_text(before[name], path)}, is {_value_text(entry, path)}"
    common = [name for name in before if name in after]
    if common != [name for name in after if name in before]:
        yield "the order of the layers differs"
    other_keys = [{k: v for k, v in spec.model_dump(mode="json").items() if k != "layers"} for spec in (old, new)]
    for key in dict.fromkeys([*other_keys[1], *other_keys[0]]):
        if other_keys[0].get(key) != other_keys[1].get(key):
            yield f"{key} was {_value_text(other_keys[0], (key,))}, is {_value_text(other_keys[1], (key,))}"


def _layers(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Map the full name of each layer to its fields, with the composite's list that holds it under "list".

    A layer that a composite makes of another one, as bidirectional its second layer, has no entry.
    """
    fields: dict[str, dict[str, Any]] = {}
    list_of: dict[str, str] = {}
    made: set[str] = set()
    for name, layer, _ in spec.walk():
        if name in made:
            continue
        lists: dict[KeyPath, Sequence[LayerSpec]] = {}
        for path, layers in layer.lists() if isinstance(layer, CompositeSpec) else []:
            if path in lists:
                made |= {f"{name}.{child.name}" for child in layers}
            lists.setdefault(path, layers)
        list_of |= {f"{name}.{child.name}": ".".join(map(str, path)) for path, each in lists.items() for child in each}
        omitted = {"name", *(path[0] for path in lists)}
        own_fields = {key: value for key, value in layer.model_dump(mode="json").items() if key not in omitted}
        fields[name] = own_fields | ({"list": list_of[name]} if name in list_of else {})
    return fields


def _value_text(value: Any, path: tuple[Any, ...]) -> str:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else value[key]
    text = json.dumps(value, ensure_ascii=False)
    return "nothing" if value is None else text if len(text) <= 60 else f"{text[:57]}..."


def _reshaped(old: Model, new: Model) -> Iterator[str]:
    for name, array in new.parameters.items():
        if name in old.parameters and old.parameters[name].shape != array.shape:
            yield f"{name}: shape was {old.parameters[name].shape}, is {array.shape}"


def _pairs(old: Model, new: Model) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    for kind in ("parameters", "buffers"):
        before, after = getattr(old, kind), getattr(new, kind)
        for name, array in after.items():
            if name in before and before[name].shape == array.shape:
                yield name, before[name], array


def _change(name: str, old: npt.NDArray[Any], new: npt.NDArray[Any]) -> ArrayChange:
    a, b = old.reshape(-1), new.reshape(-1)
    differing, largest, magnitude = 0, 0.0, 0.0
    for start in range(0, a.size, PIECE):
        x, y = (array[start : start + PIECE].astype(np.float64) for array in (a, b))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        magnitude = max(magnitude, *(float(np.abs(v[np.isfinite(v)]).max(initial=0)) for v in (x, y)))
        if not same.all():
            differing += int(same.size - same.sum())
            with np.errstate(invalid="ignore"):
                gap = np.abs(x - y)[~same]
            largest = max(largest, float(np.where(np.isnan(gap), np.inf, gap).max()))
    return ArrayChange(name, old.shape, differing, largest, largest / magnitude if magnitude else largest)


def _training(old: Model, new: Model) -> Iterator[str]:
    states = [model.run_state or {} for model in (old, new)]
    for key in ("step", "epoch"):
        before, after = (state.get(key) for state in states)
        if before != after:
            yield f"{key} was {_value_text(before, ())}, is {_value_text(after, ())}"
    before, after = (last_metrics(model) for model in (old, new))
    for name in dict.fromkeys([*after, *before]):
        if "." not in name and not _is_same_metric(before.get(name), after.get(name)):
            yield f"{name} was {_number(before.get(name))}, is {_number(after.get(name))}"
    experiments = [_parse_json(state.get("experiment")) for state in states]
    if None not in experiments:
        for _, text in differences(experiments[0], experiments[1], [("model",)]):
            yield f"experiment: {text}"


def _is_same_metric(old: float | None, new: float | None) -> bool:
    return old == new or (old is not None and new is not None and old != old and new != new)  # noqa: PLR0124 - NaN


def _parse_json(text: object) -> Any:
    """Parse the experiment of a run, which loading does not check; return None if it is not valid JSON."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"
