"""Predict for files larger than memory, in one process or in several that share the rows, into one file.

Every process predicts whole chunks of `evaluation_rows` rows, because the batch size affects the last bits of outputs.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from specnet.arrays.parameters import ShapeTuple
from specnet.data.conform import conform_inputs
from specnet.data.large_arrays import LargeArray, NpyArray, open_array
from specnet.data.raw import RawArray, kind_of
from specnet.data.streaming import CHUNK_BYTES
from specnet.errors import DataError
from specnet.files.atomic import replacement, sync, write_at
from specnet.files.paths import user_path
from specnet.files.sparse import SparseFile
from specnet.model import Model
from specnet.mpi.world import SINGLE, World
from specnet.prediction.out_of_range import OutOfRange
from specnet.prediction.predict import answers, input_scale, run_experiment, trained_inputs
from specnet.training.epoch_metrics import evaluation_rows
from specnet.training.losses.base import Loss

T = TypeVar("T")


class StreamedPrediction(NamedTuple):
    """The number of predicted rows, and warnings about inputs far outside the range of the training rows."""

    rows: int
    notes: tuple[str, ...]


def can_stream(data: str | os.PathLike[str], out: str | os.PathLike[str], *, alone: bool = True) -> bool:
    """Return whether both files have formats that can be read and written in parts.

    Returns False for one process (`alone`) and a .npy file not stored row by row: it is read into memory instead.
    """
    kind = kind_of(Path(data))
    if kind not in ("npy", "h5") or Path(out).suffix.lower() not in (".npy", ".h5"):
        return False
    if kind == "npy" and alone:
        try:
            NpyArray(user_path(data))
        except DataError:
            return False
    return True


def takes_stream(model: Model) -> bool:
    """Return whether the rows of a file are those of its array: not windows over it, or of differing length."""
    experiment = run_experiment(model)
    return experiment is None or (experiment.data.train.windows is None and experiment.data.train.lengths is None)


def predict_stream(
    model: Model,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    inputs: str | None = None,
    *,
    logits: bool = False,
    world: World = SINGLE,
) -> StreamedPrediction:
    """Predict for all rows of a .npy or .h5 file, and write the outputs to a .npy or .h5 file; .h5 has the classes too.

    Memory use does not grow with the file. The written bytes do not depend on the number of processes. All processes
    need access to both files. Raises DataError; then nothing is written.
    """
    experiment = run_experiment(model)
    loss = None if experiment is None else experiment.training.loss.build()
    default = None if experiment is None else trained_inputs(experiment, user_path(data))
    name, suffix = inputs or default, Path(out).suffix.lower()

    def open_rows() -> _RowPredictor:
        source, scale = open_array(user_path(data), name), input_scale(experiment)
        return _RowPredictor(model, loss, source, os.fspath(data), suffix, scale, logits=logits)

    predictor = world.collectively(open_rows)
    with contextlib.ExitStack() as stack:

        def create() -> tuple[str, int]:
            if world.rank:
                return "", -1
            temporary, descriptor = stack.enter_context(replacement(out))
            predictor.write_head(descriptor)
            return str(temporary), descriptor

        temporary, descriptor = world.collectively(lambda: _with_data_errors(out, create))
        temporary = world.broadcast(temporary)

        def fill() -> OutOfRange:
            if world.rank == 0:
                return predictor.fill(descriptor, world)
            with Path(temporary).open("r+b", buffering=0) as file:
                out_of_range = predictor.fill(file.fileno(), world)
                sync(file.fileno())
            return out_of_range

        parts = world.gather(world.collectively(lambda: _with_data_errors(out, fill)))
        world.collectively(lambda: _with_data_errors(out, stack.close))
    first = next((part for part in parts if part.rows), OutOfRange())
    out_of_range = first._replace(rows=sum(part.rows for part in parts))
    return StreamedPrediction(predictor.rows, tuple(out_of_range.notes(model, predictor.rows)))


def _with_data_errors(out: str | os.PathLike[str], work: Callable[[], T]) -> T:
    """Call `work`, and raise an OSError as a DataError that names the file."""
    try:
        return work()
    except OSError as error:
        msg = f"{os.fspath(out)}: cannot be written: {error.strerror or error}"
        raise DataError(msg) from error


class _RowPredictor:
    """Predicts rows and writes each to its place in the output file."""

    def __init__(
        self,
        model: Model,
        loss: Loss | None,
        source: LargeArray,
        name: str,
        suffix: str,
        scale: float | None,
        *,
        logits: bool,
    ) -> None:
        self.model = model
        self.loss = loss
        self.source = source
        self.name = name
        self.scale = scale
        self.logits = logits
        self.rows = source.shape[0] if source.shape else 0
        if not self.rows:
            msg = f"{name}: expected rows of inputs, got an array of shape {source.shape}"
            raise DataError(msg)
        _, outputs, classes = self._predict(0, 1)
        self._outputs, self._classes = outputs.dtype, None if classes is None else classes.dtype
        if classes is not None and classes.dtype.kind == "U":
            longest = max(len(label.encode()) for label in model.spec.labels)
            self._classes = np.dtype(f"S{longest}")
        self._head, self._offsets = self._layout(suffix)

    def _predict(self, start: int, stop: int) -> tuple[RawArray, RawArray, RawArray | None]:
        (rows,) = self.source.read((start, stop))
        x = conform_inputs(rows, self.model.spec, self.name, self.scale, trained=True, first_row=start)
        return x, *answers(self.model, self.loss, x, logits=self.logits)

    def _layout(self, suffix: str) -> tuple[dict[int, bytes], dict[str, int]]:
        """Return the bytes around the arrays by file offset, and the offset of each array."""
        shape = (self.rows, *self.model.output_shape)
        if suffix == ".npy":
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                head, {"descr": self._outputs.str, "fortran_order": False, "shape": shape}
            )
            return {0: head.getvalue()}, {"outputs": len(head.getvalue())}
        arrays = {"outputs": (shape, self._outputs)}
        if self._classes is not None:
            arrays["class"] = ((self.rows,), self._classes)
        return _hdf5_head(arrays)

    def write_head(self, descriptor: int) -> None:
        """Write the bytes around the arrays: the headers of the format."""
        for offset, data in self._head.items():
            write_at(descriptor, offset, data)

    def fill(self, descriptor: int, world: World) -> OutOfRange:
        """Predict and write the chunks of this process, and return its out-of-range rows."""
        chunk_rows = evaluation_rows(self.model)
        chunks = -(-self.rows // chunk_rows)
        first, stop = (min(chunk * chunk_rows, self.rows) for chunk in world.share(chunks))
        row_bytes = max(math.prod(self.source.shape[1:]) * 8, 1)
        step = max(CHUNK_BYTES // (row_bytes * chunk_rows), 1) * chunk_rows
        out_of_range = OutOfRange()
        for start in range(first, stop, step):
            x, outputs, classes = self._predict(start, min(start + step, stop))
            self._write_rows(descriptor, "outputs", start, np.ascontiguousarray(outputs))
            if classes is not None and "class" in self._offsets:
                encoded = np.strings.encode(classes, "utf-8") if classes.dtype.kind == "U" else classes
                self._write_rows(descriptor, "class", start, np.ascontiguousarray(encoded, self._classes))
            out_of_range = out_of_range.add(self.model, x, start)
            del x
        return out_of_range

    def _write_rows(self, descriptor: int, name: str, start: int, rows: RawArray) -> None:
        row_bytes = rows.nbytes // len(rows)
        write_at(descriptor, self._offsets[name] + start * row_bytes, rows.data.cast("B"))


def _hdf5_head(arrays: Mapping[str, tuple[ShapeTuple, np.dtype[Any]]]) -> tuple[dict[int, bytes], dict[str, int]]:
    """Return the bytes of an HDF5 file around its arrays, by offset, and the array offsets; no rows are in memory."""
    import h5py  # noqa: PLC0415 - heavy, and needed for this format only
    from h5py import h5d, h5s, h5t  # noqa: PLC0415

    from specnet.files.hdf5_pages import placed_early, text_type  # noqa: PLC0415

    memory = SparseFile()
    offsets: dict[str, int] = {}
    with h5py.File(memory, "w", libver=("v108", "v108")) as file:
        for name, (shape, dtype) in arrays.items():
            hdf5_type = text_type(dtype.itemsize) if dtype.kind == "S" else h5t.py_create(dtype)
            dataset = h5d.create(file.id, name.encode(), hdf5_type, h5s.create_simple(shape), placed_early())
            offsets[name] = dataset.get_offset()
    pages = {offset: bytes(page)[: memory.end - offset] for offset, page in memory.pages.items() if offset < memory.end}
    end = max(offsets[name] + math.prod(shape) * dtype.itemsize for name, (shape, dtype) in arrays.items())
    if memory.end > end:  # extend the file to the length that HDF5 expects
        pages.setdefault(memory.end - 1, b"\0")
    return pages, offsets
