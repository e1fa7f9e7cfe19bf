"""Train a network to separate two spirals, and draw its decisions as text and as a picture in spirals.svg."""

import sys
from pathlib import Path

import numpy as np

import specnet

HERE = Path(__file__).parent
COLOURS = (np.array([38, 84, 124]), np.array([239, 111, 83]))


def spirals(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points of two spirals, (rows, 2), and the spiral of each point, 0 or 1, (rows,)."""
    rng = np.random.default_rng(seed)
    spiral = np.arange(rows) % 2
    turn = np.sqrt(rng.uniform(0.02, 1, rows)) * 3 * np.pi
    angle = turn + np.pi * spiral
    points = np.c_[np.cos(angle), np.sin(angle)] * turn[:, np.newaxis] / (3 * np.pi)
    return points + rng.normal(scale=0.02, size=points.shape), spiral


def picture(grid: np.ndarray, points: np.ndarray, spiral: np.ndarray) -> str:
    """Return an SVG: probabilities, (cells, cells), as coloured squares, with the points on top."""
    size = len(grid)
    shapes = []
    for row, line in enumerate(grid):
        for column, probability in enumerate(line):
            colour = (1 - probability) * COLOURS[0] + probability * COLOURS[1]
            red, green, blue = (255 - 0.6 * (255 - colour)).astype(int)
            shapes.append(f'<rect x="{column}" y="{row}" width="1.05" height="1.05" fill="rgb({red},{green},{blue})"/>')
    for (x, y), index in zip((points + 1.1) / 2.2 * size, spiral, strict=True):
        red, green, blue = COLOURS[index]
        shapes.append(f'<circle cx="{x:.2f}" cy="{size - y:.2f}" r="0.4" fill="rgb({red},{green},{blue})"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="600" height="600">'
    return "\n".join([head, *shapes, "</svg>"]) + "\n"


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("spirals.svg")
    (x, y), held_out = spirals(600, 0), spirals(300, 1)
    model = specnet.build(specnet.load_spec(HERE / "spirals.model.json"))
    history = specnet.fit(
        model,
        x,
        y,
        validation=held_out,
        loss="softmax_cross_entropy",
        optimizer={"type": "adam", "learning_rate": 0.01},
        schedule="cosine",
        epochs=300,
        batch_size=50,
    )
    print(f"{history['val_accuracy'][-1]:.1%} of 300 new points are classified correctly")

    axis = np.linspace(-1.1, 1.1, 60)
    across, down = np.meshgrid(axis, axis[::-1])
    logits = model.predict(np.c_[across.ravel(), down.ravel()])
    probability = (1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).reshape(60, 60)
    for line in probability[1::3]:
        print("".join(" ░▒▓█"[min(int(5 * value), 4)] for value in line))
    out.write_text(picture(probability, x, y), encoding="utf-8")
    print(f"wrote the picture to {out}")


if __name__ == "__main__":
    main()
