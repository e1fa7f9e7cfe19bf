"""Compiled kernels, where they were built when the package was installed; otherwise numpy does the same.

Chosen once, when this is imported. The environment's SPECNET_KERNELS=numpy leaves them out.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from specnet.parameters import Array

VERSION = 1
_LIBRARY = Path(__file__).with_name("kernels.so")


def _load() -> ctypes.CDLL | None:
    if os.environ.get("SPECNET_KERNELS") == "numpy" or not _LIBRARY.exists():
        return None
    try:
        library = ctypes.CDLL(os.fspath(_LIBRARY))
        version = library.specnet_kernels_version()
    except (OSError, AttributeError):  # built for another machine, or by an older version
        return None
    return library if version == VERSION else None


_library = _load()


def backend() -> str:
    """Say what computes: "compiled" or "numpy"."""
    return "numpy" if _library is None else "compiled"


def adam(value: Array, gradient: Array, first: Array, second: Array, settings: Array) -> Callable[[], object] | None:
    """Prepare a call that moves a span by Adam in one pass; None where there are no kernels.

    All are contiguous vectors of one dtype; settings holds beta1, beta2, epsilon, rate and keep. The arrays have to
    live as long as the call, and are read anew by each call. The call gives the same bits as numpy's passes, and lets
    other threads run.
    """
    if _library is None or value.dtype.name not in ("float32", "float64") or not value.dtype.isnative:
        return None
    arrays = (value, gradient, first, second, settings)
    if not all(array.flags.c_contiguous and array.dtype == value.dtype for array in arrays):
        return None
    function = _library[f"specnet_adam_{np.dtype(value.dtype).name}"]
    function.argtypes = [ctypes.c_size_t, *[ctypes.c_void_p] * len(arrays)]
    function.restype = None
    return partial(function, value.size, *(array.ctypes.data for array in arrays))
