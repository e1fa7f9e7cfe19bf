"""The optimizer of a Keras file becomes one of ours, as far as the two compute the same.

Keras adds epsilon to the root of the uncorrected second moment, ours to that of the corrected one: with the same state
the next steps differ by less than epsilon's share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.model import Model
from specnet.training.optimizers.base import Optimizer
from specnet.training.optimizers.rules import SGD, Adagrad, Adam, AdamW, Lion, RMSprop

Settings = Mapping[str, Any]


Slots = dict[str, float]


class _Rule(NamedTuple):
    """How an optimizer is made from Keras's settings, and what its slots are of Keras's, in Keras's order.

    A slot is Keras's array times a factor: our Adam keeps its moments without their factors 1 - beta, and Keras's SGD
    keeps its velocity with the factor -learning_rate.
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


_DECAY = "weight_decay"  # Keras decouples it in every optimizer, ours in AdamW and Lion alone


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


def restored(
    model: Model, written: Any, arrays: Sequence[npt.NDArray[Any]], trained: Sequence[str]
) -> tuple[Optimizer | None, list[str]]:
    """Make the optimizer that a file holds, and say what of it is left behind.

    `written` is its class and settings as Keras writes them, `arrays` its variables: the steps taken, in some versions
    the learning rate, then the slots of each parameter of `trained`.
    """
    if not arrays:
        told = ["the optimizer is left behind: the file has no state of it"] if isinstance(written, Mapping) else []
        return None, told
    if not isinstance(written, Mapping):
        return None, ["the optimizer is left behind: the file has its state, not its settings"]
    class_name, settings = str(written.get("class_name")).removeprefix("Custom>"), written.get("config")
    left = f"the optimizer ({class_name:.40}) is left behind"
    rule = _RULES.get(class_name)
    if rule is None or not isinstance(settings, Mapping):
        return None, [left]
    odd = [key for key in (*rule.refused, "use_ema", "decay", "is_legacy_optimizer") if settings.get(key)]
    if odd:
        return None, [f"{left}: ours has no {odd[0]}"]
    try:
        rate = settings.get("learning_rate")
        count = len(rule.slots(1.0, settings)) * len(trained)
        if len(arrays) == count + 2:
            rate = float(arrays[1])
        elif len(arrays) != count + 1:
            return None, [f"{left}: {len(arrays)} arrays, expected {count + 2}"]
        if not isinstance(rate, float):
            return None, [f"{left}: its learning rate follows a schedule"]
        optimizer = rule.make(model, rate, settings)
        optimizer.restore(_state(optimizer, rule.slots(rate, settings), arrays, trained))
    except (KeyError, TypeError, ValueError, ArithmeticError, SpecnetError) as error:
        return None, [f"{left}: {error}"[:200]]
    clipped = [key for key in ("clipnorm", "clipvalue", "global_clipnorm") if settings.get(key)]
    return optimizer, [f"the optimizer's {key} is left behind" for key in clipped]


def _state(
    optimizer: Optimizer, slots: Slots, arrays: Sequence[npt.NDArray[Any]], trained: Sequence[str]
) -> dict[str, Any]:
    """Put Keras's arrays, parameter by parameter, in our names; what Keras does not train has a state of zeros."""
    state = {key: value if key == "steps" else np.zeros_like(value) for key, value in optimizer.state.items()}
    state["steps"] = int(arrays[0])
    found = iter(arrays[len(arrays) - len(slots) * len(trained) :])
    for full in trained:
        for slot, factor in slots.items():
            value = next(found)
            state[f"{slot}/{full}"] = (value * factor).reshape(state[f"{slot}/{full}"].shape)
    return state
