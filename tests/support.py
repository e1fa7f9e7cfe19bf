"""Helpers that several tests share: example entries of every layer, bitwise comparison of arrays, npm packages."""

import json
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

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
    "standardize": {"type": "standardize", "mean": 0.5, "std": [1, 2, 3, 4, 5]},
    "sequential": {"type": "sequential", "layers": [{"type": "affine", "units": 3}, {"type": "silu"}]},
    "residual": {"type": "residual", "layers": [{"type": "affine", "units": 5}, {"type": "tanh"}]},
    "residual, shortcut": {
        "type": "residual",
        "layers": [{"type": "affine", "units": 3}, {"type": "dropout", "rate": 0.4}],
        "shortcut": [{"type": "affine", "units": 3, "bias": False}],
    },
    "concat": {
        "type": "concat",
        "branches": [[], [{"type": "affine", "units": 2}, {"type": "layer_norm"}], [{"type": "gelu"}]],
    },
    "nested": {
        "type": "sequential",
        "layers": [
            {"type": "residual", "name": "block", "layers": [{"type": "prelu"}, {"type": "batch_norm"}]},
            {"type": "concat", "branches": [[{"type": "residual", "layers": [{"type": "elu"}]}]]},
        ],
    },
}


SPATIAL_LAYERS = {
    "conv1d": ({"type": "conv1d", "filters": 3, "kernel_size": 3}, (7, 2)),
    "conv1d, same, stride": (
        {"type": "conv1d", "filters": 3, "kernel_size": 4, "padding": "same", "stride": 3},
        (8, 2),
    ),
    "conv2d": ({"type": "conv2d", "filters": 3, "kernel_size": 3, "padding": "same"}, (5, 4, 2)),
    "conv2d, one pixel": (
        {"type": "conv2d", "filters": 2, "kernel_size": 3, "padding": "same", "bias": False},
        (1, 1, 3),
    ),
    "conv2d, all keys": (
        {
            "type": "conv2d",
            "filters": 4,
            "kernel_size": [3, 2],
            "stride": [2, 3],
            "padding": [[1, 2], 0],
            "dilation": [1, 2],
            "groups": 2,
        },
        (7, 8, 4),
    ),
    "conv2d, depthwise": ({"type": "conv2d", "filters": 5, "kernel_size": 3, "groups": 5, "stride": 2}, (6, 7, 5)),
    "conv2d, two filters a channel": ({"type": "conv2d", "filters": 6, "kernel_size": 2, "groups": 3}, (3, 3, 3)),
    "conv_transpose1d": ({"type": "conv_transpose1d", "filters": 3, "kernel_size": 3, "stride": 2}, (4, 2)),
    "conv_transpose1d, same": (
        {"type": "conv_transpose1d", "filters": 2, "kernel_size": 1, "stride": 2, "padding": "same"},
        (3, 3),
    ),
    "conv_transpose2d": (
        {"type": "conv_transpose2d", "filters": 2, "kernel_size": 4, "stride": 2, "padding": "same"},
        (3, 2, 3),
    ),
    "conv_transpose2d, all keys": (
        {
            "type": "conv_transpose2d",
            "filters": 4,
            "kernel_size": [3, 2],
            "stride": [2, 3],
            "padding": [[1, 0], 1],
            "dilation": [1, 3],
            "groups": 2,
            "output_padding": [1, 2],
            "bias": False,
        },
        (4, 3, 2),
    ),
    "max_pool1d": ({"type": "max_pool1d", "pool_size": 3, "stride": 2}, (7, 2)),
    "max_pool2d": ({"type": "max_pool2d"}, (4, 6, 3)),
    "max_pool2d, overlapping": (
        {"type": "max_pool2d", "pool_size": [2, 3], "stride": 1, "padding": [0, [1, 2]]},
        (5, 6, 2),
    ),
    "average_pool1d": ({"type": "average_pool1d", "pool_size": 3, "padding": 1, "count_padding": True}, (5, 3)),
    "average_pool2d": ({"type": "average_pool2d", "pool_size": 3, "stride": 2, "padding": "same"}, (5, 4, 2)),
    "global_average_pool": ({"type": "global_average_pool"}, (4, 3, 2)),
    "global_max_pool": ({"type": "global_max_pool"}, (5, 3)),
    "zero_pad1d": ({"type": "zero_pad1d", "padding": [[1, 2]]}, (4, 3)),
    "zero_pad2d": ({"type": "zero_pad2d", "padding": [1, [0, 2]]}, (3, 2, 2)),
    "crop1d": ({"type": "crop1d", "cropping": [[0, 2]]}, (4, 3)),
    "crop2d": ({"type": "crop2d"}, (4, 3, 2)),
    "upsample1d": ({"type": "upsample1d", "size": 3, "interpolation": "linear"}, (4, 3)),
    "upsample2d": ({"type": "upsample2d", "size": [2, 3]}, (2, 3, 1)),
    "upsample2d, bilinear": ({"type": "upsample2d", "size": [2, 3], "interpolation": "bilinear"}, (4, 1, 3)),
    "channel_dropout": ({"type": "channel_dropout", "rate": 0.4}, (3, 2, 4)),
}
"""Layers over positions, with the shape of an input of each."""


SEQUENCE_LAYERS = {
    "simple_rnn": ({"type": "simple_rnn", "units": 3}, (4, 2)),
    "simple_rnn, relu, reverse": (
        {"type": "simple_rnn", "units": 4, "activation": "relu", "return_sequences": True, "reverse": True},
        (3, 2),
    ),
    "lstm": ({"type": "lstm", "units": 3}, (4, 2)),
    "lstm, sequences": ({"type": "lstm", "units": 3, "return_sequences": True}, (5, 2)),
    "lstm, reverse": ({"type": "lstm", "units": 2, "return_sequences": True, "reverse": True, "bias": False}, (4, 3)),
    "lstm, one step": ({"type": "lstm", "units": 5, "unit_forget_bias": False}, (1, 1)),
    "gru": ({"type": "gru", "units": 3}, (4, 2)),
    "gru, sequences, reverse": ({"type": "gru", "units": 3, "return_sequences": True, "reverse": True}, (4, 2)),
    "gru, without bias": ({"type": "gru", "units": 2, "bias": False}, (3, 3)),
    "gru, reset before": ({"type": "gru", "units": 3, "return_sequences": True, "reset_after": False}, (4, 2)),
    "bidirectional": ({"type": "bidirectional", "layers": [{"type": "lstm", "units": 3}]}, (4, 2)),
    "bidirectional, sequences": (
        {"type": "bidirectional", "layers": [{"type": "gru", "name": "both", "units": 2, "return_sequences": True}]},
        (3, 2),
    ),
    "attention": ({"type": "attention", "heads": 2}, (4, 6)),
    "attention, causal, dropout": (
        {"type": "attention", "heads": 3, "key_size": 2, "causal": True, "dropout": 0.3},
        (5, 4),
    ),
    "attention, without bias": ({"type": "attention", "heads": 1, "bias": False}, (3, 5)),
    "positional_encoding": ({"type": "positional_encoding"}, (4, 5)),
    "positional_encoding, learned": ({"type": "positional_encoding", "kind": "learned", "length": 6}, (4, 3)),
    "last_step": ({"type": "last_step"}, (4, 3)),
    "time_average": ({"type": "time_average"}, (4, 3)),
    "mask": ({"type": "mask"}, (4, 3)),
    "embedding, mask_index": ({"type": "embedding", "vocabulary": 7, "dimension": 3, "mask_index": 0}, (4,)),
}
"""Layers over sequences, with the shape of an input of each."""


def write_experiment(document, rows):
    """Write e.json, an experiment on 4 inputs and 2 classes, and its data d.npz into the current folder."""
    x = np.random.default_rng(0).normal(size=(rows, 4))
    np.savez("d.npz", x=x, y=(x[:, 0] > 0).astype(int))
    Path("e.json").write_text(json.dumps(document))


def one_by_default(cases):
    """Return the cases of a sweep; all but the first run with --full alone."""
    return [case if index == 0 else pytest.param(case, marks=pytest.mark.full) for index, case in enumerate(cases)]


def model_of(*layers, input_shape=(5,), dtype="float64", seed=3):
    """Build a model from layer entries."""
    return specnet.build(specnet.ModelSpec(input_shape=input_shape, dtype=dtype, seed=seed, layers=list(layers)))


def predict_in_threads(model, x, times=20):
    """Predict for x in four threads at once."""
    threads = [threading.Thread(target=lambda: [model.predict(x) for _ in range(times)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def arrays_of(model):
    """Return copies of all parameters, buffers and gradients, by name."""
    arrays = {name: value.copy() for name, value in [*model.parameters.items(), *model.buffers.items()]}
    return arrays | {f"d {name}": value.copy() for name, value in model.gradients.items()}


def same_arrays(a, b):
    """Return whether two mappings hold the same names, dtypes and bits."""
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def assert_gradients_match_without_input_gradient(model, x, dy):
    """Check that `backward(dy, input_gradient=False)` computes the same parameter gradients as `backward(dy)`."""
    model.forward(x)
    model.backward(dy)
    expected = arrays_of(model)
    model.forward(x)
    assert model.backward(dy, input_gradient=False) is None
    assert same_arrays(arrays_of(model), expected)


def npm_install(folder, package):
    """Install an npm package into a folder; skip the test if npm is missing, fails, or takes over two minutes."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("npm and node are not installed")
    command = [shutil.which("npm"), "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, package]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm cannot install {package}: its registry does not answer")
    if process.returncode:
        pytest.skip(f"npm cannot install {package}: {process.stderr.strip()[:200]}")
