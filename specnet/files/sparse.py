"""A file in memory that keeps the pages which were written to, and no others."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

PAGE = 4096


class SparseFile(io.RawIOBase):
    """What HDF5 takes for the file: keeps the pages that it writes to. Data are never written, so they are few."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.end = 0
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.end}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        written = memoryview(data).cast("B")
        self.put(self._position, written)
        self._position += len(written)
        self.end = max(self.end, self._position)
        return len(written)

    def put(self, offset: int, data: memoryview) -> None:
        """Lay data over the pages."""
        self._position = offset
        for page, start, at, length in self._spans(len(data)):
            self.pages.setdefault(page, bytearray(PAGE))[start : start + length] = data[at : at + length]

    def clear(self, start: int, stop: int) -> None:
        """Zero a span."""
        for page in range(start - start % PAGE, stop, PAGE):
            if page in self.pages:
                a, b = max(start - page, 0), min(stop - page, PAGE)
                self.pages[page][a:b] = bytes(b - a)

    def put_ends(self, offset: int, data: memoryview) -> None:
        """Lay the ends of data that are written already over the pages that the library has written to."""
        head, tail = -offset % PAGE, (offset + len(data)) % PAGE
        for at, part in ((offset, data[:head]), (offset + len(data) - tail, data[len(data) - tail :])):
            if at - at % PAGE in self.pages:
                self.put(at, part)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        for page, start, at, length in self._spans(len(view)):
            view[at : at + length] = self.pages.get(page, bytes(PAGE))[start : start + length]
        self._position += len(view)
        return len(view)

    def _spans(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Cut the next `length` bytes at page borders: (page, start in it, start in the data, length)."""
        at = 0
        while at < length:
            start = (self._position + at) % PAGE
            step = min(PAGE - start, length - at)
            yield self._position + at - start, start, at, step
            at += step

    def truncate(self, size: int | None = None) -> int:
        self.end = self._position if size is None else size
        return self.end

    def flush(self) -> None:
        """Nothing is held back."""
