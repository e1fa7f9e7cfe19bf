"""Loading: the file's structure is held against its own document before any array is read; then the bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

from specnet.checkpoint.checked_file import CheckedFile, DatasetCheck
from specnet.errors import CheckpointError
from specnet.files.paths import user_path
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
    """Read the model in a checkpoint: weights, cached gradients, and the state of its run where there is one.

    Every array is held against its digest, with `mmap` only if `verify` is true. `mmap` maps the weights: they are
    writable, the file never changes. `sha256` pins the content_sha256 that the file must have, `spec` the document
    (names and notes of people aside). The memory used is bounded by the file's size, no byte outside the file is read
    and no code is run.

    Raises CheckpointError: CheckpointCorruptError for a damaged file, CheckpointMismatchError for one that is not
    the pinned one, CheckpointUnsupportedError for one that is no specnet checkpoint or a newer one.
    """
    verify = not mmap if verify is None else verify
    return _reading(path, lambda file, name: CheckedFile(file, name, mmap, verify).model(sha256, spec))


class Origin(NamedTuple):
    """What a checkpoint says of itself: by which version of specnet it was written, when (UTC), and its two hashes."""

    specnet_version: str
    created: str
    model_sha256: str
    content_sha256: str


def origin(path: str | os.PathLike[str]) -> Origin:
    """Read what a checkpoint says of itself, and nothing else of it. Raises CheckpointError."""
    root = _reading(path, lambda file, name: CheckedFile(file, name, mmap=False, verify=False).root_attributes())
    return Origin(*(str(root[field]) for field in Origin._fields))


def check(path: str | os.PathLike[str]) -> list[DatasetCheck]:
    """Check a checkpoint without building its model: structure, document, and the digest of every dataset.

    Raises CheckpointError for anything but bytes that have not their digest; those are told by `intact`.
    """
    return _reading(path, lambda file, name: list(CheckedFile(file, name, mmap=False, verify=True).checks()))


def _reading(path: str | os.PathLike[str], read: Callable[[BinaryIO, str], T]) -> T:
    """Open a file and read from it; whatever goes wrong is a CheckpointError."""
    name = os.fspath(path)
    try:
        with _open(path) as file:
            return read(file, name)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        msg = f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}"
        raise CheckpointError(msg) from error
    except RecursionError as error:
        msg = f"{name}: its layers nest too deeply to be read from so deep in a program's calls"
        raise CheckpointError(msg) from error
    except MemoryError as error:
        msg = f"{name}: there is not enough memory to load it"
        raise CheckpointError(msg) from error


def _open(path: str | os.PathLike[str]) -> BinaryIO:
    # Not blocking: a FIFO would wait for a writer for ever.
    descriptor = os.open(user_path(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(22, "it is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)
