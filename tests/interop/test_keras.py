"""Test export to Keras 3 (on JAX), which reads the files, and import of files that Keras 3 writes."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.interop.nets import blocks, random_model, same_floats
from tests.support import model_of
from tests.test_cli import run

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_ENABLE_X64", "1")
pytestmark = pytest.mark.filterwarnings("ignore")  # Keras and JAX emit warnings
X = np.random.default_rng(1).normal(size=(7, 5))


def keras_or_skip():
    pytest.importorskip("jax", reason="jax, the Keras backend of these tests, is not installed")
    return pytest.importorskip("keras", minversion="3.9", reason="Keras 3 is not installed")


def load_in_keras(path):
    return keras_or_skip().saving.load_model(path)


@settings(
    max_examples=settings().max_examples // 8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(layers=blocks(branching=False), seed=st.integers(0, 99), dtype=st.sampled_from(["float32", "float64"]))
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_random_networks_round_trip_through_keras(tmp_path_factory, suffix, layers, seed, dtype):
    model = random_model(layers, seed, dtype)
    path = tmp_path_factory.mktemp("k") / f"m.{suffix}"
    export(path, model, "keras")
    x = X.astype(dtype)
    expected = model.predict(x)  # Keras computes in float32 by default
    assert np.abs(np.asarray(load_in_keras(path)(x)) - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
    resaved_path = path.with_name(f"again.{suffix}")
    load_in_keras(path).save(resaved_path)  # Keras writes it, without the specnet document
    resaved = import_model(resaved_path).model
    assert same_floats(resaved, model)
    assert np.abs(resaved.predict(x) - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
    reimported = import_model(path).model
    assert same_floats(reimported, model)
    if suffix == "keras":
        assert reimported.spec == model.spec


def test_an_imported_optimizer_continues_as_in_keras(tmp_path):
    keras = keras_or_skip()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)).astype("f4"), rng.normal(size=(32, 2)).astype("f4")
    optimizers = keras.optimizers
    keras.utils.set_random_seed(0)
    for optimizer, tolerance in (
        (optimizers.Adam(0.01), 2e-5),  # Keras adds epsilon at another place in the formula
        (optimizers.AdamW(0.01, weight_decay=0.1), 2e-5),
        (optimizers.SGD(0.01), 1e-7),
        (optimizers.SGD(0.01, momentum=0.9), 1e-6),
        (optimizers.SGD(0.01, momentum=0.9, nesterov=True), 1e-6),
        (optimizers.RMSprop(0.01), 1e-3),
        (optimizers.Adagrad(0.01), 1e-6),
        (optimizers.Lion(0.001), 1e-6),
    ):
        layers = keras.layers
        keras_model = keras.Sequential([layers.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(2)])
        keras_model.compile(optimizer, "mse")
        keras_model.fit(x, y, batch_size=32, epochs=5, verbose=0)
        keras_model.save(tmp_path / "k.keras")
        imported = import_model(tmp_path / "k.keras")
        keras_model.fit(x, y, batch_size=32, epochs=1, verbose=0)
        outputs = imported.model.forward(x, training=True)
        imported.model.backward(2 * (outputs - y) / y.size)
        imported.optimizer.step()
        assert imported.optimizer.steps == 6
        for array, variable in zip(imported.model.parameters.values(), keras_model.trainable_variables, strict=True):
            assert np.abs(array - np.asarray(variable)).max() <= tolerance, type(optimizer).__name__


def test_optimizer_settings_without_counterpart_are_reported(tmp_path):
    keras = keras_or_skip()
    optimizers, layers = keras.optimizers, keras.layers
    schedule = optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    for optimizer, note_part in (
        (optimizers.Nadam(), "the optimizer (Nadam) was not imported"),
        (optimizers.Adam(amsgrad=True), "specnet's has no amsgrad"),
        (optimizers.RMSprop(momentum=0.5), "specnet's has no momentum"),
        (optimizers.SGD(schedule), "its learning rate follows a schedule"),
        (optimizers.Adam(clipnorm=1.0), "the optimizer's clipnorm was not imported"),
    ):
        model = keras.Sequential([layers.Input((3,)), layers.Dense(2, kernel_regularizer="l2")])
        model.compile(optimizer, "mse")
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
        model.save(tmp_path / "k.keras")
        notes = import_model(tmp_path / "k.keras").notes
        assert any(note_part in note for note in notes), notes
        assert any("kernel_regularizer was not imported" in note for note in notes)


def test_all_notations_of_activations_and_shapes_are_imported(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    mean = layers.Normalization(mean=[1.0, 2, 3, 4, 5], variance=[4.0, 1, 1, 9, 1])
    frozen = layers.Dense(4, activation="relu")
    frozen.trainable = False
    model = keras.Sequential(
        [
            layers.Input((5,), name="in"),
            mean,
            layers.Dense(6, activation=layers.LeakyReLU(negative_slope=0.4), name="1 odd name"),
            layers.Dense(6, activation=keras.activations.mish),
            layers.BatchNormalization(center=False),
            frozen,
            layers.Activation("gelu"),
            layers.ReLU(negative_slope=0.25),
            layers.LayerNormalization(scale=False),
            layers.RMSNormalization(),
            layers.Reshape((-1, 2)),
            layers.Softmax(),
            layers.Flatten(),
            layers.Dense(1, activation="linear"),
        ]
    )
    for variable in model.variables:
        low, high = (0.5, 2) if "variance" in variable.path else (-1, 1)
        if "float" in str(variable.dtype):
            variable.assign(np.random.default_rng(3).uniform(low, high, variable.shape))
    for suffix in ("keras", "h5"):
        model.save(tmp_path / f"k.{suffix}")
        imported = import_model(tmp_path / f"k.{suffix}")
        x = X.astype("f4")
        assert np.abs(np.asarray(model(x)) - imported.model.predict(x)).max() < 1e-6
        assert "1 odd name was renamed to _1_odd_name" in imported.notes
        assert any("is not trained in Keras" in note for note in imported.notes)
        assert [layer.type for layer in imported.model.spec.layers][:4] == [
            "standardize",
            "affine",
            "leaky_relu",
            "affine",
        ]


def test_embeddings_round_trip_through_keras(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((4,), dtype="int32"), layers.Embedding(9, 3), layers.Flatten(), layers.Dense(2)]
    )
    model.save(tmp_path / "k.keras")
    tokens = np.arange(8).reshape(2, 4)
    imported = import_model(tmp_path / "k.keras").model
    assert np.abs(np.asarray(model(tokens)) - imported.predict(tokens)).max() < 1e-6
    export(tmp_path / "back.keras", imported)
    assert np.abs(np.asarray(load_in_keras(tmp_path / "back.keras")(tokens)) - imported.predict(tokens)).max() < 1e-6


def test_all_unsupported_layers_are_reported_at_once(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8,)),
            layers.Dense(4, activation="softsign", name="odd"),
            layers.Lambda(lambda x: x * 2, name="code"),
            layers.ReLU(max_value=6, name="six"),
            layers.Reshape((2, 2)),
            layers.Permute((2, 1), name="turn"),
        ]
    )
    model.save(tmp_path / "k.keras")
    _, err = run("import", "k.keras", "--out", "m.h5", cwd=tmp_path, code=1)
    assert err.count("\n") == 1
    for message_part in (
        "odd (Dense): activation='softsign'",
        "code (Lambda): the layer's type",
        "six (ReLU): max_value=6",
        "turn (Permute): the layer's type",
        "export the model to ONNX instead",
    ):
        assert message_part in err
    assert not (tmp_path / "m.h5").exists()
    inputs = keras.Input((3,))
    functional = keras.Model(inputs, layers.Dense(2)(inputs))
    functional.save(tmp_path / "f.keras")
    with pytest.raises(specnet.CheckpointError, match="expected a Sequential model, got a 'Functional' model"):
        import_model(tmp_path / "f.keras")


def test_layers_without_keras_counterpart_are_rejected_by_name(tmp_path):
    for entry, message_part in (
        ({"type": "residual", "name": "block", "layers": [{"type": "tanh"}]}, "block: a Keras Sequential has no layer"),
        ({"type": "gelu", "approximate": "tanh"}, 'gelu_1: Keras has no layer for gelu with approximate "tanh"'),
        ({"type": "softplus", "beta": 2.0}, "softplus_1: Keras has no softplus with beta 2"),
    ):
        for name in ("m.keras", "m.h5"):
            with pytest.raises(specnet.SpecnetError, match=message_part):
                export(tmp_path / name, model_of(entry))
    assert list(tmp_path.iterdir()) == []


def test_an_edited_config_takes_precedence_over_the_document(tmp_path):
    """Check that the embedded document is used only if it agrees with the config of the file."""
    import json
    import zipfile

    model = random_model([{"type": "affine", "units": 5}, {"type": "relu"}, {"type": "affine", "units": 2}], 1)
    export(tmp_path / "m.keras", model)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"][2] |= {"class_name": "Activation"}
    config["config"]["layers"][2]["config"] = {"name": "relu_1", "activation": "tanh"}
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "e.keras", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    imported = import_model(tmp_path / "e.keras")
    assert imported.model.spec.layers[1].type == "tanh"
    assert "its specnet document describes another network than its config; the config was used" in imported.notes


def test_exports_are_reproducible(tmp_path):
    model = random_model([{"type": "affine", "units": 5}, {"type": "batch_norm"}], 1)
    for suffix in ("keras", "h5"):
        for name in "ab":
            export(tmp_path / f"{name}.{suffix}", model)
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_adapted_normalizations_are_imported_at_every_position(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    inside, behind = layers.Normalization(), layers.Normalization()
    inner = keras.Sequential([layers.Input((4,)), inside])
    model = keras.Sequential([layers.Input((2, 2)), layers.Flatten(), behind, inner, layers.Dense(2)])
    rng = np.random.default_rng(0)
    for layer in (inside, behind):
        layer.adapt(rng.normal(1, 3, size=(50, 4)).astype("f4"))
    x = rng.normal(size=(5, 2, 2)).astype("f4")
    for suffix in ("keras", "h5"):
        model.save(tmp_path / f"k.{suffix}")
        imported = import_model(tmp_path / f"k.{suffix}").model
        assert np.abs(np.asarray(model(x)) - imported.predict(x)).max() < 1e-6


def test_custom_layers_named_like_built_in_ones_are_rejected(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers

    class Softmax(layers.Layer):
        def call(self, x):
            return x * 0 + 6.0

    @keras.saving.register_keras_serializable("my")
    class ReLU(layers.Layer):
        def call(self, x):
            return -x

    with_custom_layer = keras.Sequential([layers.Input((3,)), layers.Dense(3), Softmax(name="mine")])
    with_custom_activation = keras.Sequential([layers.Input((3,)), layers.Dense(3, activation=ReLU(), name="mine")])
    for model in (with_custom_layer, with_custom_activation):
        model.save(tmp_path / "k.keras")
        with pytest.raises(specnet.CheckpointError, match="mine"):
            import_model(tmp_path / "k.keras")


def test_names_that_collide_in_keras_are_exported(tmp_path):
    inner = {"type": "sequential", "name": "s", "layers": [{"type": "affine", "name": "s_input", "units": 2}]}
    model = random_model([{"type": "affine", "name": "model_input", "units": 3}, inner], 1)
    x = X.astype("f4")
    for suffix in ("keras", "h5"):
        export(tmp_path / f"m.{suffix}", model, "keras")
        assert np.abs(np.asarray(load_in_keras(tmp_path / f"m.{suffix}")(x)) - model.predict(x)).max() < 1e-5
    with pytest.raises(specnet.SpecnetError, match="top_level_model_weights: Keras's legacy format reserves this name"):
        export(tmp_path / "n.h5", model_of({"type": "affine", "name": "top_level_model_weights", "units": 1}), "keras")


def test_a_model_that_keras_computes_differently_is_not_written(tmp_path):
    """Reject the export because Keras divides by at least 1e-7, although the embedded document has the exact value."""
    model = model_of({"type": "standardize", "mean": 0.0, "std": 1e-9}, dtype="float32")
    for name in ("m.keras", "m.h5"):
        with pytest.raises(specnet.SpecnetError, match="when read back, its predictions differ"):
            export(tmp_path / name, model, "keras")


def test_settings_round_trip_with_all_digits(tmp_path):
    model = model_of({"type": "leaky_relu", "negative_slope": 0.123456789}, {"type": "elu", "alpha": 1 / 3})
    export(tmp_path / "m.h5", model, "keras")
    assert import_model(tmp_path / "m.h5").model.spec.layers == model.spec.layers
