"""How two models differ: their documents first, then their arrays, then the runs that saved them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.document.diff import differences
from specnet.inspection.inspect import last_metrics
from specnet.inspection.statistics import PIECE
from specnet.model import Model
from specnet.spec.composite_spec import CompositeSpec
from specnet.spec.model_spec import ModelSpec


@dataclass(frozen=True)
class ArrayChange:
    """How an array of two models differs.

    `largest` is the largest difference of two elements, `relative` the same over the largest size of an element in
    either; both are infinite where a value is not finite on one side only, or another one that is not. `differing` is
    the number of elements that are not the same.
    """

    name: str
    shape: tuple[int, ...]
    differing: int
    largest: float
    relative: float


@dataclass(frozen=True)
class Comparison:
    """What differs, in words and numbers.

    `structure`: lines on documents. `arrays`: parameters and buffers of the same name and shape whose relative change
    is above the tolerance; `compared` counts all that were compared. `training`: lines on step, epoch and metrics.
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
    """Compare two models, two documents, or one of each, whose documents alone are compared then.

    Arrays are the same where their relative change is at most `tolerance`: with 0, where every element is equal.
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
    """Align layers by their full names; what stands beside the layers is compared key by key."""
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
                yield f"layer {name}: {key} was {_at(before[name], path)}, is {_at(entry, path)}"
    common = [name for name in before if name in after]
    if common != [name for name in after if name in before]:
        yield "the layers stand in another order"
    rest = [{k: v for k, v in spec.model_dump(mode="json").items() if k != "layers"} for spec in (old, new)]
    for key in dict.fromkeys([*rest[1], *rest[0]]):
        if rest[0].get(key) != rest[1].get(key):
            yield f"{key} was {_at(rest[0], (key,))}, is {_at(rest[1], (key,))}"


def _layers(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Map full names to what the document says of each layer, and in which list of its composite it stands."""
    found: dict[str, dict[str, Any]] = {}
    place: dict[str, str] = {}
    for name, layer, _ in spec.walk():
        lists = layer.lists() if isinstance(layer, CompositeSpec) else []
        place |= {f"{name}.{child.name}": ".".join(map(str, path)) for path, layers in lists for child in layers}
        left_out = {"name", *(path[0] for path, _ in lists)}
        said = {key: value for key, value in layer.model_dump(mode="json").items() if key not in left_out}
        found[name] = said | ({"list": place[name]} if name in place else {})
    return found


def _at(value: Any, path: tuple[Any, ...]) -> str:
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
    differing, largest, size = 0, 0.0, 0.0
    for start in range(0, a.size, PIECE):
        x, y = (array[start : start + PIECE].astype(np.float64) for array in (a, b))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        size = max(size, *(float(np.abs(v[np.isfinite(v)]).max(initial=0)) for v in (x, y)))
        if not same.all():
            differing += int(same.size - same.sum())
            with np.errstate(invalid="ignore"):
                gap = np.abs(x - y)[~same]
            largest = max(largest, float(np.where(np.isnan(gap), np.inf, gap).max()))
    return ArrayChange(name, old.shape, differing, largest, largest / size if size else largest)


def _training(old: Model, new: Model) -> Iterator[str]:
    states = [model.run_state or {} for model in (old, new)]
    for key in ("step", "epoch"):
        before, after = (state.get(key) for state in states)
        if before != after:
            yield f"{key} was {_at(before, ())}, is {_at(after, ())}"
    before, after = (last_metrics(model) for model in (old, new))
    for name in dict.fromkeys([*after, *before]):
        if "." not in name and not _same(before.get(name), after.get(name)):
            yield f"{name} was {_number(before.get(name))}, is {_number(after.get(name))}"
    experiments = [state.get("experiment") for state in states]
    read = [_json(text) for text in experiments]
    if None not in read:
        for _, told in differences(read[0], read[1], [("model",)]):
            yield f"experiment: {told}"


def _same(old: float | None, new: float | None) -> bool:
    return old == new or (old is not None and new is not None and old != old and new != new)  # noqa: PLR0124 - NaN


def _json(text: object) -> Any:
    """Read a run's experiment, which nobody has checked; None where it makes no sense."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"
