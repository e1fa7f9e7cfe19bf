"""Time of a new process that imports, loads a model and predicts one row, compared with bare imports.

    python tests/benchmarks/start.py [--rounds 15] [--json FILE]

784-256-128-10. The floor is the bare imports of numpy, h5py and pydantic. Files are in the page cache. torch loads a
state dict, Keras (on JAX) a complete .keras model.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from contest import Measurement, main

WIDTHS = [784, 256, 128, 10]
MAKE_SPECNET = """
import specnet
layers = [{"type": "affine", "units": 256}, {"type": "relu"}, {"type": "affine", "units": 128}, {"type": "relu"},
          {"type": "affine", "units": 10}]
specnet.save("m.h5", specnet.build(specnet.ModelSpec(input_shape=[784], layers=layers)))
"""
RUN_SPECNET = "import specnet; specnet.load('m.h5').predict([[0.5] * 784])"
TORCH_MODEL = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
"""
MAKE_TORCH = TORCH_MODEL + "torch.save(model.state_dict(), 'm.pt')"
RUN_TORCH = (
    TORCH_MODEL
    + """
model.load_state_dict(torch.load("m.pt", weights_only=True))
with torch.inference_mode():
    model(torch.full((1, 784), 0.5))
"""
)
MAKE_KERAS = """
import keras
from keras.layers import Dense
keras.Sequential([keras.Input((784,)), Dense(256, "relu"), Dense(128, "relu"), Dense(10)]).save("m.keras")
"""
RUN_KERAS = "import keras, numpy; keras.saving.load_model('m.keras').predict(numpy.full((1, 784), 0.5), verbose=0)"


def cold(code: str, make: str = "") -> Callable[[str], Measurement]:
    """Return a contender that times the second process that runs `code`, in a folder in which `make` has run."""

    def measure(_case: str) -> Measurement:
        with tempfile.TemporaryDirectory() as folder:
            for text in (make, code):
                _run_python(text, folder)
            began = time.perf_counter()
            _run_python(code, folder)
            return {"time": time.perf_counter() - began}

    return measure


def _run_python(code: str, folder: str) -> None:
    process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(process.stderr.strip())


if __name__ == "__main__":
    main(
        __file__,
        __doc__ or "",
        ["cold process: import, load, predict one row"],
        {
            "floor": cold("import numpy, h5py, pydantic"),
            "specnet": cold(RUN_SPECNET, MAKE_SPECNET),
            "specnet, numpy": cold(RUN_SPECNET, MAKE_SPECNET),
            "torch": cold(RUN_TORCH, MAKE_TORCH),
            "keras": cold(RUN_KERAS, MAKE_KERAS),
        },
        rounds=15,
    )
