"""Fit the diabetes table as its documents declare, and a linear model on the same rows."""

import sys
from pathlib import Path

import numpy as np

import specnet
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data

HERE = Path(__file__).parent


def r2(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Return R², the fraction of the targets' variance that the predictions explain."""
    return 1 - np.square(targets - predicted).sum() / np.square(targets - targets.mean()).sum()


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/diabetes-example")
    document = HERE / "diabetes.experiment.json"
    result = specnet.train(document, out=out, force=True)
    data = load_data(*load_experiment(document))  # the same split as in training

    with_ones = [np.c_[rows.inputs, np.ones(len(rows))] for rows in (data.train, data.validation)]
    solution, *_ = np.linalg.lstsq(with_ones[0], data.train.targets)
    targets = data.validation.targets

    print(f"{len(data.train)} training rows, {len(targets)} held-out rows; R² on the held-out rows")
    print(f"linear model   {r2(targets, with_ones[1] @ solution):.3f}")
    print(f"this network   {r2(targets, result.model.predict(data.validation.inputs)):.3f}")
    print("(the network's figure is slightly optimistic, because early stopping used the held-out rows)")
    print(f"{result.best_path} holds the network after epoch {int(np.argmin(result.history['val_loss'])) + 1}")


if __name__ == "__main__":
    main()
