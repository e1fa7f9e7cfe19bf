"""What commands print: tables on standard output, errors and progress on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from specnet.errors import Problem, SpecError, SpecnetError, printable

MAX_LINES = 60


def error_lines(*errors: SpecnetError) -> list[str]:
    """Give one line a problem, without control characters, at most MAX_LINES and then a count."""
    lines = [line for error in errors for line in (error.lines() if isinstance(error, SpecError) else [str(error)])]
    more = [f"… and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return [*map(printable, lines[:MAX_LINES]), *more]


def report_errors(*errors: SpecnetError) -> None:
    """Print one line a problem to standard error."""
    for line in error_lines(*errors):
        print(line, file=sys.stderr)


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
    """Print a result for programs; what JSON has no number for, NaN or an infinity, becomes null."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> None:
    """Print a table; `numbers` are the columns that stand to the right. Names are never cut on a pipe."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


def metrics_text(metrics: dict[str, float]) -> str:
    """Write metrics on a line: `loss 0.231 · val_loss 0.254`; the rest of the history is for history.csv."""
    return " · ".join(f"{name} {value:.4g}" for name, value in metrics.items() if is_shown(name))


def is_shown(name: str) -> bool:
    """Whether a metric is for people to see at once: not the learning rate, nor what is told of single layers."""
    return "." not in name and name != "learning_rate"
