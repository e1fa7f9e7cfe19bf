"""Compiled kernels, if they were built when the package was installed; otherwise the callers use numpy.

The choice is made once, at import; the environment variable SPECNET_KERNELS=numpy disables the kernels. Each kernel is
optional for the caller. It returns False (or None, if it returns a number) and changes nothing if there are no kernels,
or if it refuses an array. The caller then uses numpy, which computes, or raises an error that says what is wrong. The
arrays must be contiguous, aligned, all float32 or all float64, and of matching shapes; those that are written must be
writable and overlap no other one. Only ReLU also works in place.

Imports nothing of the package.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType

VERSION = 2


def _load() -> ModuleType | None:
    if os.environ.get("SPECNET_KERNELS") == "numpy":
        return None
    try:
        library = importlib.import_module("specnet.kernels._compiled")
    except ImportError:  # the library was not built, or was built for another machine
        return None
    return library if getattr(library, "VERSION", 0) == VERSION else None


def _return_false(*_arrays: object) -> bool:
    return False


def _return_none(*_arrays: object) -> float | None:
    return None


_library = _load()

adam: Callable[..., bool] = getattr(_library, "adam", _return_false)
"""(value, gradient, first, second, settings): one step of Adam; settings are beta1, beta2, epsilon, rate, keep."""
add_bias: Callable[..., bool] = getattr(_library, "add_bias", _return_false)
"""(y, bias): adds bias to every row of y."""
affine_row: Callable[..., bool] = getattr(_library, "affine_row", _return_false)
"""(x, weight, bias, y): y = x @ weight + bias for a single x and up to 32,768 weights."""
relu: Callable[..., bool] = getattr(_library, "relu", _return_false)
"""(x, y): y = max(x, 0)."""
relu_backward: Callable[..., bool] = getattr(_library, "relu_backward", _return_false)
"""(x, dy, dx): dx = dy where x > 0, else 0."""
batch_norm: Callable[..., bool] = getattr(_library, "batch_norm", _return_false)
"""(x, scale, shift, centred, y, mean, variance, inverse, epsilon): writes the five arrays from centred on."""
batch_norm_backward: Callable[..., bool] = getattr(_library, "batch_norm_backward", _return_false)
"""(dy, centred, scale, inverse, scale_grad, shift_grad, dx): writes the last three arrays."""
cross_entropy: Callable[..., float | None] = getattr(_library, "cross_entropy", _return_none)
"""(x, classes, gradient, smoothing): returns the mean loss, None if an int64 class is out of range."""


def backend() -> str:
    """Return which implementation is in use: "compiled" or "numpy"."""
    return "numpy" if _library is None else "compiled"
