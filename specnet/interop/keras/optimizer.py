"""Conversion of the optimizer of a Keras file to specnet's, if both compute the same.

Keras adds epsilon to the root of the uncorrected second moment, specnet to that of the corrected one. With the same
state, the next steps differ by less than epsilon contributes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.interop.keras.arrays import BOTH_BIASES, from_keras_array
from specnet.model import Model
from specnet.training.optimizers.base import Optimizer
from specnet.training.optimizers.rules import SGD, Adagrad, Adam, AdamW, Lion, RMSprop

Settings = Mapping[str, Any]


Slots = dict[str, float]


class Stored(NamedTuple):
    """The variables of an optimizer in a file. The legacy format names them: `names`, and the trained `weights`.

    Without names, they are in the order of Keras 2.11 and later: the number of steps taken, in some versions the
    learning rate, then the slots of each weight. Before, each slot of all weights was followed by the next slot.
    """

    arrays: Sequence[npt.NDArray[Any]]
    names: Sequence[str] = ()
    weights: Sequence[str] = ()


class _Rule(NamedTuple):
    """How to make an optimizer from Keras's settings; its slots, in Keras's order; the settings that prevent it.

    A slot is Keras's array times a factor: specnet's Adam keeps its moments without their factors 1 - beta, and Keras's
    SGD keeps its velocity with the factor -learning_rate.
    """

    make: Callable[[Model, float, Settings], Optimizer]
    slots: Callable[[float, Settings], Slots]
    refused: tuple[str, ...] = ()


def _betas(settings: Settings) -> tuple[float, float]:
    return float(settings["beta_1"]), float(settings["beta_2"])


def _moments(_rate: float, settings: Settings) -> Slots:
    first, second = _betas(settings)
    return {"first_moment": 1 / (1 - first), "second_moment": 1 / (1 - second)}


def _adam(model: Model, rate: float, settings: Settings) -> Optimizer:
    decay = settings.get("weight_decay")
    betas, epsilon = _betas(settings), float(settings["epsilon"])
    return AdamW(model, rate, betas, epsilon, float(decay)) if decay else Adam(model, rate, betas, epsilon)


_DECAY = "weight_decay"  # Keras decouples it in every optimizer, specnet only in AdamW and Lion


_RULES: dict[str, _Rule] = {
    "Adam": _Rule(_adam, _moments, ("amsgrad",)),
    "AdamW": _Rule(_adam, _moments, ("amsgrad",)),
    "SGD": _Rule(
        lambda model, rate, s: SGD(model, rate, float(s["momentum"]), bool(s.get("nesterov"))),
        lambda rate, s: {"velocity": -1 / rate} if s["momentum"] else {},
        (_DECAY,),
    ),
    "RMSprop": _Rule(
        lambda model, rate, s: RMSprop(model, rate, float(s["rho"]), float(s["epsilon"])),
        lambda _rate, _s: {"square_average": 1.0},
        (_DECAY, "momentum", "centered"),
    ),
    "Adagrad": _Rule(
        lambda model, rate, s: Adagrad(model, rate, float(s["epsilon"])),
        lambda _rate, _s: {"square_sum": 1.0},
        (_DECAY,),
    ),
    "Lion": _Rule(
        lambda model, rate, s: Lion(model, rate, _betas(s), float(s.get(_DECAY) or 0)),
        lambda _rate, _s: {"momentum": 1.0},
    ),
}


_SLOT_NAMES = {
    "first_moment": ("m", "momentum"),
    "second_moment": ("v", "velocity"),
    "velocity": ("m", "momentum"),
    "square_average": ("rms", "velocity"),
    "square_sum": ("accumulator",),
    "momentum": ("m", "momentum"),
}
"""What the versions of Keras call a slot."""


def restored(model: Model, written: Any, stored: Stored, trained: Sequence[str]) -> tuple[Optimizer | None, list[str]]:
    """Return the optimizer that a file contains, or None, and notes on what was not imported.

    `written` is its class and settings as Keras writes them, `trained` the parameters that it trains, in Keras's order.
    """
    arrays = stored.arrays
    if not arrays:
        has_settings = isinstance(written, Mapping)
        return None, ["the optimizer was not imported: the file does not contain its state"] if has_settings else []
    if not isinstance(written, Mapping):
        return None, ["the optimizer was not imported: the file contains its state but not its settings"]
    class_name, settings = str(written.get("class_name")).removeprefix("Custom>"), written.get("config")
    not_imported = f"the optimizer ({class_name:.40}) was not imported"
    rule = _RULES.get(class_name)
    if rule is None or not isinstance(settings, Mapping):
        return None, [not_imported]
    unsupported = [key for key in (*rule.refused, "use_ema", "decay", "is_legacy_optimizer") if settings.get(key)]
    if unsupported:
        return None, [f"{not_imported}: specnet's has no {unsupported[0]}"]
    if any(target.endswith(BOTH_BIASES) for target in trained):
        return None, [f"{not_imported}: Keras's GRU trains two biases, specnet's their sum"]
    try:
        rate = settings.get("learning_rate")
        slots = rule.slots(1.0, settings)
        count = len(slots) * len(trained)
        if len(arrays) not in (count + 1, count + 2):
            return None, [f"{not_imported}: expected {count + 2} arrays, got {len(arrays)}"]
        if stored.names:
            arrays = _ordered_by_name(stored, list(slots))
            if not arrays:
                return None, [f"{not_imported}: the names of its arrays do not tell which weights they belong to"]
        if len(arrays) == count + 2:
            rate = float(arrays[1])
        if not isinstance(rate, float):
            return None, [f"{not_imported}: its learning rate follows a schedule"]
        optimizer = rule.make(model, rate, settings)
        optimizer.restore(_convert_state(optimizer, rule.slots(rate, settings), arrays, trained))
    except (KeyError, TypeError, ValueError, ArithmeticError, SpecnetError) as error:
        return None, [f"{not_imported}: {error}"[:200]]
    clipped = [key for key in ("clipnorm", "clipvalue", "global_clipnorm") if settings.get(key)]
    return optimizer, [f"the optimizer's {key} was not imported" for key in clipped]


def _ordered_by_name(stored: Stored, slots: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Return the arrays in the order of Keras 3, which their names decide; nothing if the names do not decide it."""
    weights = [_plain(weight) for weight in stored.weights]
    known = set(weights)
    found: dict[tuple[str, str], npt.NDArray[Any]] = {}
    for name, array in zip(stored.names, stored.arrays, strict=True):
        key = _slot_of(_plain(name), slots, known)
        if key in found:
            return []
        found[key] = array
    wanted = [("", "steps"), *([("", "rate")] if ("", "rate") in found else [])]
    wanted += [(weight, slot) for weight in weights for slot in slots]
    is_complete = len(known) == len(weights) and found.keys() == set(wanted)
    return [found[key] for key in wanted] if is_complete else []


def _plain(name: str) -> str:
    """Return a variable's name as Keras 3 writes it within others: dense/kernel:0 becomes dense_kernel."""
    return name.partition(":")[0].replace("/", "_")


def _slot_of(name: str, slots: Sequence[str], weights: Collection[str]) -> tuple[str, str]:
    """Return the weight and the slot of a variable: adam_WEIGHT_SLOT, or adam_SLOT_WEIGHT in Keras 2.11 to 2.15."""
    parts = name.split("_") if len(name) < 1000 else []
    for start in range(1, len(parts)):  # the first one that fits is the longest name of a weight
        for slot in slots:
            if parts[-1] in _SLOT_NAMES[slot] and "_".join(parts[start:-1]) in weights:
                return "_".join(parts[start:-1]), slot
            if parts[start] in _SLOT_NAMES[slot] and "_".join(parts[start + 1 :]) in weights:
                return "_".join(parts[start + 1 :]), slot
    is_rate = parts[-2:] == ["learning", "rate"]
    return "", "rate" if is_rate else "steps" if parts and parts[-1] in ("iter", "iteration", "iterations") else name


def _convert_state(
    optimizer: Optimizer, slots: Slots, arrays: Sequence[npt.NDArray[Any]], trained: Sequence[str]
) -> dict[str, Any]:
    """Convert Keras's arrays to an optimizer state; parameters that Keras does not train get a state of zeros."""
    state = {key: value if key == "steps" else np.zeros_like(value) for key, value in optimizer.state.items()}
    state["steps"] = int(arrays[0])
    slot_arrays = iter(arrays[len(arrays) - len(slots) * len(trained) :])
    for variable in trained:
        owner, _, target = variable.rpartition(".")
        for slot, factor in slots.items():
            ((name, value),) = from_keras_array(target, next(slot_arrays)).items()
            full = f"{owner}.{name}"
            key = f"{slot}/{full}"
            if [size for size in value.shape if size > 1] != [size for size in state[key].shape if size > 1]:
                message = f"expected {full} of shape {state[key].shape}, its state has the shape {value.shape}"
                raise SpecnetError(message)
            state[key] = (value * factor).reshape(state[key].shape)
    return state
