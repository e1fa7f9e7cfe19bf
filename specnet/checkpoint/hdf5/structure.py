"""Read HDF5 files that contain only the structures that write.py produces.

The HDF5 library is not safe for untrusted files: a malicious file can crash or hang it on the simplest calls. This
reader follows the HDF5 File Format Specification 3.0 in plain Python, checks every signature, checksum and bound,
and rejects everything else. Structures: superblock version 2; object headers version 2 with compact links and
attributes; for groups of more than eight links, the fractal heap and version 2 B-tree of links (links.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from specnet.checkpoint.hdf5.links import dense_links, parse_link
from specnet.checkpoint.hdf5.metadata import UNDEFINED, Reader, lookup3

SIGNATURE = b"\x89HDF\r\n\x1a\n"


MAX_RANK = 32


_SUPERBLOCK_SIZE = 48


_TYPES = {
    bytes.fromhex("11201f000400000000002000170800177f000000"): ("<f4", 4),
    bytes.fromhex("11203f000800000000004000340b0034ff030000"): ("<f8", 8),
    bytes.fromhex("100800000800000000004000"): ("<i8", 8),
    bytes.fromhex("100000000800000000004000"): ("<u8", 8),
}


_TEXT_TYPE = bytes.fromhex("13110000")  # fixed length, padded with zeros, UTF-8; the size follows these bytes


_SCALAR = bytes.fromhex("02000000")


_FILL_NEVER = bytes.fromhex("0305")  # allocated early, no fill value written


_NO_DENSE_ATTRIBUTES = b"\0\0" + b"\xff" * 16


_NIL, _DATASPACE, _LINK_INFO, _DATATYPE, _FILL, _LINK, _LAYOUT, _GROUP_INFO = 0, 1, 2, 3, 5, 6, 8, 10


_ATTRIBUTE, _CONTINUATION, _ATTRIBUTE_INFO = 12, 16, 21


# The flags of each message type: 1 = constant, 4 = a writer that does not know the type must mark the message.
_FLAGS = {
    _NIL: 0,
    _DATASPACE: 0,
    _LINK_INFO: 0,
    _DATATYPE: 1,
    _FILL: 1,
    _LINK: 0,
    _LAYOUT: 1,
    _GROUP_INFO: 1,
    _ATTRIBUTE: 0,
    _CONTINUATION: 0,
    _ATTRIBUTE_INFO: 4,
}


Attributes = dict[str, str | int]


class StoredDataset(NamedTuple):
    """Position and type of a dataset; offset and size in bytes. Text has dtype "utf-8" and shape ()."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    attributes: Attributes


@dataclass
class Structure:
    """All groups and datasets of a file, by path; the path of the root group is ""."""

    groups: dict[str, Attributes] = field(default_factory=dict)
    datasets: dict[str, StoredDataset] = field(default_factory=dict)


def read_structure(file: BinaryIO, name: str) -> Structure:
    """Read the structure of a checkpoint: names, types, offsets and attributes, but no array.

    `name` begins the error messages. Raises CheckpointCorruptError and CheckpointUnsupportedError.
    """
    reader = Reader(file, name, os.fstat(file.fileno()).st_size)
    structure = walk_structure(reader)
    reader.check_extents()
    return structure


def walk_structure(reader: Reader) -> Structure:
    """Read the structure of the file of `reader`, which then knows which bytes belong to structures."""
    structure = Structure()
    pending = [("", _root_address(reader))]
    while pending:
        path, address = pending.pop()
        messages = list(_read_messages(reader, address))
        attributes = dict(_read_attributes(reader, path, messages))
        if any(kind == _LAYOUT for kind, _ in messages):
            structure.datasets[path] = _read_dataset(reader, path, messages, attributes)
        else:
            structure.groups[path] = attributes
            links = _read_links(reader, path, messages)
            pending += [(reader.name_path(f"{path}/{link}"), target) for link, target in links.items()]
    return structure


def _root_address(reader: Reader) -> int:
    if reader.size == 0:
        reader.corrupt("it is empty")
    head = reader.peek(0, min(reader.size, _SUPERBLOCK_SIZE))
    if not head.startswith(SIGNATURE[: len(head)]):
        reader.unsupported("expected a checkpoint, but it is not an HDF5 file")
    if len(head) < _SUPERBLOCK_SIZE:
        reader.corrupt(f"it is truncated to {reader.size} bytes; it was cut off while being copied or written")
    if head[8] != 2:
        reader.foreign(f"its superblock has version {head[8]}, expected 2")
    reader.claim(0, _SUPERBLOCK_SIZE)
    if lookup3(head[:44]) != int.from_bytes(head[44:], "little"):
        reader.corrupt("the checksum of the superblock is wrong")
    end = int.from_bytes(head[28:36], "little")
    if end > reader.size:
        reader.corrupt(f"it is truncated to {reader.size} of {end} bytes; it was cut off while being copied or written")
    if end < reader.size:
        reader.corrupt(f"{reader.size - end} bytes follow its end")
    if head[9:12] != b"\x08\x08\0" or head[12:28] != b"\0" * 8 + b"\xff" * 8:
        reader.foreign("its superblock has a base address, an extension or other sizes")
    return int.from_bytes(head[36:44], "little")


def _read_messages(reader: Reader, address: int) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of every message of an object header, chunk by chunk."""
    prefix = reader.peek(address, 8)
    if prefix[:4] != b"OHDR":
        reader.corrupt(f"there is no object header at byte {address}")
    if prefix[4] != 2 or prefix[5] > 1:
        reader.foreign(f"the object header at byte {address} has version {prefix[4]}, flags {prefix[5]}")
    width = 1 << prefix[5]  # of the field with the size of the first chunk
    size = int.from_bytes(prefix[6 : 6 + width], "little")
    chunk = reader.checked(address, 6 + width + size + 4, b"OHDR")[6 + width :]
    begin, where = address + 6 + width, f"in a gap of the object header at byte {address}"
    pending: list[tuple[int, int]] = []
    while True:
        at = 0
        while at + 4 <= len(chunk):
            kind, length = chunk[at], int.from_bytes(chunk[at + 1 : at + 3], "little")
            flags, body = chunk[at + 3], chunk[at + 4 : at + 4 + length]
            at += 4 + length
            if at > len(chunk):
                reader.corrupt(f"a message of the object header at byte {address} is longer than its chunk")
            if flags != _FLAGS.get(kind):
                reader.foreign(f"the object header at byte {address} has a message of type {kind}, flags {flags}")
            if kind == _CONTINUATION:
                if length != 16:
                    reader.corrupt(f"the object header at byte {address} has a broken continuation")
                pending.append((int.from_bytes(body[:8], "little"), int.from_bytes(body[8:], "little")))
            elif kind != _NIL:
                yield kind, body
            else:
                reader.unused(begin + at - length, body, where)
        reader.unused(begin + at, chunk[at:], where)
        if not pending:
            return
        start, length = pending.pop(0)
        chunk = reader.checked(start, length, b"OCHK")[4:]
        begin = start + 4


def _read_attributes(reader: Reader, path: str, messages: list[tuple[int, bytes]]) -> Iterator[tuple[str, str | int]]:
    names = set()
    for kind, body in messages:
        if kind == _ATTRIBUTE_INFO and body != _NO_DENSE_ATTRIBUTES:
            reader.foreign(f"{path or '/'} stores its attributes in a heap")
        if kind == _ATTRIBUTE:
            name, value = _read_attribute(reader, path, body)
            if name in names:
                reader.corrupt(f"{path or '/'} has the attribute {name!r} twice")
            names.add(name)
            yield name, value


def _read_attribute(reader: Reader, path: str, body: bytes) -> tuple[str, str | int]:
    where = f"an attribute of {path or '/'}"
    if body[:2] != b"\x03\0" or body[8:9] != b"\0":
        reader.foreign(f"{where} is neither scalar text nor a scalar integer")
    name_size, type_size, space_size = (int.from_bytes(body[i : i + 2], "little") for i in (2, 4, 6))
    name, rest = body[9 : 9 + name_size], body[9 + name_size :]
    kind, space, data = rest[:type_size], rest[type_size : type_size + space_size], rest[type_size + space_size :]
    if name[-1:] != b"\0" or space != _SCALAR:
        reader.foreign(f"{where} is neither scalar text nor a scalar integer")
    text = reader.text(name[:-1], where)
    if _TYPES.get(kind, ("", 0))[0] == "<i8" and len(data) == 8:
        return text, int.from_bytes(data, "little", signed=True)
    if kind[:4] != _TEXT_TYPE or len(kind) != 8 or int.from_bytes(kind[4:], "little") != len(data):
        reader.foreign(f"{where} is neither scalar text nor a scalar integer")
    return text, reader.text(data, where)


def _read_dataset(
    reader: Reader, path: str, messages: list[tuple[int, bytes]], attributes: Attributes
) -> StoredDataset:
    bodies = _require(reader, path, messages, (_DATASPACE, _DATATYPE, _FILL, _LAYOUT))
    if bodies[_FILL] != _FILL_NEVER:
        reader.foreign(f"{path} has a fill value")
    layout = bodies[_LAYOUT]
    if layout[:2] != b"\x03\x01" or len(layout) != 18:
        reader.foreign(f"{path} is not stored contiguously")
    offset, size = int.from_bytes(layout[2:10], "little"), int.from_bytes(layout[10:], "little")
    shape = _read_shape(reader, path, bodies[_DATASPACE])
    kind = bodies[_DATATYPE]
    if kind in _TYPES:
        dtype, length = _TYPES[kind]
    elif kind[:4] == _TEXT_TYPE and len(kind) == 8 and shape == ():
        dtype, length = "utf-8", int.from_bytes(kind[4:], "little")
    else:
        reader.foreign(f"{path} has an unsupported element type")
    expected = length
    for extent in shape:
        expected *= extent
    if size != expected or size == 0:
        reader.corrupt(f"{path} has {size} bytes, expected {expected} bytes for its shape {shape}")
    if offset % 8 or offset + size > reader.size:
        reader.corrupt(f"{path} lies outside the file")
    reader.own(offset, size)
    return StoredDataset(dtype, shape, offset, size, attributes)


def _read_shape(reader: Reader, path: str, space: bytes) -> tuple[int, ...]:
    if space == _SCALAR:
        return ()
    rank = space[1] if len(space) > 1 else 0
    if space[:1] != b"\x02" or space[2:4] != b"\x01\x01" or not 0 < rank <= MAX_RANK or len(space) != 4 + 16 * rank:
        reader.foreign(f"{path} has an unsupported dataspace")
    if space[4 : 4 + 8 * rank] != space[4 + 8 * rank :]:
        reader.foreign(f"{path} can be resized")
    return tuple(int.from_bytes(space[4 + 8 * i : 12 + 8 * i], "little") for i in range(rank))


def _require(reader: Reader, path: str, messages: list[tuple[int, bytes]], kinds: tuple[int, ...]) -> dict[int, bytes]:
    """Return the bodies of the messages of `kinds`: each must occur once, beside attributes only."""
    bodies: dict[int, bytes] = {}
    for kind, body in messages:
        if kind in (_ATTRIBUTE, _ATTRIBUTE_INFO):
            continue
        if kind not in kinds:
            reader.foreign(f"{path or '/'} has a header message of type {kind}")
        if kind in bodies:
            reader.corrupt(f"{path or '/'} has two header messages of type {kind}")
        bodies[kind] = body
    if len(bodies) != len(kinds):
        reader.corrupt(f"{path or '/'} lacks a header message")
    return bodies


def _read_links(reader: Reader, path: str, messages: list[tuple[int, bytes]]) -> dict[str, int]:
    """Map the names in a group to the addresses of their objects."""
    compact = [body for kind, body in messages if kind == _LINK]
    info = _require(reader, path, [m for m in messages if m[0] != _LINK], (_LINK_INFO, _GROUP_INFO))
    if info[_GROUP_INFO] != b"\0\0" or info[_LINK_INFO][:2] != b"\0\0" or len(info[_LINK_INFO]) != 18:
        reader.foreign(f"{path or '/'} is an unsupported kind of group")
    heap, tree = (int.from_bytes(info[_LINK_INFO][i : i + 8], "little") for i in (2, 10))
    if (heap == UNDEFINED) != (tree == UNDEFINED) or (heap != UNDEFINED and compact):
        reader.corrupt(f"{path or '/'} stores its links in two places")
    bodies = compact if heap == UNDEFINED else dense_links(reader, heap, tree)
    targets: dict[str, int] = {}
    for body in bodies:
        name, target = parse_link(reader, path, body)
        if name in targets:
            reader.corrupt(f"{path or '/'} has the name {name!r} twice")
        targets[name] = target
    return targets
