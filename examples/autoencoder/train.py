"""Train the autoencoder as its documents declare, and draw ten held-out digits before and after."""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

import specnet
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data

HERE = Path(__file__).parent
NUMBERS = 8  # the width of the bottleneck in autoencoder.model.json


def principal_components(training: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the images as the mean of the training images and NUMBERS principal components draw them."""
    mean = training.mean(axis=0)
    directions = np.linalg.svd(training - mean, full_matrices=False)[2][:NUMBERS]
    return mean + (images - mean) @ directions.T @ directions


def draw(rows: dict[str, np.ndarray], path: Path) -> None:
    """Draw each entry as a row of 8x8 images."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of a backend without a window

    columns = len(next(iter(rows.values())))
    figure, axes = plt.subplots(len(rows), columns, figsize=(columns, len(rows) * 1.1), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
            axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=80)


def main() -> None:
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("autoencoder.png")
    document = HERE / "autoencoder.experiment.json"
    result = specnet.train(document, out="runs/autoencoder", force=True)
    data = load_data(*load_experiment(document))  # the same split as in training
    before = data.validation.inputs
    after = result.model.predict(before)
    linear = principal_components(data.train.inputs, before)

    print(f"mean squared error on {len(before)} held-out digits, pixels from 0 to 16, {NUMBERS} numbers for each digit")
    print(f"this network           {np.square(after - before).mean():.2f}")
    print(f"principal components   {np.square(linear - before).mean():.2f}")
    draw({"before": before[:10], "after": after[:10], "components": linear[:10]}, picture)
    print(f"wrote the picture to {picture}")


if __name__ == "__main__":
    main()
