"""The checkpoint, format 1: every name in the file, and its content.

/                       attrs: format, format_version, specnet_version, created, model_sha256, content_sha256, default
/model_spec             text: the normalized model document
/layers/<name>/parameters/<parameter>   float32 or float64
/layers/<name>/gradients/<parameter>    the same shapes; all of them, or none if there was no backward pass
/layers/<name>/buffers/<buffer>         state that is not trained, for example a running mean
/training/<key>         what a run needs to resume: numbers, text and arrays; absent for a model that no run saved
/training/history/<metric>              one value per epoch, with the attributes that make NeXus viewers plot it
/provenance/plugins     text: the packages that define the layers that are not built in; absent if there are none

Every dataset carries the SHA-256 of its little-endian bytes. Text is a scalar of fixed-length UTF-8. `default` is
present if and only if the history is. No other module defines these names.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from specnet.document.canonical import sha256_of
from specnet.errors import CheckpointError

FORMAT = "specnet-checkpoint"
VERSION = 1

MODEL_SPEC = "/model_spec"
TRAINING = "/training"
PLUGINS = "/provenance/plugins"
HISTORY = "/training/history"
HISTORY_AXIS = "epoch"
HISTORY_SIGNAL = "loss"
HISTORY_ATTRIBUTES = {"NX_class": "NXdata", "signal": HISTORY_SIGNAL, "axes": HISTORY_AXIS}
HISTORY_DEFAULT = {"default": "training/history"}
DATASET_DIGEST = "sha256"
ROOT_ATTRIBUTES = ("format", "format_version", "specnet_version", "created", "model_sha256", "content_sha256")
DTYPES = ("<f4", "<f8", "<i8", "<u8")
TEXT = "utf-8"
_PATH = re.compile(r"(/[A-Za-z0-9_.-]{1,2000}){1,250}")

Value = npt.NDArray[Any] | bytes


class Entry(NamedTuple):
    """One dataset: its path and its value (text as UTF-8 bytes)."""

    path: str
    value: Value

    @property
    def dtype(self) -> str:
        """Name of the element type, as it enters content_sha256."""
        return TEXT if isinstance(self.value, bytes) else self.value.dtype.str

    @property
    def data(self) -> memoryview:
        """The stored bytes."""
        return memoryview(self.value if isinstance(self.value, bytes) else self.value.reshape(-1).data).cast("B")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape; () for text and numbers."""
        return () if isinstance(self.value, bytes) else self.value.shape


def array_path(name: str, kind: str) -> str:
    """Return the path of an array in the file, for example of ("block.hidden.weight", "parameters")."""
    *layers, array = name.split(".")
    return "".join(f"/layers/{layer}" for layer in layers) + f"/{kind}/{array}"


def dataset(path: str, value: object) -> Entry:
    """Convert a value to the form in which it is stored. Raises ValueError for what the format cannot store."""
    stored: Value
    if not _PATH.fullmatch(path):
        msg = f"{path!r:.80} cannot be the name of a dataset"
        raise ValueError(msg)
    if isinstance(value, str):
        stored = value.encode()
    elif isinstance(value, int):
        stored = np.array(int(value), "<i8")
    elif isinstance(value, float):
        stored = np.array(value, "<f8")
    elif isinstance(value, np.ndarray):
        stored = np.require(value, value.dtype.newbyteorder("<"), "C")
        if stored.dtype.str not in DTYPES:
            msg = f"{path}: dtype {value.dtype} is not one of {', '.join(DTYPES)}"
            raise ValueError(msg)
    else:
        msg = f"{path}: a {type(value).__name__} cannot be stored"
        raise ValueError(msg)  # noqa: TRY004 - ValueError for every value that cannot be stored
    if not (stored if isinstance(stored, bytes) else stored.size):
        msg = f"{path}: an empty value cannot be stored"
        raise ValueError(msg)
    return Entry(path, stored)


def digest(value: Value | memoryview) -> str:
    """Return the SHA-256, in hex, of the bytes of a stored value."""
    return hashlib.sha256(value.data if isinstance(value, np.ndarray) else value).hexdigest()


def content_digest(rows: Iterator[tuple[str, str, tuple[int, ...], str]]) -> str:
    """Return the SHA-256, in hex, of the canonical JSON array of (path, dtype, shape, sha256), sorted by path."""
    return sha256_of([list(row) for row in sorted(rows, key=lambda row: row[0].encode())])


def run_datasets(state: Mapping[str, object]) -> Iterator[Entry]:
    """Yield the datasets of a run's state, whose keys are paths below /training."""
    for key, value in state.items():
        yield dataset(f"{TRAINING}/{key}", value)


YEAR_10000 = 253_402_300_800


def creation_time() -> float:
    """Return the time that a checkpoint written now records: SOURCE_DATE_EPOCH, or now. Raises CheckpointError."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch and not (epoch.isascii() and epoch.isdecimal() and len(epoch) < 20 and int(epoch) < YEAR_10000):
        msg = f"SOURCE_DATE_EPOCH: expected seconds since 1970, before the year 10000, got {epoch!r:.40}"
        raise CheckpointError(msg)
    return int(epoch) if epoch else time.time()
