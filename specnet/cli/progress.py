"""Listeners that show how a run goes: a bar on a terminal, a line an epoch elsewhere, JSON for programs."""

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
"""Seconds between two looks at the running metrics; a step may take microseconds."""


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how much of something is done; gives what is told the part and the whole."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    with Progress(transient=True, console=console) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def epoch_text(event: Event) -> str:
    """Write a finished epoch on a line."""
    return f"epoch {event.run.epoch}/{event.run.training.epochs} · {metrics_text(event.metrics)}"


class LineProgress:
    """A listener that prints one line an epoch; for what is no terminal."""

    def __call__(self, event: Event) -> None:
        """Print the metrics of a finished epoch."""
        if event.kind == "epoch":
            note(epoch_text(event))


class BarProgress:
    """A listener that draws a bar with the running metrics, and a line for each finished epoch; for a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(16), TextColumn("{task.completed}/{task.total}"),
                   TimeRemainingColumn(), TextColumn("{task.fields[rate]}"),
                   TextColumn("{task.fields[metrics]}"))  # fmt: skip
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task: TaskID | None = None
        self._began = self._looked = 0.0
        self._began_at = 0

    def __call__(self, event: Event) -> None:
        """Move the bar; a finished epoch takes it away."""
        run = event.run
        if event.kind == "step":
            self._step(event)
        elif event.kind == "start":
            self._progress.start()
        elif event.kind == "epoch":
            if self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
            seconds = max(time.monotonic() - self._began, 1e-9)
            rate = (run.batches - self._began_at) * run.training.step_rows / seconds
            self._console.print(f"{epoch_text(event)} · {rate:,.0f} rows/s", soft_wrap=True)
            self._began = 0.0
        elif event.kind in ("end", "failed"):
            self._progress.stop()

    def _step(self, event: Event) -> None:
        run, now = event.run, time.monotonic()
        if not self._began:
            self._began, self._began_at = now, run.batch - 1
        if now - self._looked < SHOWN_EVERY:
            return
        self._looked = now
        if self._task is None:
            name = f"epoch {run.epoch + 1}/{run.training.epochs}"
            self._task = self._progress.add_task(name, total=run.batches, rate="", metrics="")
        rate = (run.batch - self._began_at) * run.training.step_rows / max(now - self._began, 1e-9)
        shown = {"rate": f"{rate:,.0f} rows/s", "metrics": metrics_text(run.epoch_metrics.values())}
        self._progress.update(self._task, completed=run.batch, **shown)  # type: ignore[arg-type]


class JsonProgress:
    """A listener that prints each event but the steps as a line of JSON to standard output."""

    def __call__(self, event: Event) -> None:
        """Print the event; what is not finite becomes null."""
        run = event.run
        if event.kind == "step":
            return
        told: dict[str, Any] = {"event": event.kind, "epoch": run.epoch, "step": run.step}
        if event.kind == "start":
            told |= {"epochs": run.training.epochs, "steps_per_epoch": run.batches, "rows": len(run.data)}
        told |= {name: value if math.isfinite(value) else None for name, value in event.metrics.items()}
        print(json.dumps(told), flush=True)
