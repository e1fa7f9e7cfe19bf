"""Time of one epoch of a complete training run, and its peak memory, compared with two loops over torch.

    python tests/benchmarks/epoch.py [--rounds 5] [--one-core] [--json FILE]

8,000 rows of 784 numbers, batches of 128, shuffled in each epoch, 784-256-128-10, Adam. specnet is `specnet.train`
without checkpoints, which also computes accuracy and checks that gradients are finite. torch (fused Adam) runs in the
usual loop over a DataLoader, and in a hand-written loop over tensors. The floor is the matrix products of an epoch.
Times are medians over the epochs after the first; memory is the peak of the process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from contest import Measurement, main, peak_memory

WIDTHS, BATCH, ROWS, EPOCHS = [784, 256, 128, 10], 128, 8000, 6
STEPS = -(-ROWS // BATCH)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((ROWS, WIDTHS[0]), np.float32), rng.integers(0, WIDTHS[-1], ROWS)


def floor(_case: str) -> Measurement:
    import step

    step.NETWORKS["epoch"] = (WIDTHS, BATCH, STEPS)
    return {"time": step.floor("epoch")["time"] * STEPS, "memory": peak_memory()}


def specnet(_case: str) -> Measurement:
    import specnet

    times: list[float] = []

    def watch(event: Any) -> None:
        if event.kind in ("start", "epoch"):
            times.append(time.perf_counter())

    layers: list[dict[str, object]] = []
    for units in WIDTHS[1:]:
        layers += [{"type": "affine", "units": units}, {"type": "relu"}]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key, array in zip("xy", data(), strict=True):
            np.save(folder / f"{key}.npy", array)
        document = {
            "model": {"input_shape": WIDTHS[:1], "layers": layers[:-1]},
            "data": {"train": {"inputs": str(folder / "x.npy"), "targets": str(folder / "y.npy")}},
            "training": {
                "loss": "softmax_cross_entropy",
                "epochs": EPOCHS,
                "batch_size": BATCH,
                "checkpoint": {"every_epochs": EPOCHS + 1},
            },
        }
        specnet.train(document, out=folder / "run", listeners=[watch])
    return _measurement(times)


def torch(_case: str, *, loader: bool) -> Measurement:
    import torch

    x, y = map(torch.from_numpy, data())
    modules: list[torch.nn.Module] = []
    for a, b in pairwise(WIDTHS):
        modules += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1])
    loss, optimizer = torch.nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), fused=True)
    dataset = torch.utils.data.TensorDataset(x, y)
    batches = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True)

    def by_hand() -> Iterator[Any]:
        for rows in torch.randperm(ROWS).split(BATCH):
            yield x[rows], y[rows]

    times = [time.perf_counter()]
    for _ in range(EPOCHS):
        total, right = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for rows, targets in batches if loader else by_hand():
            optimizer.zero_grad()
            outputs = model(rows)
            result = loss(outputs, targets)
            result.backward()
            optimizer.step()
            total += result.detach()
            right += (outputs.argmax(1) == targets).sum()
        times.append(time.perf_counter())
    return _measurement(times)


def _measurement(times: list[float]) -> Measurement:
    return {"time": statistics.median(b - a for a, b in pairwise(times[1:])), "memory": peak_memory()}


if __name__ == "__main__":
    main(
        __file__,
        __doc__ or "",
        ["epoch of 8,000 x 784, batch 128, 784-256-128-10"],
        {
            "floor": floor,
            "specnet": specnet,
            "specnet, numpy": specnet,
            "torch, DataLoader": lambda case: torch(case, loader=True),
            "torch, tensors": lambda case: torch(case, loader=False),
        },
    )
