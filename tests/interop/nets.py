"""Build random networks for round-trip tests with other programs."""

import numpy as np
from hypothesis import strategies as st

from tests.support import model_of

ACTIVATIONS = (
    {"type": "relu"},
    {"type": "leaky_relu", "negative_slope": 0.2},
    {"type": "elu", "alpha": 0.7},
    {"type": "selu"},
    {"type": "gelu"},
    {"type": "silu"},
    {"type": "mish"},
    {"type": "softplus"},
    {"type": "sigmoid"},
    {"type": "tanh"},
    {"type": "prelu"},
)
NORMS = (
    {"type": "batch_norm", "momentum": 0.05, "epsilon": 1e-3},
    {"type": "layer_norm"},
    {"type": "dropout", "rate": 0.25},
)


def affine():
    return st.builds(
        lambda units, bias: {"type": "affine", "units": units, "bias": bias}, st.integers(1, 6), st.booleans()
    )


def blocks(*, branching):
    """Return a strategy for lists of layers; with `branching`, some of them are residuals and concats."""
    inner = st.lists(st.one_of(affine(), st.sampled_from(ACTIVATIONS + NORMS)), min_size=1, max_size=3)
    kinds = [inner]
    if branching:
        kinds.append(
            st.builds(
                lambda layers, units: [
                    {
                        "type": "residual",
                        "layers": [*layers, {"type": "affine", "units": units}],
                        "shortcut": [{"type": "affine", "units": units, "bias": False}],
                    }
                ],
                inner,
                st.integers(1, 5),
            )
        )
        kinds.append(st.builds(lambda a, b: [{"type": "concat", "branches": [[], a, b]}], inner, inner))
        kinds.append(st.just([{"type": "residual", "layers": [{"type": "tanh"}]}]))
    else:
        kinds.append(inner.map(lambda layers: [{"type": "sequential", "layers": layers}]))
    return st.lists(st.one_of(*kinds), min_size=1, max_size=4).map(
        lambda lists: [entry for entries in lists for entry in entries]
    )


def random_model(layers, seed, dtype="float32", input_shape=(5,)):
    """Build a model and fill every array, including running statistics, with random numbers of moderate size."""
    model = model_of(*layers, dtype=dtype, input_shape=input_shape)
    rng = np.random.default_rng(seed)
    for name, array in {**model.parameters, **model.buffers}.items():
        if array.dtype.kind == "f" and not name.endswith((".mean", ".std")):  # the document sets mean and std
            low, high = (0.5, 2) if name.endswith("running_var") else (-1, 1)
            array[...] = rng.uniform(low, high, array.shape)
    return model


def same_floats(a, b):
    """Return whether the arrays of two models are bitwise equal, except batch counts, which other programs lack."""
    first, second = ({**m.parameters, **m.buffers} for m in (a, b))
    names = [name for name in first if not name.endswith(".count")]
    return first.keys() == second.keys() and all(first[n].tobytes() == second[n].tobytes() for n in names)
