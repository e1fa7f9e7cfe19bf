"""Read the metadata of an HDF5 file within bounds, verify its checksums, and track which bytes belong to structures."""

from __future__ import annotations

from collections.abc import Iterator
from io import RawIOBase
from typing import BinaryIO, NoReturn

from specnet.errors import CheckpointCorruptError, CheckpointUnsupportedError

UNDEFINED = 2**64 - 1
"""The address that HDF5 stores for "none"."""


MAX_PATH_DEPTH = 256


class Reader:
    """Reads metadata from an open file and tracks which bytes belong to structures."""

    def __init__(self, file: BinaryIO | RawIOBase, name: str, size: int) -> None:
        self.file = file
        self.name = name
        self.size = size
        self.extents: dict[int, int] = {}
        self.claimed_bytes = 0
        self.path_length = 0

    def corrupt(self, what: str) -> NoReturn:
        """Raise CheckpointCorruptError for bytes that specnet cannot have written."""
        msg = f"{self.name}: {what}; the file is damaged"
        raise CheckpointCorruptError(msg)

    def foreign(self, what: str) -> NoReturn:
        """Raise CheckpointUnsupportedError for what HDF5 allows but specnet does not write."""
        self.unsupported(
            f"{what}: specnet does not write files like this; if another program has rewritten a checkpoint, "
            "`specnet import FILE --out CKPT` reads it"
        )

    def unsupported(self, what: str) -> NoReturn:
        """Raise CheckpointUnsupportedError for a file that specnet does not read."""
        msg = f"{self.name}: {what}"
        raise CheckpointUnsupportedError(msg)

    def peek(self, offset: int, size: int) -> bytes:
        """Return bytes without claiming them."""
        if offset < 0 or size < 0 or offset + size > self.size:
            self.corrupt(f"a structure at byte {offset} reaches beyond the end of the file ({self.size} bytes)")
        self.file.seek(offset)
        data = self.file.read(size)
        if data is None or len(data) != size:
            self.corrupt("it became shorter while it was read")
        return data

    def claim(self, offset: int, size: int) -> bytes:
        """Return bytes and claim them for one structure."""
        data = self.peek(offset, size)
        self.own(offset, size)
        return data

    def own(self, offset: int, size: int) -> None:
        """Claim bytes for one structure. Rejects a second structure at its offset, so that no walk runs in a cycle."""
        self.claimed_bytes += size
        if offset in self.extents or self.claimed_bytes > self.size:
            self.corrupt(f"two structures share the bytes from {offset} on")
        self.extents[offset] = offset + size

    def name_path(self, path: str) -> str:
        """Return a path and count its length: paths of deep groups with long names could far exceed the file size."""
        self.path_length += len(path)
        if path.count("/") > MAX_PATH_DEPTH or self.path_length > 8 * self.size + 2**20:
            self.foreign("its groups nest too deeply")
        return path

    def checked(self, offset: int, size: int, signature: bytes, used: int | None = None) -> bytes:
        """Claim a structure of `size` bytes, check its signature and checksum, and return its first `used` bytes."""
        data = self.claim(offset, size)
        used = size - 4 if used is None else used
        self.unused(offset + used + 4, data[used + 4 :], f"after the {signature.decode()} structure at byte {offset}")
        if not data.startswith(signature):
            self.corrupt(f"there is no {signature.decode()} structure at byte {offset}")
        if lookup3(data[:used]) != int.from_bytes(data[used : used + 4], "little"):
            self.corrupt(f"the checksum of the {signature.decode()} structure at byte {offset} is wrong")
        return data[:used]

    def unused(self, _offset: int, data: bytes, where: str) -> None:
        """Check that the unused bytes of a structure are zero."""
        if data.strip(b"\0"):
            self.corrupt(f"there are nonzero bytes {where}")

    def text(self, data: bytes, where: str) -> str:
        """Decode text from the file. It must be printable, because messages and paths contain it."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self.corrupt(f"{where} is not UTF-8")
        if not text.isprintable():
            self.corrupt(f"{where} contains unprintable characters")
        return text

    def check_extents(self) -> None:
        """Check that no two structures overlap and that every byte outside them is zero."""
        for start, stop in self.gaps():
            for at in range(start, stop, 2**20):
                step = min(stop - at, 2**20)
                if self.peek(at, step).count(0) != step:
                    self.corrupt(f"there are nonzero bytes outside all structures, after byte {at}")

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the spans outside all structures. Rejects structures that overlap."""
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
