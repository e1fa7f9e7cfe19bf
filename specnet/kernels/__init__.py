"""Compiled kernels, if they were built when the package was installed; otherwise the callers use numpy.

The choice is made once, at import; the environment variable SPECNET_KERNELS=numpy disables the kernels. Each kernel is
optional for the caller. It returns False (or None, if it returns a number) and changes nothing if there are no kernels,
or if it refuses an array. The caller then uses numpy, which computes, or raises an error that says what is wrong. The
arrays must be contiguous, aligned, all float32 or all float64, and of matching shapes; those that are written must be
writable and overlap no other one. Passes that treat each element or row alone also work in place.

Large arrays are divided among the cores (threads.h). The results have the same bits for any number of threads.

Imports nothing of the package.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType

VERSION = 5

ACTIVATIONS = ("leaky_relu", "elu", "sigmoid", "tanh", "softplus", "silu", "mish", "gelu", "gelu_tanh")
"""The activations that `activation` and `activation_slope` know by their positions here; see activations.h."""


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


def _kernel(name: str) -> Callable[..., bool]:
    kernel: Callable[..., bool] = getattr(_library, name, _return_false)
    return kernel


sgd = _kernel("sgd")
"""(value, gradient, settings): a step of SGD; this and the next six: see elementwise.h for the settings."""
momentum = _kernel("momentum")
"""(value, gradient, velocity, settings): a step of SGD with momentum."""
adam = _kernel("adam")
"""(value, gradient, first, second, settings): a step of Adam or AdamW."""
rmsprop = _kernel("rmsprop")
"""(value, gradient, square, settings): a step of RMSprop."""
rmsprop_momentum = _kernel("rmsprop_momentum")
"""(value, gradient, square, velocity, settings): a step of RMSprop with momentum."""
adagrad = _kernel("adagrad")
"""(value, gradient, square, settings): a step of Adagrad."""
lion = _kernel("lion")
"""(value, gradient, momentum, settings): a step of Lion."""
add_bias = _kernel("add_bias")
"""(y, bias): adds bias to every row of y."""
affine_row = _kernel("affine_row")
"""(x, weight, bias, y): y = x @ weight + bias for a single x."""
dense_row = _kernel("dense_row")
"""(x, y, rectified, weight, bias, weight, bias, ...): affine layers for a single x; bit i: ReLU after the i-th."""
relu = _kernel("relu")
"""(x, y): y = max(x, 0)."""
relu_backward = _kernel("relu_backward")
"""(x, dy, dx): dx = dy where x > 0, else 0."""
multiply = _kernel("multiply")
"""(a, b, y): y = a * b, of one shape."""
activation = _kernel("activation")
"""(x, y, kind, p, q): y = f(x) of ACTIVATIONS[kind], whose constants p and q are."""
activation_slope = _kernel("activation_slope")
"""(x, y, slope, kind, p, q): y = f(x), and slope = f'(x)."""
prelu = _kernel("prelu")
"""(x, y, slope): y = x where x > 0, else slope * x."""
prelu_backward = _kernel("prelu_backward")
"""(x, dy, dx, slope): dx = dy where x > 0, else slope * dy."""
standardize = _kernel("standardize")
"""(x, y, mean, std): y = (x - mean) / std."""
normalize = _kernel("normalize")
"""(x, y, mean, factor, shift, rectified): y = (x - mean) * factor + shift, or the maximum of that and 0."""
sum_rows = _kernel("sum_rows")
"""(x, sums): the sum over the rows of a matrix."""
sum_product = _kernel("sum_product")
"""(a, b, sums): the sum over the rows of a * b."""
sum_negative = _kernel("sum_negative")
"""(a, b, sums): the sum over the rows of min(a, 0) * b."""
batch_norm = _kernel("batch_norm")
"""(x, scale, shift, centred, y, running_mean, running_var, inverse, epsilon, rectified, momentum): training."""
batch_norm_backward = _kernel("batch_norm_backward")
"""(dy, centred, scale, inverse, scale_grad, shift_grad, dx): writes the last three arrays."""
batch_norm_relu_backward = _kernel("batch_norm_relu_backward")
"""(..., dx, y): the same for a batch norm with a ReLU, whose output y is."""
layer_norm = _kernel("layer_norm")
"""(x, scale, shift, normalized, inverse, y, epsilon): writes normalized, inverse (rows, 1) and y."""
rms_norm = _kernel("rms_norm")
"""(x, scale, normalized, inverse, y, epsilon): writes normalized, inverse (rows, 1) and y."""
row_norm_backward = _kernel("row_norm_backward")
"""(dy, normalized, scale, inverse, dx, centred): the backward of layer_norm, or rms_norm if centred is 0."""
softmax = _kernel("softmax")
"""(x, y): y = softmax(x) over the last axis."""
dropout = _kernel("dropout")
"""(x, mask, y, state, least, kept): draws the mask by Philox, and y = x * mask; see dropout.h."""
gather = _kernel("gather")
"""(x, indices, out): out[i] = x[indices[i]] for arrays of any type; False for an index that is out of range."""
convolve = _kernel("convolve")
"""(x, weight, bias, y, geometry, rectified): see convolution.h; without a bias its array is empty."""
convolve_back = _kernel("convolve_back")
"""(dy, weight, bias, dx, geometry): the gradient with respect to x, plus a bias."""
convolve_weight = _kernel("convolve_weight")
"""(x, dy, gradient, geometry): the gradient with respect to the weight."""
max_pool = _kernel("max_pool")
"""(x, y, settings): see pools.h."""
max_pool_backward = _kernel("max_pool_backward")
"""(x, dy, dx, settings): the gradient goes to the first maximum of each window."""
average_pool = _kernel("average_pool")
"""(x, y, settings): see pools.h."""
average_pool_backward = _kernel("average_pool_backward")
"""(dy, dx, settings): each position of a window receives its share of dy."""
matmul = _kernel("matmul")
"""(a, b, out, kind): out = a @ b, a.T @ b or a @ b.T of matrices, for the kinds 0, 1, 2."""
lstm = _kernel("lstm")
"""(x, weight, recurrent_weight, bias, counts, gates, h, c): all steps of a pass; see recurrent.h."""
lstm_backward = _kernel("lstm_backward")
"""(dh, counts, gates, c, recurrent_weight, d_gates, truncate): adds to dh what follows from the later steps."""
gru = _kernel("gru")
"""(x, weight, recurrent_weight, bias, recurrent_bias, counts, gates, part_of_h, h): all steps of a pass."""
gru_backward = _kernel("gru_backward")
"""(dh, counts, gates, part_of_h, h, recurrent_weight, d_gates, d_products, truncate): see lstm_backward."""
attention = _kernel("attention")
"""(projected, counts, kept, attention, joined, heads, causal): what all heads find; see attention.h."""
attention_backward = _kernel("attention_backward")
"""(projected, kept, attention, d_joined, d_projected, heads): the gradients of queries, keys and values."""
cross_entropy: Callable[..., float | None] = getattr(_library, "cross_entropy", _return_none)
"""(x, classes, gradient, smoothing): returns the mean loss, None if an int64 class is out of range."""


def backend() -> str:
    """Return which implementation is in use: "compiled" or "numpy"."""
    return "numpy" if _library is None else "compiled"


def threads() -> int:
    """Return the number of threads that share large arrays: 1 with numpy alone."""
    return 1 if _library is None else int(_library.threads())
