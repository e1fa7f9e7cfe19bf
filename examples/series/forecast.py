"""Forecast a signal of a smartwatch with a GRU, beside the last value and a linear forecast from the same windows.

Writes the series into watch.npz in the current folder, trains there, and draws forecast.png.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from seglearn.datasets import load_watch

import specnet
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data

HERE = Path(__file__).parent
EXERCISE, SIGNAL, RATE = "FEL", 3, 50  # forward elevation of the arm; rotation about the first axis; samples a second


def write_series(path):
    """Write the recordings of one exercise, one person after the other, as one series."""
    watch = load_watch()
    chosen = np.flatnonzero(watch["y"] == watch["y_labels"].index(EXERCISE))
    chosen = chosen[np.lexsort((watch["side"][chosen], watch["subject"][chosen]))]
    signals = np.concatenate([watch["X"][index] for index in chosen]).astype(np.float32)
    np.savez(path, signals=signals, rotation=signals[:, SIGNAL])
    last = len(signals) // 5
    lengths = np.cumsum([len(watch["X"][index]) for index in chosen])
    persons = sorted({int(p) for p in watch["subject"][chosen[lengths > len(signals) - last]]})
    print(f"{len(signals)} samples; the last {last}, of the persons {persons}, are held out")


def linear_forecast(train, x):
    """Forecast by least squares from all numbers of a window."""
    rows = np.column_stack([train.inputs.reshape(len(train), -1), np.ones(len(train))])
    coefficients, *_ = np.linalg.lstsq(rows, train.targets, rcond=None)
    return np.column_stack([x.reshape(len(x), -1), np.ones(len(x))]) @ coefficients


def draw(y, forecasts, path):
    """Draw ten seconds of the held-out part, and what was forecast for each moment a fifth of a second before."""
    part = slice(2000, 2000 + 10 * RATE)
    time = np.arange(10 * RATE) / RATE
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(time, y[part, -1], color="0.6", linewidth=4, label="measured")
    for (name, forecast), style in zip(forecasts.items(), ("-", ":", "--"), strict=True):
        axes.plot(time, forecast[part, -1], style, linewidth=1.4, label=name)
    axes.set(xlabel="seconds", ylabel="rotation, rad/s", ylim=(-6.5, 5))
    axes.legend(loc="upper right", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    print(f"{path} shows ten seconds of the held-out part")


def main():
    write_series("watch.npz")
    document, _ = load_experiment(HERE / "series.experiment.json")
    result = specnet.train(document, out="runs/series", force=True)
    data = load_data(document, Path())
    x, y = data.validation.inputs, data.validation.targets
    forecasts = {
        "this network": specnet.load(result.checkpoint_path).predict(x, batch_size=1024),
        "last value": np.repeat(x[:, -1, SIGNAL : SIGNAL + 1], y.shape[1], axis=1),
        "linear": linear_forecast(data.train, x),
    }
    print(f"root mean square error of {len(y)} held-out windows, rad/s")
    print(f"{'seconds ahead':16}{0.02:8.2f}{0.1:8.2f}{0.2:8.2f}{'all':>8}")
    for name, forecast in forecasts.items():
        errors = np.sqrt(np.mean(np.square(forecast - y), axis=0))
        print(f"{name:16}" + "".join(f"{e:8.3f}" for e in (*errors[[0, 4, 9]], np.sqrt(np.mean(errors**2)))))
    draw(y, forecasts, "forecast.png")


if __name__ == "__main__":
    main()
