"""Compiled kernels, where they were built when the package was installed; otherwise the callers' numpy does the work.

Chosen once, when this is imported; the environment's SPECNET_KERNELS=numpy leaves them out. Each kernel is a shortcut
that says whether it was taken. False (None, where the answer is a number) says that nothing was touched, as there are
no kernels or the arrays are none they take: contiguous, all float32 or all float64. Then the caller goes the long way.
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
    except ImportError:  # none was built, or one for another machine
        return None
    return library if getattr(library, "VERSION", 0) == VERSION else None


def _not_taken(*_arrays: object) -> bool:
    return False


def _no_number(*_arrays: object) -> float | None:
    return None


_library = _load()

adam: Callable[..., bool] = getattr(_library, "adam", _not_taken)
"""(value, gradient, first, second, settings): moves by Adam; settings are beta1, beta2, epsilon, rate, keep."""
add_bias: Callable[..., bool] = getattr(_library, "add_bias", _not_taken)
"""(y, bias): adds a row to every row of y."""
affine_row: Callable[..., bool] = getattr(_library, "affine_row", _not_taken)
"""(x, weight, bias, y): y = x @ weight + bias for a single x and up to 32,768 weights."""
relu: Callable[..., bool] = getattr(_library, "relu", _not_taken)
"""(x, y): y = max(x, 0)."""
relu_backward: Callable[..., bool] = getattr(_library, "relu_backward", _not_taken)
"""(x, dy, dx): dx = dy where x > 0, else 0."""
batch_norm: Callable[..., bool] = getattr(_library, "batch_norm", _not_taken)
"""(x, scale, shift, centred, y, mean, variance, inverse, epsilon): writes all from `centred` on, of this batch."""
batch_norm_backward: Callable[..., bool] = getattr(_library, "batch_norm_backward", _not_taken)
"""(dy, centred, scale, inverse, scale_grad, shift_grad, dx): writes the last three."""
cross_entropy: Callable[..., float | None] = getattr(_library, "cross_entropy", _no_number)
"""(x, classes, gradient, smoothing): gives the mean loss of int64 classes, None for one out of range."""


def backend() -> str:
    """Say what computes: "compiled" or "numpy"."""
    return "numpy" if _library is None else "compiled"
