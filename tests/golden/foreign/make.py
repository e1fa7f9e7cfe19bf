"""Write this folder's files, each with the library of its format: `python make.py keras|torch|onnx|images|series`.

keras    under Keras 2.15 (with TensorFlow 2.15): keras2.h5, keras2.keras, keras2.weights.h5, keras2-weights.h5;
         under Keras 3 (KERAS_BACKEND=jax): keras3.h5, keras3.keras, keras3.weights.h5
torch    torch.safetensors
onnx     torch-script.onnx, torch-dynamo.onnx (needs torch, onnx and onnxscript)
images   keras3-images.keras, keras3-images.h5, torch-images.onnx (needs Keras 3, torch and onnx)
series   keras3-series.keras, keras3-series.h5, torch-series.onnx (as images)

The outputs of each network for INPUTS, IMAGES or SERIES, and the library's version, are written to expected.json.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
INPUTS = np.linspace(-2, 2, 4 * 6, dtype="f4").reshape(4, 6)
IMAGES = np.linspace(-2, 2, 4 * 7 * 6 * 2, dtype="f4").reshape(4, 7, 6, 2)
SERIES = np.linspace(-2, 2, 4 * 5 * 3, dtype="f4").reshape(4, 5, 3)
SERIES[1, 3:], SERIES[2, 1:] = 0, 0  # padding, for a network with a mask


def add_expected(versions, outputs):
    """Add the outputs, by file name, and the library's version to expected.json."""
    path = HERE / "expected.json"
    entries = json.loads(path.read_text()) if path.exists() else {}
    entries |= {name: {"made by": versions, "outputs": np.asarray(y, "f8").tolist()} for name, y in outputs.items()}
    path.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")


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
    model, scaled_model = keras_network(scale=False), keras_network(scale=True)
    model.save(HERE / f"keras{major}.keras")  # saved before .h5, as saving to .h5 loses the optimizer's settings
    model.save(HERE / f"keras{major}.h5")
    scaled_model.save_weights(HERE / f"keras{major}.weights.h5")
    y = np.asarray(model(INPUTS, training=False))
    outputs = {f"keras{major}.keras": y, f"keras{major}.h5": y}
    outputs[f"keras{major}.weights.h5"] = y = np.asarray(scaled_model(INPUTS, training=False))
    if major == "2":
        scaled_model.save_weights(HERE / "keras2-weights.h5", save_format="h5")
        outputs["keras2-weights.h5"] = y
    add_expected(f"Keras {keras.__version__}", outputs)


def torch_network():
    import torch
    from torch import nn

    torch.manual_seed(1)

    class Residual(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return x + self.body(x)

    model = nn.Sequential(
        nn.Linear(6, 8),
        nn.GELU(),
        Residual(nn.Sequential(nn.Linear(8, 4), nn.SiLU(), nn.Linear(4, 8))),
        nn.LayerNorm(8),
        nn.BatchNorm1d(8),
        nn.Mish(),
        nn.Linear(8, 3),
    )
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(32, 6))
        model[4].weight.normal_()
    return model.eval()


def torch_file():
    import torch
    from safetensors.torch import save_file

    model = torch_network()
    save_file(model.state_dict(), HERE / "torch.safetensors")
    add_expected(f"torch {torch.__version__}", {"torch.safetensors": model(torch.tensor(INPUTS)).detach().numpy()})


def onnx_files():
    import torch

    model, x = torch_network(), torch.tensor(INPUTS)
    torch.onnx.export(
        model, (x,), HERE / "torch-script.onnx", dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(
        model, (x,), HERE / "torch-dynamo.onnx", dynamo=True, external_data=False, dynamic_shapes=shapes, verbose=False
    )
    forget_stacks(HERE / "torch-dynamo.onnx")
    y = model(x).detach().numpy()
    add_expected(f"torch {torch.__version__}", {"torch-script.onnx": y, "torch-dynamo.onnx": y})


def forget_stacks(path):
    """Remove the stack traces of the exporter, which name files of the machine."""
    import onnx

    model = onnx.load(path)
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, path)


def keras_images():
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            layers.Input(IMAGES.shape[1:]),
            layers.Conv2D(4, (3, 2), strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.SeparableConv2D(6, 3, padding="same", depth_multiplier=2),
            layers.MaxPooling2D((2, 1), padding="same"),
            layers.Conv2DTranspose(3, 3, strides=(2, 3), padding="same"),
            layers.UpSampling2D(2, interpolation="bilinear"),
            layers.SpatialDropout2D(0.25),
            layers.Flatten(),
            layers.Dense(3),
        ],
        name="images",
    )
    model.compile("adam", "mse")
    model.fit(IMAGES, np.eye(4, 3), epochs=3, verbose=0)
    for suffix in ("keras", "h5"):
        model.save(HERE / f"keras3-images.{suffix}")
    y = np.asarray(model(IMAGES, training=False))
    add_expected(f"Keras {keras.__version__}", {"keras3-images.keras": y, "keras3-images.h5": y})


def onnx_images():
    import torch
    from torch import nn

    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, (3, 2), stride=2, padding=(1, 0)), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, 1)),
        *(nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), nn.AvgPool2d(2, ceil_mode=False)),
        *(nn.Flatten(), nn.Linear(6 * 3 * 2, 3)),
    )
    x = torch.tensor(np.ascontiguousarray(np.moveaxis(IMAGES, -1, 1)))
    with torch.no_grad():
        model(x)
    model.eval()
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(model, (x,), HERE / "torch-images.onnx", dynamo=False, **names)
    add_expected(f"torch {torch.__version__}", {"torch-images.onnx": model(x).detach().numpy()})


def images():
    keras_images()
    onnx_images()


def keras_series():
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            layers.Input(SERIES.shape[1:]),
            layers.Masking(0.0),
            layers.Bidirectional(layers.GRU(4, return_sequences=True)),
            layers.LSTM(3, return_sequences=True),
            layers.SimpleRNN(5, activation="relu", return_sequences=True),
            layers.TimeDistributed(layers.Dense(4, activation="tanh")),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ],
        name="series",
    )
    model.compile("sgd", "mse")
    model.fit(SERIES, np.eye(4, 3), epochs=3, verbose=0)
    for suffix in ("keras", "h5"):
        model.save(HERE / f"keras3-series.{suffix}")
    y = np.asarray(model(SERIES, training=False))
    add_expected(f"Keras {keras.__version__}", {"keras3-series.keras": y, "keras3-series.h5": y})


def onnx_series():
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
            self.one = nn.GRU(8, 5, batch_first=True)
            self.out = nn.Linear(5, 3)

        def forward(self, x):
            return self.out(self.one(torch.relu(self.both(x)[0]))[1][-1])

    torch.manual_seed(1)
    model, x = Network().eval(), torch.tensor(SERIES)
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(model, (x,), HERE / "torch-series.onnx", dynamo=False, **names)
    add_expected(f"torch {torch.__version__}", {"torch-series.onnx": model(x).detach().numpy()})


def series():
    keras_series()
    onnx_series()


if __name__ == "__main__":
    {"keras": keras, "torch": torch_file, "onnx": onnx_files, "images": images, "series": series}[sys.argv[1]]()
