"""SHA-256s of many arrays, on a second thread while the first reads or writes; hashlib lets both run at once."""

from __future__ import annotations

import threading
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
        self._more = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _t: TracebackType | None
    ) -> None:
        self._waiting.clear()
        self._join()

    def add(self, key: str, data: memoryview | bytes) -> None:
        """Have these bytes hashed."""
        view = memoryview(data).cast("B")
        self._waiting.append((key, view))
        self._bytes += len(view)
        if self._thread is None and self._bytes >= WORTH_A_THREAD:
            self._begin()
        self._more.release()

    def finish(self) -> dict[str, str]:
        """Give the digests, in hex, by key."""
        while self._hash_one(last=True):
            pass
        self._join()
        if self._failure is not None:
            raise self._failure
        return self._found

    def _begin(self) -> None:
        thread = threading.Thread(target=self._work, name="specnet-digests", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had: who waits for the results does it all
            self._bytes = -(2**62)
        else:
            self._thread = thread

    def _join(self) -> None:
        if self._thread is not None:
            self._waiting.append(("", memoryview(b"")))  # the end
            self._more.release()
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        try:
            while True:
                self._more.acquire()
                if self._hash_one(last=False) is None:
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the results are asked for
            self._failure = error

    def _hash_one(self, *, last: bool) -> bool | None:
        """Hash one of those that wait; False where none does, None at the end."""
        try:
            key, view = self._waiting.pop() if last else self._waiting.popleft()
        except IndexError:
            return False
        if not key:
            return None
        self._found[key] = sha256(view).hexdigest()
        return True
