"""Base class of the optimizers: splits the model's two flat vectors into blocks, holds the state, applies decay.

State per parameter (for example moments) is kept in vectors laid out like the gradients, and saved bit for bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from specnet.arrays.parameters import Array, Span
from specnet.errors import SpecnetError
from specnet.model import Model

BLOCK = 64 * 1024
"""Elements that numpy processes at a time; all their data stay in the processor's cache during a step."""


class Block(NamedTuple):
    """Matching spans of values, gradients and state vectors, with scratch memory for BLOCK elements at most."""

    value: Array
    gradient: Array
    slots: tuple[Array, ...]
    scratch: Array
    decayed: bool


class Optimizer(ABC):
    """Base class of the optimizers: splits the vectors into blocks, counts steps, holds the state.

    `learning_rate` may be changed between steps. Weight decay applies to every parameter except those
    named in `no_decay`. `gradients` are the spans of the gradient vector whose parameters are not frozen.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    """Names of the state vectors, which are laid out like the gradients and kept from step to step."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "update" in vars(cls) and "update_by_kernel" not in vars(cls):
            cls.update_by_kernel = Optimizer.update_by_kernel  # type: ignore[method-assign]  # the base class's rule

    def __init__(
        self, model: Model, learning_rate: float, weight_decay: float = 0.0, no_decay: Collection[str] = ()
    ) -> None:
        require(math.isfinite(learning_rate) and learning_rate >= 0, "learning_rate of at least 0", learning_rate)
        require(math.isfinite(weight_decay) and weight_decay >= 0, "weight_decay of at least 0", weight_decay)
        self.model = model
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.steps = 0
        store = model.store
        self._vectors: dict[str, Array] = {slot: np.zeros_like(store.gradient_vector) for slot in self.used_slots()}
        self._scratch = np.empty(min(BLOCK, store.size), model.dtype)
        self._decay_scratch = np.empty_like(self._scratch) if weight_decay else self._scratch
        self._decayed = {name for name in model.parameters if name not in no_decay} if weight_decay else set()
        self.freeze(())

    def freeze(self, names: Collection[str]) -> None:
        """Freeze these parameters from now on, and update all others."""
        store = self.model.store
        trained_spans = (
            span for span in store.spans(lambda name: (name in names, name in self._decayed)) if not span.group[0]
        )
        self._updates = [
            (block, tuple(partial(self.update, part) for part in self._parts(block)))
            for block in map(self._block, trained_spans)
        ]
        spans = store.spans(lambda name: name in names)
        self.gradients = [store.gradient_vector] if not names else [span.gradient for span in spans if not span.group]

    def _block(self, span: Span) -> Block:
        stop = span.offset + span.value.size
        slots = tuple(vector[span.offset : stop] for vector in self._vectors.values())
        return Block(span.value, span.gradient, slots, self._scratch, span.group[1])

    @staticmethod
    def _parts(whole: Block) -> Iterator[Block]:
        """Cut a block into parts that numpy processes while they stay in the cache."""
        for start in range(0, whole.value.size, BLOCK):
            part = slice(start, min(start + BLOCK, whole.value.size))
            slots = tuple(vector[part] for vector in whole.slots)
            scratch = whole.scratch[: part.stop - start]
            yield Block(whole.value[part], whole.gradient[part], slots, scratch, whole.decayed)

    def used_slots(self) -> tuple[str, ...]:
        """Return the names of the state vectors that this optimizer's settings need."""
        return self.slots

    def step(self) -> None:
        """Update every parameter once. Raises SpecnetError if there was no backward pass yet."""
        if not self.model.has_gradients:
            msg = "optimizer.step: the model has no gradients; call model.backward(dy) first"
            raise SpecnetError(msg)
        self.steps += 1
        self.prepare()
        for block, updates in self._updates:
            if not self.update_by_kernel(block):
                for update in updates:
                    update()

    def prepare(self) -> None:  # noqa: B027 - most optimizers need nothing here
        """Compute the values that all blocks of a step share."""

    @abstractmethod
    def update(self, block: Block) -> None:
        """Update the parameters of one block."""

    def update_by_kernel(self, block: Block) -> bool:
        """Update the parameters of a block of any size in one pass on all cores; return False if there is no kernel."""
        return False

    def kernel_settings(self, block: Block, *others: float) -> Array:
        """Return settings for a kernel: weight decay (0 if it does not apply), learning rate, and others."""
        return np.array([self.weight_decay if block.decayed else 0, self.learning_rate, *others], block.value.dtype)

    def decayed_gradient(self, block: Block) -> Array:
        """Return the gradient; if decay applies, plus weight_decay * value, in scratch memory."""
        if not block.decayed:
            return block.gradient
        sum_ = np.multiply(block.value, self.weight_decay, self._decay_scratch[: block.value.size])
        return np.add(sum_, block.gradient, sum_)

    @property
    def state(self) -> dict[str, Any]:
        """State needed to resume: {"steps": n, "<slot>/<parameter>": live array}."""
        arrays = {
            f"{slot}/{name}": view
            for slot, vector in self._vectors.items()
            for name, view in self.model.store.named(vector).items()
        }
        return {"steps": self.steps, **arrays}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Copy in the state of an optimizer of the same kind and settings. Raises SpecnetError if it does not fit."""
        current = self.state
        if current.keys() != state.keys():
            mismatches = sorted(current.keys() ^ state.keys())
            msg = f"the optimizer's state belongs to another optimizer or model: {', '.join(mismatches[:4])}"
            raise SpecnetError(msg)
        self.steps = int(state["steps"])
        for key, array in current.items():
            if key != "steps":
                if np.shape(state[key]) != array.shape:
                    msg = f"the optimizer's state {key} has shape {np.shape(state[key])}, expected {array.shape}"
                    raise SpecnetError(msg)
                array[...] = state[key]

    def __reduce__(self) -> NoReturn:
        msg = "an optimizer is bound to its model's memory; copy the model, build an optimizer for it, restore(state)"
        raise SpecnetError(msg)


def require(holds: bool, expected: str, value: object) -> None:
    """Raise SpecnetError if a condition on a setting does not hold."""
    if not holds:
        msg = f"optimizer: expected {expected}, got {value!r}"
        raise SpecnetError(msg)
