"""Listeners that show the progress of a run: a bar on a terminal, otherwise a line per epoch, or JSON for programs."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from specnet.cli.output import metrics_text, note
from specnet.training.loop import Event

SHOWN_EVERY = 0.1
"""Seconds between two updates of the bar; steps may take only microseconds."""


@contextlib.contextmanager
def counting(task_name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal; yield the function that updates it, called with the done and the total amount."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    with Progress(transient=True, console=console) as progress:
        task = progress.add_task(task_name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def epoch_text(event: Event) -> str:
    """Return a line about a finished epoch."""
    return f"epoch {event.run.epoch}/{event.run.training.epochs} · {metrics_text(event.metrics)}"


class LineProgress:
    """A listener that prints one line per epoch, for output other than a terminal."""

    def __call__(self, event: Event) -> None:
        """Print the metrics of a finished epoch."""
        if event.kind == "epoch":
            note(epoch_text(event))


class BarProgress:
    """A listener for a terminal: a bar with the running metrics, and a line for each finished epoch."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(16), TextColumn("{task.completed}/{task.total}"),
                   TimeRemainingColumn(), TextColumn("{task.fields[rate]}"),
                   TextColumn("{task.fields[metrics]}"))  # fmt: skip
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task: TaskID | None = None
        self._start_time = self._updated = 0.0
        self._first_batch = 0

    def __call__(self, event: Event) -> None:
        """Update the bar; remove it at the end of an epoch and print the epoch's line."""
        run = event.run
        if event.kind == "step":
            self._step(event)
        elif event.kind == "start":
            self._progress.start()
        elif event.kind == "epoch":
            if self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
            seconds = max(time.monotonic() - self._start_time, 1e-9)
            rate = (run.batches - self._first_batch) * run.training.step_rows / seconds
            self._console.print(f"{epoch_text(event)} · {rate:,.0f} rows/s", soft_wrap=True)
            self._start_time = 0.0
        elif event.kind in ("end", "failed"):
            self._progress.stop()

    def _step(self, event: Event) -> None:
        run, now = event.run, time.monotonic()
        if not self._start_time:
            self._start_time, self._first_batch = now, run.batch - 1
        if now - self._updated < SHOWN_EVERY:
            return
        self._updated = now
        if self._task is None:
            name = f"epoch {run.epoch + 1}/{run.training.epochs}"
            self._task = self._progress.add_task(name, total=run.batches, rate="", metrics="")
        rate = (run.batch - self._first_batch) * run.training.step_rows / max(now - self._start_time, 1e-9)
        fields = {"rate": f"{rate:,.0f} rows/s", "metrics": metrics_text(run.epoch_metrics.values())}
        self._progress.update(self._task, completed=run.batch, **fields)  # type: ignore[arg-type]


class JsonProgress:
    """A listener that prints each event except steps as a line of JSON to standard output."""

    def __call__(self, event: Event) -> None:
        """Print the event; NaN and infinities become null."""
        run = event.run
        if event.kind == "step":
            return
        fields: dict[str, Any] = {"event": event.kind, "epoch": run.epoch, "step": run.step}
        if event.kind == "start":
            fields |= {"epochs": run.training.epochs, "steps_per_epoch": run.batches, "rows": len(run.data)}
        fields |= {name: value if math.isfinite(value) else None for name, value in event.metrics.items()}
        print(json.dumps(fields), flush=True)
