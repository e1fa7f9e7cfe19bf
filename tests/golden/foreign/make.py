"""Writes this folder's files with the libraries that they are of: `python make.py keras|torch|onnx`.

keras    under Keras 2.15 (with TensorFlow 2.15): keras2.h5, keras2.keras, keras2.weights.h5, keras2-weights.h5;
         under Keras 3 (KERAS_BACKEND=jax): keras3.h5, keras3.keras, keras3.weights.h5
torch    torch.safetensors
onnx     torch-script.onnx, torch-dynamo.onnx (needs torch, onnx and onnxscript)

What each network makes of INPUTS, and the library's version, goes into expected.json.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
INPUTS = np.linspace(-2, 2, 4 * 6, dtype="f4").reshape(4, 6)


def note(versions, outputs):
    """Add to expected.json."""
    path = HERE / "expected.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= {name: {"made by": versions, "outputs": np.asarray(y, "f8").tolist()} for name, y in outputs.items()}
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def keras_network(*, scale):
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    inner = keras.Sequential([layers.Dense(4, activation="elu"), layers.BatchNormalization()], name="block")
    model = keras.Sequential(
        [
            layers.InputLayer((6,)) if keras.__version__ < "3" else layers.Input((6,)),
            layers.Normalization(),
            layers.Dense(5, activation="relu", name="hidden", kernel_initializer="he_normal"),
            layers.BatchNormalization(scale=scale, name="norm"),
            layers.LeakyReLU(),
            layers.LayerNormalization(),
            layers.Dropout(0.25),
            inner,
            layers.Reshape((2, 2)),
            layers.PReLU(shared_axes=[1]),
            layers.Flatten(),
            layers.Activation("softplus"),
            layers.Dense(3, activation="softmax", use_bias=False),
        ],
        name="golden",
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 2, size=(64, 6)).astype("f4"), rng.integers(0, 3, 64)
    model.layers[0].adapt(x)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=3, batch_size=16, verbose=0)
    return model


def keras():
    import keras

    major = keras.__version__[0]
    whole, parts = keras_network(scale=False), keras_network(scale=True)
    whole.save(HERE / f"keras{major}.keras")  # before .h5, which forgets the optimizer's settings
    whole.save(HERE / f"keras{major}.h5")
    parts.save_weights(HERE / f"keras{major}.weights.h5")
    y = np.asarray(whole(INPUTS, training=False))
    outputs = {f"keras{major}.keras": y, f"keras{major}.h5": y}
    outputs[f"keras{major}.weights.h5"] = y = np.asarray(parts(INPUTS, training=False))
    if major == "2":
        parts.save_weights(HERE / "keras2-weights.h5", save_format="h5")
        outputs["keras2-weights.h5"] = y
    note(f"Keras {keras.__version__}", outputs)


def network():
    import torch
    from torch import nn

    torch.manual_seed(1)

    class Residual(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return x + self.body(x)

    made = nn.Sequential(
        nn.Linear(6, 8),
        nn.GELU(),
        Residual(nn.Sequential(nn.Linear(8, 4), nn.SiLU(), nn.Linear(4, 8))),
        nn.LayerNorm(8),
        nn.BatchNorm1d(8),
        nn.Mish(),
        nn.Linear(8, 3),
    )
    made.train()
    with torch.no_grad():
        for _ in range(5):
            made(torch.randn(32, 6))
        made[4].weight.normal_()
    return made.eval()


def torch_file():
    import torch
    from safetensors.torch import save_file

    made = network()
    save_file(made.state_dict(), HERE / "torch.safetensors")
    note(f"torch {torch.__version__}", {"torch.safetensors": made(torch.tensor(INPUTS)).detach().numpy()})


def onnx_files():
    import torch

    made, x = network(), torch.tensor(INPUTS)
    torch.onnx.export(
        made, (x,), HERE / "torch-script.onnx", dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(
        made, (x,), HERE / "torch-dynamo.onnx", dynamo=True, external_data=False, dynamic_shapes=shapes, verbose=False
    )
    y = made(x).detach().numpy()
    note(f"torch {torch.__version__}", {"torch-script.onnx": y, "torch-dynamo.onnx": y})


if __name__ == "__main__":
    {"keras": keras, "torch": torch_file, "onnx": onnx_files}[sys.argv[1]]()
