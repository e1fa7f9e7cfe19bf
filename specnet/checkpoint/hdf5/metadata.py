"""Bytes of an HDF5 file's metadata: read within bounds, held against their checksums, accounted for."""

from __future__ import annotations

from collections.abc import Iterator
from io import RawIOBase
from typing import BinaryIO, NoReturn

from specnet.errors import CheckpointCorruptError, CheckpointUnsupportedError

UNDEFINED = 2**64 - 1
"""HDF5's address of nothing."""


MAX_PATH_DEPTH = 256


class Reader:
    """Reads metadata from an open file and notes which bytes it has accounted for."""

    def __init__(self, file: BinaryIO | RawIOBase, name: str, size: int) -> None:
        self.file = file
        self.name = name
        self.size = size
        self.extents: dict[int, int] = {}
        self.owned = 0
        self.named = 0

    def corrupt(self, what: str) -> NoReturn:
        """Refuse bytes that specnet cannot have written so."""
        msg = f"{self.name}: {what}; the file is damaged"
        raise CheckpointCorruptError(msg)

    def foreign(self, what: str) -> NoReturn:
        """Refuse what HDF5 allows and specnet does not write."""
        self.unsupported(
            f"{what}: not as specnet writes it; if another program has rewritten a checkpoint, "
            "`specnet import FILE --out CKPT` reads it"
        )

    def unsupported(self, what: str) -> NoReturn:
        """Refuse a file of another kind."""
        msg = f"{self.name}: {what}"
        raise CheckpointUnsupportedError(msg)

    def peek(self, offset: int, size: int) -> bytes:
        """Read bytes without accounting for them."""
        if offset < 0 or size < 0 or offset + size > self.size:
            self.corrupt(f"a structure at byte {offset} reaches beyond the end of the file ({self.size} bytes)")
        self.file.seek(offset)
        data = self.file.read(size)
        if data is None or len(data) != size:
            self.corrupt("it became shorter while it was read")
        return data

    def claim(self, offset: int, size: int) -> bytes:
        """Read bytes that belong to one structure."""
        data = self.peek(offset, size)
        self.own(offset, size)
        return data

    def own(self, offset: int, size: int) -> None:
        """Account for bytes; at once refused when a structure begins where another did: no walk goes in circles."""
        self.owned += size
        if offset in self.extents or self.owned > self.size:
            self.corrupt(f"two structures share the bytes from {offset} on")
        self.extents[offset] = offset + size

    def name_path(self, path: str) -> str:
        """Account for a path: deep groups of long names would make all paths together far longer than the file."""
        self.named += len(path)
        if path.count("/") > MAX_PATH_DEPTH or self.named > 8 * self.size + 2**20:
            self.foreign("its groups nest too deeply")
        return path

    def checked(self, offset: int, size: int, signature: bytes, used: int | None = None) -> bytes:
        """Read a structure of `size` bytes that begins with a signature; a checksum follows its `used` bytes."""
        data = self.claim(offset, size)
        used = size - 4 if used is None else used
        self.unused(offset + used + 4, data[used + 4 :], f"behind the {signature.decode()} structure at byte {offset}")
        if not data.startswith(signature):
            self.corrupt(f"no {signature.decode()} structure stands at byte {offset}")
        if lookup3(data[:used]) != int.from_bytes(data[used : used + 4], "little"):
            self.corrupt(f"the checksum of the {signature.decode()} structure at byte {offset} is wrong")
        return data[:used]

    def unused(self, _offset: int, data: bytes, where: str) -> None:
        """Hold that bytes of a structure which say nothing are zero."""
        if data.strip(b"\0"):
            self.corrupt(f"bytes stand {where}")

    def text(self, data: bytes, where: str) -> str:
        """Decode text from the file; printable, as it goes into messages and paths."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self.corrupt(f"{where} is not UTF-8")
        if not text.isprintable():
            self.corrupt(f"{where} holds characters that cannot be printed")
        return text

    def check_extents(self) -> None:
        """Hold that no two structures overlap and that every byte outside them is zero."""
        for start, stop in self.gaps():
            for at in range(start, stop, 2**20):
                step = min(stop - at, 2**20)
                if self.peek(at, step).count(0) != step:
                    self.corrupt(f"bytes that belong to nothing stand after byte {at}")

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the spans that belong to nothing; refuse structures that overlap."""
        end = 0
        for start, stop in [*sorted(self.extents.items()), (self.size, self.size)]:
            if start < end:
                self.corrupt(f"two structures share the bytes from {start} on")
            if end < start:
                yield end, start
            end = max(end, stop)


def lookup3(data: bytes) -> int:
    """Compute the checksum of HDF5's metadata: Bob Jenkins's lookup3 (hashlittle, 2006) with initial value 0."""
    mask = 0xFFFFFFFF
    length = len(data)
    a = b = c = (0xDEADBEEF + length) & mask
    words = memoryview(data + b"\0" * (-length % 12)).cast("I")
    last = max(len(words) - 3, 0)
    for i in range(0, last, 3):
        a, b, c = (a + words[i]) & mask, (b + words[i + 1]) & mask, (c + words[i + 2]) & mask
        a = (a - c) & mask ^ (c << 4 & mask | c >> 28)
        c = (c + b) & mask
        b = (b - a) & mask ^ (a << 6 & mask | a >> 26)
        a = (a + c) & mask
        c = (c - b) & mask ^ (b << 8 & mask | b >> 24)
        b = (b + a) & mask
        a = (a - c) & mask ^ (c << 16 & mask | c >> 16)
        c = (c + b) & mask
        b = (b - a) & mask ^ (a << 19 & mask | a >> 13)
        a = (a + c) & mask
        c = (c - b) & mask ^ (b << 4 & mask | b >> 28)
        b = (b + a) & mask
    if not length:
        return c
    a, b, c = (a + words[last]) & mask, (b + words[last + 1]) & mask, (c + words[last + 2]) & mask
    c = ((c ^ b) - (b << 14 & mask | b >> 18)) & mask
    a = ((a ^ c) - (c << 11 & mask | c >> 21)) & mask
    b = ((b ^ a) - (a << 25 & mask | a >> 7)) & mask
    c = ((c ^ b) - (b << 16 & mask | b >> 16)) & mask
    a = ((a ^ c) - (c << 4 & mask | c >> 28)) & mask
    b = ((b ^ a) - (a << 14 & mask | a >> 18)) & mask
    return ((c ^ b) - (b << 24 & mask | b >> 8)) & mask
