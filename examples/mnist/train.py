"""Train a network on MNIST: IDX files of images and labels (with or without .gz), or one .npz file.

An .npz file holds the arrays x and y, or x_train and y_train, like Keras's mnist.npz. A fifth of the rows is held out.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import specnet

HERE = Path(__file__).parent
SETTINGS: dict[str, dict[str, Any]] = {
    "mnist": {"optimizer": {"type": "adam", "learning_rate": 0.002}, "epochs": 25, "batch_size": 128},
    "lenet": {
        "optimizer": {"type": "adamw", "learning_rate": 0.005, "weight_decay": 0.05},
        "epochs": 15,
        "batch_size": 64,
    },
}


def entry(files: list[str]) -> dict[str, str]:
    """Return the data entry of an experiment document for these files."""
    paths = [str(Path(file).resolve()) for file in files]
    if len(paths) == 2:
        return {"inputs": paths[0], "targets": paths[1]}
    with np.load(paths[0]) as arrays:
        x, y = ("x_train", "y_train") if "x_train" in arrays else ("x", "y")
    return {"path": paths[0], "inputs": x, "targets": y}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=SETTINGS, default="mnist", help="the model document (default: mnist)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the order of the rows (default: 0)")
    parser.add_argument("files", nargs="+", help="IMAGES LABELS, or FILE.npz")
    given = parser.parse_args()
    if len(given.files) > 2:
        parser.error("expected one or two files")
    experiment = {
        "name": given.network,
        "model": str(HERE / f"{given.network}.model.json"),
        "data": {"train": entry(given.files), "validation": {"fraction": 0.2}},
        "training": {
            "loss": {"type": "softmax_cross_entropy", "label_smoothing": 0.1},
            "schedule": "one_cycle",
            "seed": given.seed,
            **SETTINGS[given.network],
        },
    }
    start = time.monotonic()
    result = specnet.train(experiment, out=f"runs/{given.network}", force=True, listeners=[report])
    last = result.history["val_accuracy"][-1]
    print(f"{last:.2%} of the held-out digits right, in {time.monotonic() - start:.0f} s; {result.checkpoint_path}")


def report(event: specnet.training.loop.Event) -> None:
    if event.kind == "epoch" and event.run.epoch % 5 == 0:
        print(f"epoch {event.run.epoch:2}  val_accuracy {event.metrics['val_accuracy']:.4f}")


if __name__ == "__main__":
    main()
