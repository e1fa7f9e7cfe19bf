"""Test convolutions, pools and other spatial layers with Keras 3 (on JAX), in both directions."""

import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.interop.nets import random_model, same_floats
from tests.interop.test_keras import keras_or_skip, load_in_keras
from tests.support import SPATIAL_LAYERS, model_of, one_by_default

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras and JAX emit warnings
CONV = {"type": "conv2d", "filters": 4, "kernel_size": 3}
TURNED = {"type": "conv_transpose2d", "filters": 2, "kernel_size": 3, "stride": 2}
REFUSED = {
    "conv2d, all keys": "conv2d_1: Keras has no convolution with both a stride and a dilation above 1",
    "conv_transpose2d, all keys": "conv_transpose2d_1: Keras has no transposed convolution with groups",
    "max_pool2d, overlapping": "max_pool2d_1: Keras has no max pool with the padding",
    "upsample1d": "upsample1d_1: Keras has no linear interpolation of sequences",
}
MORE = {
    "uneven zeros": ({**CONV, "padding": [[1, 2], 0], "groups": 2, "stride": [2, 1]}, (7, 6, 4)),
    "depthwise, zeros": ({**CONV, "padding": 1, "groups": 4, "stride": 2}, (7, 6, 4)),
    "cut": ({**TURNED, "padding": [[1, 0], [0, 2]]}, (3, 4, 2)),
    "longer": ({**TURNED, "stride": 3, "output_padding": [1, 2]}, (3, 4, 2)),
    "cut and longer": ({**TURNED, "padding": [1, [2, 0]], "output_padding": 1}, (3, 4, 2)),
    "dilated": ({**TURNED, "stride": 1, "dilation": [2, 3], "padding": "same"}, (5, 4, 2)),
    "zeros that count": (
        {"type": "average_pool2d", "pool_size": 3, "padding": "same", "count_padding": True},
        (5, 4, 2),
    ),
    "single row": ({"type": "channel_dropout", "rate": 0.25}, (4,)),
}


@pytest.mark.parametrize("suffix", ["keras", pytest.param("h5", marks=pytest.mark.full)])
@pytest.mark.parametrize("name", [*SPATIAL_LAYERS, *MORE])
def test_every_layer_is_exported_and_read_back(tmp_path, name, suffix):
    entry, shape = {**SPATIAL_LAYERS, **MORE}[name]
    model = random_model([entry], 3, "float32", shape)
    path = tmp_path / f"m.{suffix}"
    if name in REFUSED:
        with pytest.raises(specnet.SpecnetError, match=f"{REFUSED[name]}.*export to onnx instead"):
            export(path, model, "keras")
        assert not path.exists()
        return
    export(path, model, "keras")
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("f4")
    assert np.abs(np.asarray(load_in_keras(path)(x)) - model.predict(x)).max() < 2e-6
    imported = import_model(path).model
    assert same_floats(imported, model)
    if suffix == "keras":
        assert imported.spec == model.spec
    resaved = tmp_path / f"again.{suffix}"
    load_in_keras(path).save(resaved)  # without our document
    imported = import_model(resaved).model
    assert np.abs(imported.predict(x) - model.predict(x)).max() < 2e-6
    if name in SPATIAL_LAYERS and name != "average_pool1d":  # that becomes two layers
        assert [layer.type for layer in imported.spec.layers] == [entry["type"]]


def chains(layers):
    """Return stacks of Keras's layers, each with the shape of an input row."""
    return {
        "images": ((11, 9, 3), [
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"), layers.BatchNormalization(),
            layers.DepthwiseConv2D((2, 3), depth_multiplier=2, padding="same", activation="tanh"),
            layers.SeparableConv2D(6, 3, depth_multiplier=2, padding="same", activation="gelu"),
            layers.Conv2D(6, (2, 1), dilation_rate=(2, 1), groups=3, use_bias=False),
            layers.SpatialDropout2D(0.3), layers.PReLU(shared_axes=[1, 2]), layers.Flatten(), layers.Dense(3)]),
        "even sizes": ((8, 6, 2), [
            layers.Conv2D(2, 4, strides=3, padding="same"), layers.ZeroPadding2D(((1, 0), (2, 3))),
            layers.MaxPooling2D(2, padding="same"), layers.UpSampling2D((2, 3)), layers.Cropping2D(((0, 1), (1, 0))),
            layers.UpSampling2D(2, interpolation="bilinear"), layers.AveragePooling2D(3, 2, padding="same"),
            layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(4, 1), layers.GlobalMaxPooling2D()]),
        "larger": ((3, 4, 3), [
            layers.Conv2DTranspose(4, 3, strides=2, activation="relu"),
            layers.Conv2DTranspose(4, (4, 3), strides=2, padding="same"),
            layers.Conv2DTranspose(3, 3, strides=(2, 3), padding="same", output_padding=(1, 2)),
            layers.Conv2DTranspose(3, (1, 2), strides=(2, 3)),
            layers.Conv2DTranspose(2, (2, 5), strides=3, output_padding=(2, 0), use_bias=False),
            layers.Conv2DTranspose(2, (3, 2), dilation_rate=(2, 3), padding="same")]),
        "sequences": ((17, 3), [
            layers.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"),
            layers.DepthwiseConv1D(2, strides=2), layers.SeparableConv1D(5, 3, padding="same"),
            layers.Conv1DTranspose(4, 3, strides=2, padding="same"), layers.ZeroPadding1D((1, 2)),
            layers.MaxPooling1D(3, 2), layers.UpSampling1D(3), layers.Cropping1D((2, 1)), layers.SpatialDropout1D(0.1),
            layers.AveragePooling1D(2, padding="same"), layers.GlobalMaxPooling1D(), layers.Dense(2)]),
        "means": ((6, 3), [layers.Conv1D(4, 2, groups=1), layers.GlobalAveragePooling1D()]),
    }  # fmt: skip


@pytest.mark.parametrize("name", one_by_default(["images", "even sizes", "larger", "sequences", "means"]))
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_stacks_of_keras_are_imported(tmp_path, name, suffix):
    keras = keras_or_skip()
    shape, layers = chains(keras.layers)[name]
    model = keras.Sequential([keras.layers.Input(shape), *layers])
    rng = np.random.default_rng(3)
    for variable in model.variables:
        if "float" in str(variable.dtype):
            variable.assign(rng.uniform(0.5 if "variance" in variable.path else -1, 1, variable.shape))
    model.save(tmp_path / f"k.{suffix}")
    x = rng.normal(size=(4, *shape)).astype("f4")
    expected = np.asarray(model(x))
    imported = import_model(tmp_path / f"k.{suffix}").model
    assert np.abs(imported.predict(x) - expected).max() < 2e-6 * max(1, np.abs(expected).max())
    export(tmp_path / "back.keras", imported)
    assert (
        np.abs(np.asarray(load_in_keras(tmp_path / "back.keras")(x)) - expected).max() < 1e-5 * np.abs(expected).max()
    )


@pytest.mark.full
def test_random_settings_of_keras_are_imported(tmp_path):
    keras = keras_or_skip()
    rng = np.random.default_rng(5)
    for _ in range(60):
        axes = int(rng.integers(1, 3))
        kernel, strides = (tuple(rng.integers(1, most, axes).tolist()) for most in (5, 4))
        dilation = tuple(rng.integers(1, 3, axes).tolist()) if max(strides) == 1 else 1
        shape = (*rng.integers(8, 12, axes).tolist(), 2)
        extra = None if rng.integers(2) else tuple(int(rng.integers(0, n)) for n in strides)
        frame = {"strides": strides, "padding": str(rng.choice(["valid", "same"])), "dilation_rate": dilation}
        pool = {key: value for key, value in frame.items() if key != "dilation_rate"}
        layers = keras.layers
        for layer in (
            getattr(layers, f"Conv{axes}D")(4, kernel, groups=int(rng.integers(1, 3)), **frame),
            getattr(layers, f"Conv{axes}DTranspose")(
                3, kernel, output_padding=extra if axes > 1 or extra is None else extra[0], **frame
            ),
            getattr(layers, f"MaxPooling{axes}D")(kernel, **pool),
            getattr(layers, f"AveragePooling{axes}D")(kernel, **pool),
        ):
            model = keras.Sequential([layers.Input(shape), layer])
            model.save(tmp_path / "k.keras")
            x = rng.normal(size=(2, *shape)).astype("f4")
            imported = import_model(tmp_path / "k.keras").model
            assert np.abs(imported.predict(x) - np.asarray(model(x))).max() < 2e-6, layer.get_config()


def test_settings_that_specnet_lacks_are_reported_by_name(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4, 9, 9)),
            layers.MaxPooling2D(2, data_format="channels_first", name="first"),
            layers.UpSampling2D(2, data_format="channels_first", name="second"),
            layers.UpSampling2D(2, interpolation="bicubic", name="smooth"),
        ]
    )
    model.save(tmp_path / "k.keras")
    with pytest.raises(specnet.CheckpointError) as caught:
        import_model(tmp_path / "k.keras")
    for part in (
        "first (MaxPooling2D): data_format='channels_first'; specnet has the channels last",
        "second (UpSampling2D): data_format='channels_first'",
        "smooth (UpSampling2D): interpolation='bicubic'",
    ):
        assert part in str(caught.value)


def test_an_optimizer_continues_with_turned_kernels(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((5, 4, 2)),
            layers.DepthwiseConv2D(2, depth_multiplier=2),
            layers.Conv2DTranspose(3, 2, strides=2),
            layers.GlobalAveragePooling2D(),
        ]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5, 4, 2)).astype("f4"), rng.normal(size=(16, 3)).astype("f4")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(x, y, batch_size=16, epochs=3, verbose=0)
    for suffix in ("keras", "h5"):
        model.save(tmp_path / f"k.{suffix}")
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    for suffix in ("keras", "h5"):
        imported = import_model(tmp_path / f"k.{suffix}")
        outputs = imported.model.forward(x, training=True)
        imported.model.backward(2 * (outputs - y) / y.size)
        imported.optimizer.step()
        assert np.abs(imported.model.predict(x) - np.asarray(model(x))).max() < 1e-6


def test_names_of_added_layers_are_unique(tmp_path):
    model = model_of(
        {**CONV, "name": "c", "padding": 1}, {"type": "relu", "name": "c_zeros"}, input_shape=(4, 4, 1), dtype="float32"
    )
    export(tmp_path / "m.h5", model, "keras")
    assert [layer.name for layer in import_model(tmp_path / "m.h5").model.spec.layers] == ["c_zeros_", "c", "c_zeros"]
