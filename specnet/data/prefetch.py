"""Read the next item in a second thread while the current one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, each made by a second thread while the one before it is in use.

    The thread ends with the iteration, also with one that is given up.
    """
    done = threading.Event()
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)

    def put(entry: tuple[T | None, BaseException | None]) -> None:
        while not done.is_set():
            try:
                waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if done.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # noqa: BLE001 - raised where the results are asked for
            put((None, error))

    try:
        threading.Thread(target=work, name="specnet: reading ahead", daemon=True).start()
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        done.set()
