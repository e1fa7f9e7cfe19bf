"""A look at the fields of an ONNX file before it is parsed: parsed, an empty node takes 75 times its two bytes."""

from __future__ import annotations

from typing import Any, TypeAlias

from specnet.interop.imported_model import unsupported

LARGEST_FILE = 2**31
"""The size limit of a protobuf message, and so of an ONNX file without external data."""


MOST_FIELDS = 1_000_000
"""At most about 150 MB of parsed messages; a graph of 20,000 nodes has about a quarter of these fields."""


_Kinds: TypeAlias = dict[int, Any]
"""The fields of a message that are messages themselves: their numbers and their descriptors."""


def check_fields(name: str, data: bytes, descriptor: Any) -> None:
    """Raise CheckpointUnsupportedError if a message has more than MOST_FIELDS fields, counting those of its parts.

    Bytes that are no message are left to the parser, which reports them.
    """
    kinds: dict[str, _Kinds] = {}
    open_messages = [(len(data), _messages_in(descriptor, kinds))]
    position = 0
    for _ in range(MOST_FIELDS):
        while open_messages and position >= open_messages[-1][0]:
            open_messages.pop()
        if not open_messages:
            return
        key, position = _varint(data, position)
        length, position = _varint(data, position) if key & 7 in (0, 2) else ({1: 8, 5: 4}.get(key & 7, -1), position)
        if key >= 0 and key & 7 in (3, 4):  # the parser would skip the group, with all that it contains
            raise unsupported(name, "has a group, which ONNX never writes")
        if key < 0 or length < 0:
            return
        inner = open_messages[-1][1].get(key >> 3) if key & 7 == 2 else None
        if inner is not None:
            open_messages.append((position + length, _messages_in(inner, kinds)))
        elif key & 7:
            position += length
    raise unsupported(name, f"has more than {MOST_FIELDS:,} fields; specnet reads graphs of up to 20,000 nodes")


def _messages_in(descriptor: Any, kinds: dict[str, _Kinds]) -> _Kinds:
    """Return the fields of a message that are messages; `kinds` remembers them by the message's name."""
    if descriptor.full_name not in kinds:
        fields = [field for field in descriptor.fields if field.message_type is not None]
        kinds[descriptor.full_name] = {field.number: field.message_type for field in fields}
    return kinds[descriptor.full_name]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return an integer of up to ten bytes of seven bits, and the position after it; -1 if there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    return -1, position
