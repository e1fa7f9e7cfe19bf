"""SHA-256s of many arrays, on a second thread while the first reads or writes; hashlib lets both run at once."""

from __future__ import annotations

import _thread  # threading.Thread.start waits for a thread that may never begin where memory has run out
from collections import deque
from hashlib import sha256
from types import TracebackType
from typing import Self

WORTH_A_THREAD = 2**20
"""Bytes from which a second thread is begun: starting one takes as long as hashing some 50 kB."""


class Digests:
    """Collects data under keys and gives the digests of all in the end; the data must not change in between.

    The second thread takes what came first, and who waits for the results what came last.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, memoryview]] = deque()
        self._found: dict[str, str] = {}
        self._failure: BaseException | None = None
        self._busy = _thread.allocate_lock()  # held by the second thread while it has something
        self._running = False
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._waiting.clear()
        with self._busy:
            pass  # what the second thread has begun is done

    def add(self, key: str, data: memoryview | bytes) -> None:
        """Have these bytes hashed."""
        view = memoryview(data).cast("B")
        self._waiting.append((key, view))
        self._bytes += len(view)
        if self._bytes >= WORTH_A_THREAD and not self._running:
            self._running = True
            try:
                _thread.start_new_thread(self._work, ())
            except RuntimeError:
                return  # no thread is to be had: who waits for the results does it all

    def finish(self) -> dict[str, str]:
        """Give the digests, in hex, by key."""
        while self._hash_one(last=True):
            pass
        with self._busy:
            pass
        if self._failure is not None:
            raise self._failure
        return self._found

    def _work(self) -> None:
        try:
            while self._running:
                with self._busy:
                    self._running = self._hash_one(last=False)
        except BaseException as error:  # noqa: BLE001 - raised where the results are asked for
            self._failure = error

    def _hash_one(self, *, last: bool) -> bool:
        """Hash one of those that wait; False where none does."""
        try:
            key, view = self._waiting.pop() if last else self._waiting.popleft()
        except IndexError:
            return False
        self._found[key] = sha256(view).hexdigest()
        return True
