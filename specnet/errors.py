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


MAX_LINE = 2000
"""Most characters of a line of an error's text; names, paths and keys in documents and files can have any length."""


def path_text(path: Sequence[PathKey]) -> str:
    """Format a path as text: ("layers", 1, "units") -> "layers[1].units"; at most MAX_LINE characters."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            name = printable(_shortened(key))
            text += f".{name}" if text else name
    return _shortened(text)


def printable(text: str) -> str:
    """Replace characters that break a line or control a terminal by their escape sequences."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def bounded(text: str) -> str:
    """Return a text with every line cut to MAX_LINE characters, also when it is printed by its escape sequences."""
    if len(text) <= MAX_LINE // _LONGEST_ESCAPE:
        return text
    return "\n".join(map(_bounded_line, text.split("\n")))


_LONGEST_ESCAPE = len("\\U0001f600")


def _bounded_line(line: str) -> str:
    short = _shortened(line)
    return short if len(printable(short)) <= MAX_LINE else _shortened(printable(short))


def _shortened(text: str) -> str:
    """Cut the middle of a text: the beginning says where the error is, the end often what to do."""
    if len(text) <= MAX_LINE:
        return text
    end = MAX_LINE // 2 - len(_CUT)
    return text[: MAX_LINE // 2] + _CUT + text[-end:]


_CUT = " … "


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
        return bounded(f"{self.path}: {self.message}" if self.path else self.message)


class SpecnetError(ValueError):
    """Base of all errors of this package. No line of its text is longer than MAX_LINE."""

    collective = False
    """Whether all processes of a shared run raise this error, so that no process waits for another."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(bounded(argument) if isinstance(argument, str) else argument for argument in args))


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
        return [bounded(self._location_prefix(problem) + str(problem)) for problem in self.problems]

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
