"""Test recurrent layers, masks and their neighbours with Keras 3 (on JAX), in both directions."""

import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.interop.nets import random_model, same_floats
from tests.interop.test_keras import keras_or_skip, load_in_keras
from tests.support import SEQUENCE_LAYERS, one_by_default

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras and JAX emit warnings
BACKWARDS = "Keras returns the steps of a reversed layer from the last to the first"
REFUSED = {
    "simple_rnn, relu, reverse": f"simple_rnn_1: {BACKWARDS}.*use bidirectional",
    "lstm, reverse": f"lstm_1: {BACKWARDS}",
    "gru, sequences, reverse": f"gru_1: {BACKWARDS}",
    "last_step": "last_step_1: a Keras Sequential has no layer of type 'last_step'.*return_sequences false",
    **{name: f"{name.partition(',')[0]}_1: a Keras Sequential has no layer of type" for name in SEQUENCE_LAYERS
       if name.startswith(("attention", "positional_encoding"))},
}  # fmt: skip
MORE = {
    "gru, reverse": ({"type": "gru", "units": 3, "reverse": True}, (5, 2)),
    "gru, reset before, without bias": ({"type": "gru", "units": 2, "reset_after": False, "bias": False}, (4, 2)),
    "simple_rnn, without bias": ({"type": "simple_rnn", "units": 4, "bias": False}, (3, 2)),
    "bidirectional, simple_rnn": (
        {"type": "bidirectional", "layers": [{"type": "simple_rnn", "units": 3, "activation": "relu"}]},
        (5, 2),
    ),
}


QUICK = (*REFUSED, "bidirectional", "embedding, mask_index")
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in (*SEQUENCE_LAYERS, *MORE)]
"""All names; those that take a second in Keras run with --full alone, but for two."""


def inputs_of(model, rows=6, seed=0):
    """Return random inputs; where the model marks padding, the ends of the sequences are padding."""
    rng = np.random.default_rng(seed)
    shape = (rows, *model.input_shape)
    x = rng.integers(1, 7, shape) if model.input_dtype.kind == "i" else rng.normal(size=shape).astype(model.dtype)
    if model.mask_of(x) is not None:
        lengths = rng.integers(1, model.input_shape[0] + 1, rows)
        x[np.arange(model.input_shape[0]) >= lengths[:, np.newaxis]] = 0
    return x


def outputs_of(keras_model, x):
    """Return Keras's outputs in float32; with float64 enabled in JAX, its GRU without bias fails."""
    import jax

    with jax.enable_x64(False):
        return np.asarray(keras_model(x))


@pytest.mark.parametrize("suffix", ["keras", pytest.param("h5", marks=pytest.mark.full)])
@pytest.mark.parametrize("name", EVERY)
def test_every_layer_is_exported_and_read_back(tmp_path, name, suffix):
    entry, shape = {**SEQUENCE_LAYERS, **MORE}[name]
    model = random_model([entry], 3, "float32", shape)
    path = tmp_path / f"m.{suffix}"
    if name in REFUSED:
        with pytest.raises(specnet.SpecnetError, match=f"{REFUSED[name]}.*export to onnx instead"):
            export(path, model, "keras")
        assert not path.exists()
        return
    export(path, model, "keras")
    x = inputs_of(model)
    assert np.abs(outputs_of(load_in_keras(path), x) - model.predict(x)).max() < 2e-6
    imported = import_model(path).model
    assert same_floats(imported, model)
    if suffix == "keras":
        assert imported.spec == model.spec
    resaved = tmp_path / f"again.{suffix}"
    load_in_keras(path).save(resaved)  # without our document
    imported = import_model(resaved).model
    assert np.abs(imported.predict(x) - model.predict(x)).max() < 2e-6
    assert [layer.type for layer in imported.spec.layers] == [
        {"time_average": "global_average_pool"}.get(entry["type"], entry["type"])
    ]


def stacks(layers):
    """Return stacks of Keras's layers, each with an input layer."""

    def both(kind, *arguments, **settings):
        return layers.Bidirectional(kind(*arguments, **settings))

    return {
        "masked tokens": [
            layers.Input((7,), dtype="int32"), layers.Embedding(9, 4, mask_zero=True),
            both(layers.LSTM, 5, return_sequences=True, dropout=0.2), layers.Dropout(0.5),
            layers.GRU(4, return_sequences=True, recurrent_dropout=0.1),
            layers.TimeDistributed(layers.Dense(6, "relu")),
            both(layers.GRU, 3, reset_after=False), layers.Dense(3, "softmax")],
        "masked numbers": [
            layers.Input((6, 3)), layers.Masking(0.0), layers.LayerNormalization(),
            both(layers.SimpleRNN, 3, return_sequences=True), layers.LSTM(4, return_sequences=True, use_bias=False),
            layers.GlobalAveragePooling1D(), layers.Dense(2)],
        "masked, backwards": [
            layers.Input((6, 3)), layers.Masking(0.0), layers.SimpleRNN(3, "relu", return_sequences=True),
            layers.GRU(4, go_backwards=True)],
        "plain": [
            layers.Input((6, 3)), layers.LSTM(3, return_sequences=True, unit_forget_bias=False),
            layers.SimpleRNN(5, return_sequences=True), layers.GlobalAveragePooling1D(keepdims=True),
            layers.Flatten(), layers.Dense(2)],
        "nested": [layers.Input((6, 3)), layers.Conv1D(4, 2), both(layers.GRU, 3, return_sequences=True, name="2 ways"),
                   layers.MaxPooling1D(2), layers.LSTM(2, go_backwards=True)],
    }  # fmt: skip


@pytest.mark.parametrize("suffix", one_by_default(["keras", "h5"]))
@pytest.mark.parametrize(
    "name", one_by_default(["masked numbers", "masked tokens", "masked, backwards", "plain", "nested"])
)
def test_stacks_of_keras_are_imported(tmp_path, name, suffix):
    """Check predictions for inputs with padding at the end, and again after an export."""
    keras = keras_or_skip()
    keras_model = keras.Sequential(stacks(keras.layers)[name])
    rng = np.random.default_rng(3)
    for variable in keras_model.variables:
        if "float" in str(variable.dtype):
            variable.assign(rng.uniform(-1, 1, variable.shape))
    keras_model.save(tmp_path / f"k.{suffix}")
    model = import_model(tmp_path / f"k.{suffix}").model
    x = inputs_of(model)
    expected = outputs_of(keras_model, x)
    assert np.abs(model.predict(x) - expected).max() < 2e-6
    export(tmp_path / "back.keras", model)
    assert np.abs(outputs_of(load_in_keras(tmp_path / "back.keras"), x) - expected).max() < 2e-6


def test_settings_that_specnet_lacks_are_reported_by_name(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    recurrent = {"return_sequences": True}
    keras_model = keras.Sequential(
        [
            layers.Input(batch_shape=(1, 4, 3)),
            layers.LSTM(2, **recurrent, activation="relu", name="a"),
            layers.GRU(2, **recurrent, recurrent_activation="hard_sigmoid", name="b"),
            layers.SimpleRNN(2, **recurrent, activation="sigmoid", name="c"),
            layers.LSTM(2, **recurrent, go_backwards=True, name="d"),
            layers.Bidirectional(layers.LSTM(2, **recurrent), merge_mode="sum", name="e"),
            layers.Bidirectional(
                layers.LSTM(2, **recurrent), backward_layer=layers.GRU(2, **recurrent, go_backwards=True), name="f"
            ),
            layers.TimeDistributed(layers.LayerNormalization(), name="g"),
            layers.GRU(2, stateful=True, name="h"),
        ]
    )
    keras_model.save(tmp_path / "k.keras")
    with pytest.raises(specnet.CheckpointError) as caught:
        import_model(tmp_path / "k.keras")
    for part in (
        "a (LSTM): activation='relu', expected tanh",
        "b (GRU): recurrent_activation='hard_sigmoid', expected sigmoid",
        "c (SimpleRNN): activation='sigmoid', expected tanh or relu",
        "d (LSTM): go_backwards with return_sequences, which returns the steps in the reverse order",
        "e (Bidirectional): merge_mode='sum'",
        "f (Bidirectional): a backward_layer with other settings than the forward layer",
        "g (TimeDistributed): layer='LayerNormalization', expected Dense",
        "h (GRU): stateful=True",
    ):
        assert part in str(caught.value)


def test_what_changes_training_is_noted(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    recurrent = layers.GRU(2, dropout=0.2, recurrent_dropout=0.1, kernel_regularizer="l2", name="g")
    keras_model = keras.Sequential([layers.Input((4, 3)), layers.Bidirectional(recurrent, name="b")])
    keras_model.compile("sgd", "mse")
    keras_model.fit(np.ones((2, 4, 3)), np.ones((2, 4)), verbose=0)
    keras_model.save(tmp_path / "k.keras")
    notes = import_model(tmp_path / "k.keras").notes
    for part in (
        "b: its dropout was not imported; it only matters in training",
        "b: its recurrent_dropout was not imported",
        "b: its kernel_regularizer was not imported",
        "the optimizer (SGD) was not imported: Keras's GRU trains two biases, specnet's their sum",
    ):
        assert any(note.startswith(part) for note in notes), notes


def test_a_mask_that_a_layer_mixes_up_is_reported(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    late = [layers.Input((4, 3)), layers.Dense(2), layers.Masking(0.0), layers.LSTM(2)]
    mixed = [layers.Input((4,)), layers.Embedding(5, 2, mask_zero=True), layers.Conv1D(2, 2), layers.LSTM(2)]
    for stack, part in (
        (late, "mask must be the model's first layer"),
        (mixed, "conv1d mixes the steps of sequences, and with them the padding"),
    ):
        keras.Sequential(stack).save(tmp_path / "k.keras")
        with pytest.raises(specnet.CheckpointError, match=part):
            import_model(tmp_path / "k.keras")


def test_weights_files_of_keras_fill_a_document(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    keras_model = keras.Sequential(
        [layers.Input((4, 3)), layers.Bidirectional(layers.GRU(2, return_sequences=True)), layers.LSTM(3)]
    )
    keras_model.save(tmp_path / "k.keras")
    keras_model.save_weights(tmp_path / "k.weights.h5")
    model = import_model(tmp_path / "k.keras").model
    assert same_floats(import_model(tmp_path / "k.weights.h5", model.spec).model, model)


def test_an_optimizer_continues_with_recurrent_layers(tmp_path):
    keras = keras_or_skip()
    layers = keras.layers
    keras_model = keras.Sequential(
        [layers.Input((4, 3)), layers.Bidirectional(layers.LSTM(2)), layers.Reshape((4, 1)), layers.SimpleRNN(2)]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4, 3)).astype("f4"), rng.normal(size=(8, 2)).astype("f4")
    keras_model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    keras_model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    keras_model.save(tmp_path / "k.keras")
    imported = import_model(tmp_path / "k.keras")
    keras_model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    imported.model.backward(2 * (imported.model.forward(x, training=True) - y) / y.size)
    imported.optimizer.step()
    for array, variable in zip(imported.model.parameters.values(), keras_model.trainable_variables, strict=True):
        assert np.abs(array - np.asarray(variable)).max() < 1e-6


def test_a_mask_index_other_than_0_is_not_exported(tmp_path):
    model = random_model([{"type": "embedding", "vocabulary": 4, "dimension": 2, "mask_index": 3}], 1, "float32", (3,))
    with pytest.raises(specnet.SpecnetError, match=r"embedding_1: Keras masks the index 0, not the mask_index 3"):
        export(tmp_path / "m.keras", model)
