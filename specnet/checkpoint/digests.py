"""Hash many arrays on a second thread while the first reads or writes; hashlib releases the GIL for large data."""

from __future__ import annotations

import _thread  # threading.Thread.start would wait forever for a thread that cannot start for lack of memory
from collections import deque
from hashlib import sha256
from types import TracebackType
from typing import Self

WORTH_A_THREAD = 2**20
"""Bytes from which a second thread is started; starting one takes as long as hashing about 50 kB."""


class Digests:
    """Collects data under keys, and returns all digests at the end; the data must not change in between.

    The second thread hashes the oldest pending data. The thread that waits for the results hashes the newest.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[str, memoryview]] = deque()
        self._digests: dict[str, str] = {}
        self._failure: BaseException | None = None
        self._busy = _thread.allocate_lock()  # held by the second thread while it hashes
        self._running = False
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._pending.clear()
        with self._busy:
            pass  # waits until the second thread has finished its current hash

    def add(self, key: str, data: memoryview | bytes) -> None:
        """Queue these bytes for hashing."""
        view = memoryview(data).cast("B")
        self._pending.append((key, view))
        self._bytes += len(view)
        if self._bytes >= WORTH_A_THREAD and not self._running:
            self._running = True
            try:
                _thread.start_new_thread(self._hash_pending, ())
            except RuntimeError:
                return  # without a second thread, finish() hashes everything

    def finish(self) -> dict[str, str]:
        """Return the digests, in hex, by key. Raises the error of the second thread, if it failed."""
        while self._hash_one(last=True):
            pass
        with self._busy:
            pass
        if self._failure is not None:
            raise self._failure
        return self._digests

    def _hash_pending(self) -> None:
        try:
            while self._running:
                with self._busy:
                    self._running = self._hash_one(last=False)
        except BaseException as error:  # noqa: BLE001 - finish() raises it
            self._failure = error

    def _hash_one(self, *, last: bool) -> bool:
        """Hash the newest (`last`) or oldest pending data. Returns False if nothing is pending."""
        try:
            key, view = self._pending.pop() if last else self._pending.popleft()
        except IndexError:
            return False
        self._digests[key] = sha256(view).hexdigest()
        return True
