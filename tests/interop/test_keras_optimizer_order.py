"""Test that the state of an optimizer in a legacy file goes to the weights that its names say, or is left out."""

import itertools
import json

import h5py
import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.support import model_of, one_by_default

LAYERS = ("a", "b_a", "a_kernel")
"""Names that are parts of each other's variables, of layers whose weights have the same shape."""

OPTIMIZERS = {
    "Adam": ({"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "amsgrad": False}, ("m", "v"), ("momentum", "velocity")),
    "AdamW": ({"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}, ("m", "v"), ("momentum", "velocity")),
    "SGD": ({"momentum": 0.9, "nesterov": False}, ("momentum",), ("momentum",)),
    "RMSprop": ({"rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False}, ("rms",), ("velocity",)),
    "Adagrad": ({"epsilon": 1e-7}, ("accumulator",), ("accumulator",)),
    "Lion": ({"beta_1": 0.9, "beta_2": 0.99, "weight_decay": 0.0}, ("m",), ("momentum",)),
}
SLOTS = {
    "Adam": {"first_moment": 10, "second_moment": 1000},
    "AdamW": {"first_moment": 10, "second_moment": 1000},
    "SGD": {"velocity": -1000},
    "RMSprop": {"square_average": 1},
    "Adagrad": {"square_sum": 1},
    "Lion": {"momentum": 1},
}
"""specnet's slots, in Keras's order, and their factors for a learning rate of 0.001."""


def old_names(kind, slots):
    """Return the names of tf.keras 2.0 to 2.10: each slot of all weights, then the next slot."""
    prefix = f"training/{kind}"
    return [f"{prefix}/iter:0", *(f"{prefix}/{layer}/kernel/{slot}:0" for slot in slots for layer in LAYERS)]


def middle_names(kind, slots):
    """Return the names of Keras 2.11 to 2.15: all slots of a weight, then the next weight."""
    return ["iteration:0", *(f"{kind}/{slot}/{layer}/kernel:0" for layer in LAYERS for slot in slots)]


def new_names(kind, slots):
    """Return the names of Keras 3."""
    variables = [f"{kind.lower()}/net_{layer}_kernel_{slot}" for layer in LAYERS for slot in slots]
    return [f"{kind.lower()}/iteration", f"{kind.lower()}/learning_rate", *variables]


def write(path, kind, names, weights="{layer}/kernel:0", **settings):
    """Write a legacy file whose optimizer variables have the value of their place among the weights and slots."""
    export(path, model_of(*({"type": "affine", "units": 5, "bias": False, "name": layer} for layer in LAYERS)), "keras")
    defaults, old, new = OPTIMIZERS[kind]
    config = {"name": kind, "learning_rate": 0.001, **defaults, **settings}
    with h5py.File(path, "r+") as file:
        file.attrs["training_config"] = json.dumps({"optimizer_config": {"class_name": kind, "config": config}})
        for layer in LAYERS:
            group = file["model_weights"][layer]
            name = weights.format(layer=layer)
            group[name] = group[group.attrs["weight_names"][0]][()]
            group.attrs["weight_names"] = [name]
        group = file.create_group("optimizer_weights")
        group.attrs["weight_names"] = names
        for name in names:
            group[name] = value_of(name, (*old, *new))
    return path


def value_of(name, slots):
    """Return 7 for the number of steps, and 10 times the weight's place plus the slot's for a slot."""
    if "iter" in name:
        return np.int64(7)
    if "rate" in name:
        return np.float32(0.001)
    plain = name.partition(":")[0].replace("/", "_")
    owners = [layer for layer in LAYERS if f"_{layer}_kernel" in plain]
    owner = LAYERS.index(max(owners, key=len))
    found = [index for index, slot in enumerate(slots) if f"_{slot}_" in f"{plain}_"]
    return np.full((5, 5), 10 * owner + found[0] % (len(slots) // 2) + 1, "f4")


def assert_each_weight_has_its_own(imported, kind):
    assert imported.optimizer is not None, imported.notes
    assert imported.optimizer.steps == 7
    for (index, layer), (slot, (name, factor)) in itertools.product(enumerate(LAYERS), enumerate(SLOTS[kind].items())):
        state = imported.optimizer.state[f"{name}/{layer}.weight"]
        assert np.allclose(state, factor * (10 * index + slot + 1)), (kind, layer, name)


FORMS = {
    "2.0": (old_names, 1, "{layer}/kernel:0"),
    "2.11": (middle_names, 1, "{layer}/kernel:0"),
    "3": (new_names, 2, "net/{layer}/kernel"),
}


@pytest.mark.parametrize("kind", one_by_default(sorted(OPTIMIZERS)))
@pytest.mark.parametrize("form", FORMS)
def test_names_decide_the_order_of_the_state(tmp_path, form, kind, full):
    """Check the orders of all versions of Keras, and any other order of the same names."""
    names_of, slots, weights = FORMS[form]
    names = names_of(kind, OPTIMIZERS[kind][slots])
    shuffled = np.random.default_rng(0).permutation(names).tolist()
    for order in (names, names[::-1], shuffled) if full or kind == "Adam" else (shuffled,):
        imported = import_model(write(tmp_path / "m.h5", kind, order, weights))
        assert_each_weight_has_its_own(imported, kind)


@pytest.mark.parametrize(
    ("change", "note_part"),
    [
        (lambda names: ["training/Adam/iter:0", *(f"training/Adam/Variable_{n}:0" for n in range(6))], "do not tell"),
        (lambda names: [names[0], *(f"m_{n}:0" for n in range(3)), *(f"v_{n}:0" for n in range(3))], "do not tell"),
        (lambda names: [name.replace("b_a/", "c/") for name in names], "do not tell"),
        (lambda names: [name.replace("/v:0", "/vhat:0") for name in names], "do not tell"),
        (lambda names: ["x:0", *names[1:]], "do not tell"),
        (lambda names: names[:-1], "expected 8 arrays, got 6"),
        (lambda names: [*names, *(name.replace("/v:", "/vhat:") for name in names[4:])], "expected 8 arrays, got 10"),
        (lambda names: [names[0], f"{'_' * 50_000}", *names[2:]], "do not tell"),
    ],
)
def test_state_with_other_names_is_left_out(tmp_path, monkeypatch, change, note_part):
    names = change(old_names("Adam", ("m", "v")))
    monkeypatch.setattr(f"{__name__}.value_of", lambda _name, _slots: np.ones((5, 5), "f4"))
    imported = import_model(write(tmp_path / "m.h5", "Adam", names))
    assert imported.optimizer is None
    assert len(imported.notes) == 1
    assert note_part in imported.notes[0]


def test_state_of_another_shape_is_left_out(tmp_path, monkeypatch):
    """Check that an array with as many numbers as the weight is not reshaped to its shape."""
    monkeypatch.setattr(f"{__name__}.value_of", lambda name, _slots: np.ones((25, 1) if "/b_a/" in name else (5, 5)))
    names = [name for name in old_names("SGD", ("momentum",)) if "iter" not in name]
    path = write(tmp_path / "m.h5", "SGD", names)
    with h5py.File(path, "r+") as file:
        file["optimizer_weights/iter"] = 7
        file["optimizer_weights"].attrs["weight_names"] = ["iter", *names]
    assert import_model(path).optimizer is None
    (note,) = import_model(path).notes
    assert "expected b_a.weight of shape (5, 5), its state has the shape (25, 1)" in note


def test_amsgrad_is_left_out_and_lists_have_each_name_once(tmp_path):
    names = old_names("Adam", ("m", "v", "vhat"))
    imported = import_model(write(tmp_path / "m.h5", "Adam", names[:7], amsgrad=True))
    assert imported.notes == ("the optimizer (Adam) was not imported: specnet's has no amsgrad",)
    path = write(tmp_path / "m.h5", "Adam", old_names("Adam", ("m", "v")))
    with h5py.File(path, "r+") as file:
        file["optimizer_weights"].attrs["weight_names"] = [*names[:6], names[5]]
    with pytest.raises(specnet.CheckpointError, match="'/optimizer_weights': its list weight_names has a name twice"):
        import_model(path)
