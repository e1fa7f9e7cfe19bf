"""Print tables and JSON to standard output, errors and notes to standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from specnet.errors import Problem, SpecError, SpecnetError, bounded, printable

MAX_LINES = 60


def error_lines(*errors: SpecnetError) -> list[str]:
    """Return one line per problem, without control characters: at most MAX_LINES, then a count of the rest."""
    lines = [line for error in errors for line in str(error).split("\n")]
    rest = [f"… and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return [*map(printable, lines[:MAX_LINES]), *rest]


def report_errors(*errors: SpecnetError) -> None:
    """Print one line per problem to standard error."""
    for line in error_lines(*errors):
        print(line, file=sys.stderr)


def print_annotations(*errors: SpecnetError) -> None:
    """Print problems as GitHub workflow commands, which GitHub shows at the lines of a pull request."""

    def escape(text: str, also: str = "") -> str:
        for character in "%\r\n" + also:
            text = text.replace(character, f"%{ord(character):02X}")
        return text

    for error in errors:
        problems = error.problems if isinstance(error, SpecError) else (Problem("", str(error), ""),)
        for problem in problems:
            place = f"file={escape(getattr(error, 'source', None) or '', ':,')}"
            if problem.line is not None:
                place += f",line={problem.line},col={problem.column}"
            print(bounded(printable(f"::error {place}::{escape(str(problem))}")))


def say(*lines: str) -> None:
    """Print lines to standard output, without control characters."""
    for line in lines:
        print(printable(line))


def note(text: str) -> None:
    """Print a line to standard error: a note, not a result."""
    print(printable(bounded(text)), file=sys.stderr)


def print_json(value: object) -> None:
    """Print a result as JSON; NaN and infinities, which JSON cannot represent, become null."""
    text = json.dumps(_nonfinite_to_none(value), indent=2, ensure_ascii=False)
    if not text.replace("\n", "").isprintable():  # as in a label from a file; JSON has escapes of its own
        text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    print(text)


def _nonfinite_to_none(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _nonfinite_to_none(entry) for key, entry in value.items()}
    return [_nonfinite_to_none(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> None:
    """Print a table; the columns in `numbers` are right-aligned. Cells are not wrapped if the output is no terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(printable(name), justify="right" if index in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


def metrics_text(metrics: dict[str, float]) -> str:
    """Return the shown metrics on one line: `loss 0.231 · val_loss 0.254`."""
    return " · ".join(f"{name} {value:.4g}" for name, value in metrics.items() if is_shown(name))


def is_shown(name: str) -> bool:
    """Return whether progress output shows a metric; learning rate and per-layer metrics are only in history.csv."""
    return "." not in name and name != "learning_rate"
