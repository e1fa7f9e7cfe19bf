"""Train 784-256-128-10 on MNIST: `train.py IMAGES LABELS` (IDX, with or without .gz) or `train.py FILE.npz`.

An .npz file holds the arrays x and y, or x_train and y_train, like Keras's mnist.npz. A fifth of the rows is held out.
"""

import sys
import time
from pathlib import Path

import numpy as np

import specnet

HERE = Path(__file__).parent


def entry(files: list[str]) -> dict[str, str]:
    """Return the data entry of an experiment document for these files."""
    paths = [str(Path(file).resolve()) for file in files]
    if len(paths) == 2:
        return {"inputs": paths[0], "targets": paths[1]}
    with np.load(paths[0]) as arrays:
        x, y = ("x_train", "y_train") if "x_train" in arrays else ("x", "y")
    return {"path": paths[0], "inputs": x, "targets": y}


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    experiment = {
        "name": "mnist",
        "model": str(HERE / "mnist.model.json"),
        "data": {"train": entry(sys.argv[1:]), "validation": {"fraction": 0.2}},
        "training": {
            "loss": {"type": "softmax_cross_entropy", "label_smoothing": 0.1},
            "optimizer": {"type": "adam", "learning_rate": 0.002},
            "schedule": "one_cycle",
            "epochs": 25,
            "batch_size": 128,
            "checkpoint": {"keep_best": "validation_accuracy"},
        },
    }
    start = time.monotonic()
    result = specnet.train(experiment, out="runs/mnist", force=True, listeners=[report])
    best = max(result.history["val_accuracy"])
    print(f"{best:.2%} of the held-out digits right, in {time.monotonic() - start:.0f} s; {result.best_path}")


def report(event: specnet.training.loop.Event) -> None:
    if event.kind == "epoch" and event.run.epoch % 5 == 0:
        print(f"epoch {event.run.epoch:2}  val_accuracy {event.metrics['val_accuracy']:.4f}")


if __name__ == "__main__":
    main()
