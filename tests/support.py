"""What several tests need: numerical gradients, and one example of every layer."""

import itertools

import numpy as np

import specnet

LAYERS = {
    "affine": {"type": "affine", "units": 4},
    "affine without bias": {"type": "affine", "units": 3, "bias": False},
    "relu": {"type": "relu"},
    "leaky_relu": {"type": "leaky_relu"},
    "elu": {"type": "elu"},
    "elu, alpha 0.5": {"type": "elu", "alpha": 0.5},
    "selu": {"type": "selu"},
    "gelu": {"type": "gelu"},
    "gelu, tanh": {"type": "gelu", "approximate": "tanh"},
    "silu": {"type": "silu"},
    "mish": {"type": "mish"},
    "softplus": {"type": "softplus"},
    "softplus, beta 3": {"type": "softplus", "beta": 3.0},
    "sigmoid": {"type": "sigmoid"},
    "tanh": {"type": "tanh"},
    "softmax": {"type": "softmax"},
    "log_softmax": {"type": "log_softmax"},
    "flatten": {"type": "flatten"},
    "dropout": {"type": "dropout", "rate": 0.4},
    "prelu": {"type": "prelu"},
    "reshape": {"type": "reshape", "shape": [1, 5]},
    "batch_norm": {"type": "batch_norm"},
    "layer_norm": {"type": "layer_norm"},
    "rms_norm": {"type": "rms_norm"},
}


def model_of(*layers, input_shape=(5,), dtype="float64", seed=3):
    """Build a model of these layer entries."""
    return specnet.build(specnet.ModelSpec(input_shape=input_shape, dtype=dtype, seed=seed, layers=list(layers)))


def numerical_gradient(function, array, step=1e-4):
    """∂function()/∂array, element by element, in float64.

    Central differences of two step sizes, extrapolated (Richardson): the error falls with the fourth power of step.
    """
    gradient = np.zeros_like(array)
    for index in itertools.product(*map(range, array.shape)):
        value = array[index]
        slopes = []
        for h in (step, step / 2):
            array[index] = value + h
            above = function()
            array[index] = value - h
            below = function()
            slopes.append((above - below) / (2 * h))
        array[index] = value
        gradient[index] = (4 * slopes[1] - slopes[0]) / 3
    return gradient


def relative_error(found, expected):
    """The largest difference, relative to the largest expected element (what is all but 0 counts as 0.001)."""
    return np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-3)


def away_from_kinks(rng, shape):
    """Random numbers of both signs, none near 0, where relu and the like have no derivative."""
    x = rng.uniform(0.1, 2, shape)
    return x * rng.choice([-1, 1], shape)


def arrays_of(model):
    """Copies of all parameters, buffers and gradients, by name."""
    found = {name: value.copy() for name, value in [*model.parameters.items(), *model.buffers.items()]}
    return found | {f"d {name}": value.copy() for name, value in model.gradients.items()}


def same_arrays(a, b):
    """Whether two mappings hold the same names, dtypes and bits."""
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)
