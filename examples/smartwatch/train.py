"""Recognize exercises in the signals of a smartwatch, for persons on whom the network was not trained.

`train.py` holds out the persons 9 and 10; `train.py 1 2` holds out the persons 1 and 2.
"""

import sys
from pathlib import Path

import numpy as np
from seglearn.datasets import load_watch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import specnet

HERE = Path(__file__).parent
LENGTH, STEP = 200, 50  # samples, 50 a second: windows of four seconds, a new one every second


def windows(recordings: list[np.ndarray], classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all windows of recordings (samples, 6) as (rows, LENGTH, 6), and the class of each."""
    parts = [
        np.lib.stride_tricks.sliding_window_view(samples, LENGTH, axis=0)[::STEP].swapaxes(1, 2)
        for samples in recordings
    ]
    return np.concatenate(parts).astype(np.float32), np.repeat(classes, [len(part) for part in parts])


def statistics(x: np.ndarray) -> np.ndarray:
    """Return the mean and the standard deviation of each of the six signals in each window, (rows, 12)."""
    return np.concatenate([x.mean(axis=1), x.std(axis=1)], axis=1)


def main() -> None:
    persons = [int(argument) for argument in sys.argv[1:]] or [9, 10]
    watch = load_watch()
    held_out = np.isin(watch["subject"], persons)
    (x, y), (new_x, new_y) = (
        windows([watch["X"][index] for index in np.flatnonzero(chosen)], watch["y"][chosen])
        for chosen in (~held_out, held_out)
    )

    model = specnet.build(specnet.load_spec(HERE / "smartwatch.model.json"))
    specnet.fit(
        model,
        x,
        y,
        loss="softmax_cross_entropy",
        optimizer={"type": "adamw", "learning_rate": 0.003, "weight_decay": 0.05},
        schedule="one_cycle",
        epochs=10,
        batch_size=64,
    )
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(statistics(x), y)

    print(f"{len(x)} windows of {10 - len(persons)} persons to train on; {len(new_x)} windows of the persons {persons}")
    print(f"logistic regression on means and deviations   {linear.score(statistics(new_x), new_y):.1%}")
    print(f"this network                                  {(model.predict(new_x).argmax(axis=1) == new_y).mean():.1%}")


if __name__ == "__main__":
    main()
