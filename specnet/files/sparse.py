"""An in-memory file that stores only the pages that were written to."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

PAGE = 4096


class SparseFile(io.RawIOBase):
    """The file that HDF5 writes to. It stores few pages, because HDF5 never writes array data."""

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
        """Write data at `offset`, in whole or partial pages."""
        self._position = offset
        for page, start, index, length in self._split_at_pages(len(data)):
            self.pages.setdefault(page, bytearray(PAGE))[start : start + length] = data[index : index + length]

    def clear(self, start: int, stop: int) -> None:
        """Set the bytes from `start` to `stop` to zero."""
        for page in range(start - start % PAGE, stop, PAGE):
            if page in self.pages:
                first, last = max(start - page, 0), min(stop - page, PAGE)
                self.pages[page][first:last] = bytes(last - first)

    def put_ends(self, offset: int, data: memoryview) -> None:
        """Write the partial pages at both ends of data, if HDF5 uses those pages; the data are on the disk already."""
        head, tail = -offset % PAGE, (offset + len(data)) % PAGE
        for position, part in ((offset, data[:head]), (offset + len(data) - tail, data[len(data) - tail :])):
            if position - position % PAGE in self.pages:
                self.put(position, part)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        for page, start, index, length in self._split_at_pages(len(view)):
            view[index : index + length] = self.pages.get(page, bytes(PAGE))[start : start + length]
        self._position += len(view)
        return len(view)

    def _split_at_pages(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Split the next `length` bytes at page borders: yield (page, start in the page, start in the data, length)."""
        index = 0
        while index < length:
            start = (self._position + index) % PAGE
            step = min(PAGE - start, length - index)
            yield self._position + index - start, start, index, step
            index += step

    def truncate(self, size: int | None = None) -> int:
        self.end = self._position if size is None else size
        return self.end

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""
