"""What commands print: tables on standard output, errors and progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from specnet.errors import Problem, SpecError, SpecnetError, printable
from specnet.training.loop import Event

MAX_LINES = 60


def report_errors(*errors: SpecnetError) -> None:
    """Print one line a problem to standard error, without control characters, at most MAX_LINES and then a count."""
    lines = [line for error in errors for line in (error.lines() if isinstance(error, SpecError) else [str(error)])]
    for line in lines[:MAX_LINES]:
        print(printable(line), file=sys.stderr)
    if len(lines) > MAX_LINES:
        print(f"… and {len(lines) - MAX_LINES} more", file=sys.stderr)


def print_annotations(*errors: SpecnetError) -> None:
    """Print problems as workflow commands of GitHub, which shows them on the lines of a pull request."""

    def escaped(text: str, more: str = "") -> str:
        for character in "%\r\n" + more:
            text = text.replace(character, f"%{ord(character):02X}")
        return text

    for error in errors:
        problems = error.problems if isinstance(error, SpecError) else (Problem("", str(error), ""),)
        for problem in problems:
            place = f"file={escaped(getattr(error, 'source', None) or '', ':,')}"
            if problem.line is not None:
                place += f",line={problem.line},col={problem.column}"
            print(f"::error {place}::{escaped(str(problem))}")


def note(text: str) -> None:
    """Print a line that is no result to standard error."""
    print(printable(text), file=sys.stderr)


def print_json(value: object) -> None:
    """Print a result for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> None:
    """Print a table; `numbers` are the columns that stand to the right. Names are never cut on a pipe."""
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


def metrics_text(metrics: dict[str, float]) -> str:
    """Write metrics on a line: `loss 0.231 · val_loss 0.254`."""
    return " · ".join(f"{name} {value:.4g}" for name, value in metrics.items())


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
                   TimeRemainingColumn(), TextColumn("{task.fields[metrics]}"))  # fmt: skip
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        """Move the bar; a finished epoch takes it away."""
        run = event.run
        if event.kind == "start":
            self._progress.start()
        elif event.kind == "step":
            if self._task is None:
                name = f"epoch {run.epoch + 1}/{run.training.epochs}"
                self._task = self._progress.add_task(name, total=run.batches, completed=run.batch, metrics="")
            fields: dict[str, Any] = {"metrics": metrics_text(run.sums.metrics())} if run.batch % 16 == 0 else {}
            self._progress.update(self._task, completed=run.batch, **fields)
        elif event.kind == "epoch" and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
            self._console.print(epoch_text(event), soft_wrap=True)
        elif event.kind in ("end", "failed"):
            self._progress.stop()
