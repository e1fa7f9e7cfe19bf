"""Every exception that crosses the package's boundary.

ValueError
└── SpecnetError                    anything specnet refuses; also calls out of order
    ├── SpecError                   a document is wrong; `problems` lists every fault with its place
    ├── ShapeError                  an array does not fit; names the layer, the expected and the given shape
    ├── DataError                   a data file does not fit; names file, column or row
    └── CheckpointError             a checkpoint cannot be written or read
        ├── CheckpointCorruptError      its bytes are not what was written
        ├── CheckpointMismatchError     it is whole, but not what was asked for
        └── CheckpointUnsupportedError  it is of a kind or version that this specnet cannot read
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PathKey = str | int
KeyPath = tuple[PathKey, ...]
"""Where a value stands in a document: the keys and indices that lead to it."""


def path_text(path: Sequence[PathKey]) -> str:
    """Write a path as people do: ("layers", 1, "units") -> "layers[1].units"."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{printable(key)}" if text else printable(key)
    return text


def printable(text: str) -> str:
    """Replace what would break a line or steer a terminal by its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Problem:
    """One fault of a document.

    `line` and `column` count from 1 and are None for values given in Python.
    """

    path: str
    message: str
    code: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecnetError(ValueError):
    """Base of all errors of this package."""

    collective = False
    """Whether all processes that share a run raise it, so that none waits for another."""


class SpecError(SpecnetError):
    """A document is not valid. `problems` holds all its faults in document order."""

    def __init__(self, problems: Sequence[Problem], source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__("\n".join(self.lines()))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...], str | None]]:
        return type(self), (self.problems, self.source)

    def lines(self) -> list[str]:
        """One line a problem, `file:line:column: path: message` as far as these are known."""
        return [self._place(problem) + str(problem) for problem in self.problems]

    def _place(self, problem: Problem) -> str:
        if problem.line is None:
            return f"{self.source}: " if self.source else ""
        return f"{self.source or '<document>'}:{problem.line}:{problem.column}: "


class ShapeError(SpecnetError):
    """An array's shape or kind is not what a layer, a model or a loss needs."""


class DataError(SpecnetError):
    """A data file is unreadable or does not fit the model."""


class CheckpointError(SpecnetError):
    """A checkpoint cannot be written or read."""


class CheckpointCorruptError(CheckpointError):
    """The bytes of a checkpoint are not those that were written."""


class CheckpointMismatchError(CheckpointError):
    """The checkpoint is whole, but it is not the one that was asked for."""


class CheckpointUnsupportedError(CheckpointError):
    """The file is no specnet checkpoint, or one that this version cannot read."""
