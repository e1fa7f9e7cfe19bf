"""Load a checkpoint: its structure is checked against its document before any array is read, then the digests."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

from specnet.checkpoint.checked_file import CheckedFile, DatasetCheck
from specnet.errors import CheckpointError
from specnet.files.regular import open_regular
from specnet.model import Model

if TYPE_CHECKING:
    from specnet.spec.model_spec import ModelSpec

T = TypeVar("T")


def load(
    path: str | os.PathLike[str],
    *,
    mmap: bool = False,
    verify: bool | None = None,
    sha256: str | None = None,
    spec: ModelSpec | None = None,
) -> Model:
    """Read the model in a checkpoint: weights, cached gradients, and the state of its run if it has one.

    `verify` checks every array against its digest; the default is true, but false with `mmap`. `mmap` maps the
    weights: they are writable, and the file never changes. `sha256` is the content_sha256 that the file must have.
    `spec` is the document that it must have, apart from its notes (name, description, metadata, labels). The memory
    used is bounded by the size of the file, no byte outside the file is read, and no code is run.

    Raises CheckpointError: CheckpointCorruptError if the file is damaged, CheckpointMismatchError if it differs from
    `sha256` or `spec`, CheckpointUnsupportedError if it is not a specnet checkpoint or has a newer format.
    """
    verify = not mmap if verify is None else verify
    return _read_file(path, lambda file, name: CheckedFile(file, name, mmap, verify).model(sha256, spec))


class Origin(NamedTuple):
    """Origin of a checkpoint, as its attributes state it: version of specnet, time of writing (UTC), two digests."""

    specnet_version: str
    created: str
    model_sha256: str
    content_sha256: str


def origin(path: str | os.PathLike[str]) -> Origin:
    """Read only the attributes that state the origin of a checkpoint. Raises CheckpointError."""
    root = _read_file(path, lambda file, name: CheckedFile(file, name, mmap=False, verify=False).root_attributes())
    return Origin(*(str(root[field]) for field in Origin._fields))


def check(path: str | os.PathLike[str]) -> list[DatasetCheck]:
    """Check a checkpoint without building its model: structure, document, and the digest of every dataset.

    A dataset that does not match its digest is reported by `intact`. Raises CheckpointError for all other faults.
    """
    return _read_file(path, lambda file, name: list(CheckedFile(file, name, mmap=False, verify=True).checks()))


def _read_file(path: str | os.PathLike[str], read: Callable[[BinaryIO, str], T]) -> T:
    """Open a file and call `read` with it and its name; raise every error as a CheckpointError."""
    name = os.fspath(path)
    try:
        with open_regular(path, buffered=False) as file:
            return read(file, name)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        msg = f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}"
        raise CheckpointError(msg) from error
    except RecursionError as error:
        msg = f"{name}: its layers nest too deeply for the remaining call stack; load it from a less deeply nested call"
        raise CheckpointError(msg) from error
    except MemoryError as error:
        msg = f"{name}: there is not enough memory to load it"
        raise CheckpointError(msg) from error
