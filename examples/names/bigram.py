"""Compare the held-out loss of the trained network with that of bigrams: how often each character follows another."""

import sys
from pathlib import Path

import numpy as np

import specnet
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from specnet.training.losses import SoftmaxCrossEntropy

HERE = Path(__file__).parent


def main(checkpoint="runs/names/best.h5"):
    data = load_data(*load_experiment(HERE / "names.experiment.json"))
    train, validation = data.train, data.validation
    tokens = 3 + len(data.experiment.built_model.tokenizer.vocabulary)
    mask = train.inputs != 0

    counts = np.full((tokens, tokens), 0.1)  # as if every pair had been seen a little
    np.add.at(counts, (train.inputs[mask], train.targets[mask]), 1)
    bigrams = np.log(counts / counts.sum(axis=1, keepdims=True))

    model = specnet.load(checkpoint)
    loss = SoftmaxCrossEntropy()
    x, y = validation.inputs, validation.targets
    for name, outputs in (("bigrams", bigrams[x]), ("this network", model.predict(x))):
        nats, _ = loss(outputs, y, mask=x != 0)
        print(f"{name:14}{nats:.3f} nats a character, {nats / np.log(2):.2f} bits")


if __name__ == "__main__":
    main(*sys.argv[1:])
