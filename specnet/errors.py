"""The exceptions that specnet raises for bad input and failed file operations.

ValueError
└── SpecnetError                    base class; raised directly for calls in the wrong order, among others
    ├── SpecError                   a document is invalid; `problems` lists every error with its location
    ├── ShapeError                  an array does not fit; names the layer, the expected and the actual shape
    ├── DataError                   a data file does not fit; names the file, column or row
    └── CheckpointError             a checkpoint cannot be written or read
        ├── CheckpointCorruptError      its bytes are not those that were written
        ├── CheckpointMismatchError     it is intact, but not the expected one
        └── CheckpointUnsupportedError  this specnet cannot read its kind or version
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PathKey = str | int
KeyPath = tuple[PathKey, ...]
"""The location of a value in a document: the keys and indices that lead to it."""


def path_text(path: Sequence[PathKey]) -> str:
    """Format a path as text: ("layers", 1, "units") -> "layers[1].units"."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{printable(key)}" if text else printable(key)
    return text


def printable(text: str) -> str:
    """Replace characters that break a line or control a terminal by their escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Problem:
    """One error in a document.

    `line` and `column` count from 1; they are None for values passed from Python.
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
    """Whether all processes of a shared run raise this error, so that no process waits for another."""


class SpecError(SpecnetError):
    """A document is invalid. `problems` holds all its errors in document order."""

    def __init__(self, problems: Sequence[Problem], source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__("\n".join(self.lines()))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...], str | None]]:
        return type(self), (self.problems, self.source)

    def lines(self) -> list[str]:
        """Return one line per problem, `file:line:column: path: message`, without the unknown parts."""
        return [self._location_prefix(problem) + str(problem) for problem in self.problems]

    def _location_prefix(self, problem: Problem) -> str:
        if problem.line is None:
            return f"{self.source}: " if self.source else ""
        return f"{self.source or '<document>'}:{problem.line}:{problem.column}: "


class ShapeError(SpecnetError):
    """An array has the wrong shape or the wrong kind of values for a layer, a model or a loss."""


class DataError(SpecnetError):
    """A data file is unreadable or does not fit the model."""


class CheckpointError(SpecnetError):
    """A checkpoint cannot be written or read."""


class CheckpointCorruptError(CheckpointError):
    """The bytes of a checkpoint are not those that were written."""


class CheckpointMismatchError(CheckpointError):
    """The checkpoint is intact, but it is not the expected one."""


class CheckpointUnsupportedError(CheckpointError):
    """The file is not a specnet checkpoint, or this version of specnet cannot read it."""
