"""A recurrent layer in both directions (Schuster and Paliwal 1997)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from specnet.errors import KeyPath, ShapeError
from specnet.layer import Layer
from specnet.layers.composite import Concat
from specnet.layers.sequence.recurrent import Recurrent

SUFFIX = "_reverse"
"""Ends the name of the layer that begins with the last step."""


class Bidirectional(Concat):
    """y = the outputs of two recurrent layers of one kind, of which the second takes the steps from the last one on.

    Their outputs are joined on the last axis. The second layer has the name of the first and "_reverse".
    """

    def __init__(self, forwards: Recurrent, backwards: Recurrent, names: Sequence[str] | None = None) -> None:
        is_pair = isinstance(forwards, Recurrent) and type(forwards) is type(backwards)
        if not is_pair or forwards.reverse or not backwards.reverse:
            msg = "bidirectional: expected two recurrent layers of one kind, the second with reverse=True"
            raise ShapeError(msg)
        first = forwards.name if names is None else names[0]
        super().__init__([[forwards], [backwards]], [first, first + SUFFIX])

    @classmethod
    def lists(cls, fields: Mapping[str, Any]) -> list[tuple[KeyPath, Any]]:
        """Return the layer of the document, and the same with `reverse` and its own name."""
        layers = fields.get("layers")
        if not isinstance(layers, (list, tuple)) or len(layers) != 1:
            return [(("layers",), layers)]  # an invalid document
        return [(("layers",), layers), (("layers",), [_reversed(layers[0])])]

    @classmethod
    def is_valid(cls, fields: Mapping[str, Any]) -> bool:
        layers = fields.get("layers")
        return isinstance(layers, (list, tuple)) and len(layers) == 1 and layers[0].get("reverse") is False

    @classmethod
    def of(cls, lists: Sequence[Sequence[Layer]], names: Sequence[str]) -> Self:
        (forwards,), (backwards,) = lists
        return cls(forwards, backwards, names)  # type: ignore[arg-type]  # the constructor checks them


def _reversed(entry: Any) -> Any:
    """Return an entry of a document, an object or a spec, as that of the second layer."""
    if isinstance(entry, Mapping):
        return {**entry, "name": f"{entry.get('name', '')}{SUFFIX}", "reverse": True}
    if entry is None or not hasattr(entry, "reverse"):  # an invalid entry
        return entry
    return entry.model_copy(update={"name": f"{entry.name}{SUFFIX}", "reverse": True})
