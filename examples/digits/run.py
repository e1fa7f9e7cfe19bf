"""Train the digits network from its documents, load its best checkpoint and show some predictions."""

import sys
from pathlib import Path

import numpy as np

import specnet

HERE = Path(__file__).parent
SHADES = " .:-=+*#%@"


def picture(pixels: np.ndarray) -> list[str]:
    """Draw 64 pixels with values from 0 to 16 as eight lines of text."""
    return ["".join(2 * SHADES[min(int(p) * 10 // 17, 9)] for p in row) for row in pixels.reshape(8, 8)]


def report(event: specnet.training.loop.Event) -> None:
    """Print the metrics of every fifth epoch."""
    if event.kind == "epoch" and event.run.epoch % 5 == 0:
        shown = ("loss", "accuracy", "val_loss", "val_accuracy")
        metrics = "  ".join(f"{name} {event.metrics[name]:.4f}" for name in shown)
        print(f"epoch {event.run.epoch:2}  {metrics}")


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/digits-example")
    result = specnet.train(HERE / "digits.experiment.json", out=out, force=True, listeners=[report])

    model = specnet.load(result.best_path)
    print(f"\n{result.best_path} loaded again: {model}")
    data = specnet.training.loading.load_data(
        *specnet.training.experiment.load_experiment(HERE / "digits.experiment.json")
    )
    held_out = data.validation
    predicted = model.predict(held_out.inputs).argmax(axis=1)
    correct = predicted == held_out.targets
    print(f"accuracy on {len(correct)} held-out digits: {correct.mean():.4f}")

    shown = [*np.flatnonzero(correct)[:3], *np.flatnonzero(~correct)[:3]]
    print("\nthree correct predictions and three wrong ones:\n")
    for lines in zip(*(picture(held_out.inputs[row]) for row in shown), strict=True):
        print("  ".join(lines))
    print("  ".join(f"{held_out.targets[row]}, predicted {predicted[row]}".ljust(16) for row in shown))


if __name__ == "__main__":
    main()
