"""Train the digits network in a custom loop: forward, loss, backward, step."""

from pathlib import Path

import numpy as np

import specnet
from specnet.training.losses import SoftmaxCrossEntropy
from specnet.training.optimizers import Adam

HERE = Path(__file__).parent

data = np.load(HERE / "digits.npz")
x, y = data["x"].astype(np.float32), data["y"].astype(np.int64)

model = specnet.build(specnet.load_spec(HERE / "digits.model.json"))
loss, optimizer = SoftmaxCrossEntropy(), Adam(model, learning_rate=0.001)
rng = np.random.default_rng(0)
for epoch in range(1, 11):
    for rows in np.array_split(rng.permutation(len(x)), 56):
        value, dy = loss(model.forward(x[rows], training=True), y[rows])
        model.backward(dy, input_gradient=False)
        optimizer.step()
    accuracy = np.mean(model.predict(x).argmax(axis=1) == y)
    print(f"epoch {epoch:2}  loss {value:.4f}  accuracy {accuracy:.4f}")
