"""Read the next item in a second thread while the current one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items; a second thread produces each one while the item before it is in use.

    The thread ends with the iteration, also if the iteration is abandoned.
    """
    stopped = threading.Event()
    results: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)

    def put(entry: tuple[T | None, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                results.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return

    def produce() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # noqa: BLE001 - the consuming thread raises it
            put((None, error))

    try:
        threading.Thread(target=produce, name="specnet: reading ahead", daemon=True).start()
        while True:
            item, error = results.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
