"""Links of a group: the link message, and the heap and B-tree that hold the messages of larger groups."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from specnet.checkpoint.hdf5.metadata import UNDEFINED, Reader, lookup3

# The values that h5py's HDF5 library uses for the links of a group; other values come from another writer.
_HEAP_ID_SIZE = 7


_MAX_MANAGED = 4096


_TABLE_WIDTH = 4


_START_BLOCK = 512


_MAX_DIRECT_BLOCK = 65536


_HEAP_BITS = 32


_BLOCK_PREFIX = 4 + 1 + 8 + 4  # signature, version, address of the heap's header, offset in the heap


_DIRECT_ROWS = 9  # rows of a block table whose blocks are direct: up to _MAX_DIRECT_BLOCK


_NODE_SIZE = 512


_RECORD_SIZE = 11


_MAX_DEPTH = 4


_NODE_PREFIX = 6


def parse_link(reader: Reader, path: str, body: bytes) -> tuple[str, int]:
    """Return name and target address of a link message. Only hard links with ASCII names are supported."""
    where = f"a link in {path or '/'}"
    if body[:1] != b"\x01" or body[1:2] not in (b"\0", b"\x01"):
        reader.foreign(f"{where} is not a plain hard link")
    width = 1 << body[1]
    length = int.from_bytes(body[2 : 2 + width], "little")
    name, target = body[2 + width : 2 + width + length], body[2 + width + length :]
    if len(target) != 8 or not name or b"/" in name or not name.isascii():
        reader.corrupt(f"{where} is broken")
    return reader.text(name, where), int.from_bytes(target, "little")


def dense_links(reader: Reader, heap: int, tree: int) -> Iterator[bytes]:
    """Yield the link messages of a large group in the order of its index by name."""
    blocks = _heap_blocks(reader, heap)
    starts = list(blocks)  # ascending; HDF5 leaves out blocks that are too small for the first names
    for record in _tree_records(reader, tree):
        identifier = record[4:]
        offset, length = int.from_bytes(identifier[1:5], "little"), int.from_bytes(identifier[5:7], "little")
        index = bisect_right(starts, offset) - 1
        start = starts[index] if index >= 0 else offset
        body = blocks.get(start, b"")[offset - start : offset - start + length]
        if identifier[0] != 0 or len(body) != length or offset - start < _BLOCK_PREFIX + 4:
            reader.corrupt("a name index points outside its heap")
        name, _ = parse_link(reader, "a large group", body)
        if lookup3(name.encode()) != int.from_bytes(record[:4], "little"):
            reader.corrupt("a name index has a wrong hash")
        yield body


def _heap_blocks(reader: Reader, address: int) -> dict[int, bytes]:
    """Return the blocks of a fractal heap: offset in the heap -> bytes of the direct block that begins there."""
    header = reader.checked(address, 146, b"FRHP")
    parameters = [
        int.from_bytes(header[a:b], "little")
        for a, b in ((5, 7), (7, 9), (10, 14), (110, 112), (112, 120), (120, 128), (128, 130))
    ]
    expected = [_HEAP_ID_SIZE, 0, _MAX_MANAGED, _TABLE_WIDTH, _START_BLOCK, _MAX_DIRECT_BLOCK, _HEAP_BITS]
    if parameters != expected or header[4] != 0 or header[9] != 2:
        reader.foreign("a heap of links has unsupported parameters")
    free_space = int.from_bytes(header[38:46], "little")
    if free_space != UNDEFINED:
        _claim_free_space(reader, free_space, address)
    root, rows = int.from_bytes(header[132:140], "little"), int.from_bytes(header[140:142], "little")
    blocks: dict[int, bytes] = {}
    if rows == 0:
        blocks[0] = _direct_block(reader, root, _START_BLOCK, 0, address)
    else:
        _indirect_block(reader, root, rows, 0, address, blocks)
    return blocks


def _direct_block(reader: Reader, address: int, size: int, offset: int, heap: int) -> bytes:
    data = reader.claim(address, size)
    prefix = b"FHDB\0" + heap.to_bytes(8, "little") + offset.to_bytes(4, "little")
    if not data.startswith(prefix):
        reader.corrupt(f"there is no FHDB structure of this heap at byte {address}")
    checksum = data[_BLOCK_PREFIX : _BLOCK_PREFIX + 4]
    if lookup3(data[:_BLOCK_PREFIX] + b"\0\0\0\0" + data[_BLOCK_PREFIX + 4 :]) != int.from_bytes(checksum, "little"):
        reader.corrupt(f"the checksum of the FHDB structure at byte {address} is wrong")
    return data


def _row_block_size(row: int) -> int:
    return _START_BLOCK << max(row - 1, 0)


def _indirect_block(reader: Reader, address: int, rows: int, offset: int, heap: int, blocks: dict[int, bytes]) -> None:
    if not 0 < rows <= _HEAP_BITS:
        reader.corrupt("a heap of links has an impossible number of rows")
    data = reader.checked(address, _BLOCK_PREFIX + 8 * rows * _TABLE_WIDTH + 4, b"FHIB")
    if data[4:_BLOCK_PREFIX] != b"\0" + heap.to_bytes(8, "little") + offset.to_bytes(4, "little"):
        reader.corrupt(f"there is no FHIB structure of this heap at byte {address}")
    for index in range(rows * _TABLE_WIDTH):
        size = _row_block_size(index // _TABLE_WIDTH)
        if offset + size > 2**_HEAP_BITS:
            reader.corrupt("a heap of links is larger than its maximum size")
        at = _BLOCK_PREFIX + 8 * index
        child = int.from_bytes(data[at : at + 8], "little")
        if child != UNDEFINED:
            if index // _TABLE_WIDTH < _DIRECT_ROWS:
                blocks[offset] = _direct_block(reader, child, size, offset, heap)
            else:
                child_rows = (size // (_START_BLOCK * _TABLE_WIDTH)).bit_length()
                _indirect_block(reader, child, child_rows, offset, heap, blocks)
        offset += size


def _claim_free_space(reader: Reader, address: int, heap: int) -> None:
    """Claim the list of the free bytes of a heap, which only writers need."""
    header = reader.checked(address, 82, b"FSHD")
    sections, used, size = (int.from_bytes(header[a : a + 8], "little") for a in (54, 62, 70))
    if sections != UNDEFINED:
        body = reader.claim(sections, size)
        if not body.startswith(b"FSSE\0" + address.to_bytes(8, "little")) or used > size or used < 17:
            reader.corrupt(f"there is no FSSE structure at byte {sections} (for the heap at byte {heap})")
        reader.unused(sections + used, body[used:], f"after the FSSE structure at byte {sections}")
        if lookup3(body[: used - 4]) != int.from_bytes(body[used - 4 : used], "little"):
            reader.corrupt(f"the checksum of the FSSE structure at byte {sections} is wrong")


def _tree_records(reader: Reader, address: int) -> Iterator[bytes]:
    """Yield the records of a version 2 B-tree of link names, in order."""
    header = reader.checked(address, 38, b"BTHD")
    if header[4:6] != b"\0\x05" or header[14:16] != bytes((100, 40)):
        reader.foreign("a name index has unsupported parameters")
    node_size, record_size = int.from_bytes(header[6:10], "little"), int.from_bytes(header[10:12], "little")
    depth, root = int.from_bytes(header[12:14], "little"), int.from_bytes(header[16:24], "little")
    count, total = int.from_bytes(header[24:26], "little"), int.from_bytes(header[26:34], "little")
    if (node_size, record_size) != (_NODE_SIZE, _RECORD_SIZE) or depth > _MAX_DEPTH:
        reader.foreign("a name index has unsupported parameters")
    records = list(_node_records(reader, root, count, depth))
    if len(records) != total:
        reader.corrupt("the number of entries in a name index differs from its header")
    yield from records


def _node_records(reader: Reader, address: int, count: int, depth: int) -> Iterator[bytes]:
    signature = b"BTIN" if depth else b"BTLF"
    pointer = _pointer_size(depth) if depth else 0
    used = _NODE_PREFIX + _RECORD_SIZE * count + pointer * (count + 1) if depth else _NODE_PREFIX + _RECORD_SIZE * count
    if count == 0 or used + 4 > _NODE_SIZE:
        reader.corrupt(f"the index node at byte {address} has an impossible number of entries")
    data = reader.checked(address, _NODE_SIZE, signature, used)
    if data[4:6] != b"\0\x05":
        reader.corrupt(f"the index node at byte {address} has an unexpected version or type")
    records = [data[at : at + _RECORD_SIZE] for at in range(_NODE_PREFIX, _NODE_PREFIX + _RECORD_SIZE * count, 11)]
    if not depth:
        yield from records
        return
    children = data[_NODE_PREFIX + _RECORD_SIZE * count :]
    for index in range(count + 1):
        child = children[pointer * index : pointer * (index + 1)]
        yield from _node_records(reader, int.from_bytes(child[:8], "little"), child[8], depth - 1)
        yield from records[index : index + 1]


def _node_capacity(depth: int) -> tuple[int, int]:
    """Return the most records in a node at a depth, and the most in the node and all nodes below it."""
    if depth == 0:
        most = (_NODE_SIZE - 10) // _RECORD_SIZE
        return most, most
    pointer = _pointer_size(depth)
    most = (_NODE_SIZE - 10 - pointer) // (_RECORD_SIZE + pointer)
    return most, (most + 1) * _node_capacity(depth - 1)[1] + most


def _pointer_size(depth: int) -> int:
    """Return the size of a child pointer: address, record count (one byte), and, if depth > 1, count of all below."""
    total_bytes = (_node_capacity(depth - 1)[1].bit_length() + 7) // 8 if depth > 1 else 0
    return 8 + 1 + total_bytes
