"""Test that a file that states a thing twice is refused: keys of JSON, members of archives, arrays of one layer."""

import json
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import specnet
from specnet.interop.exporting import export
from specnet.interop.importing import import_model
from tests.support import model_of

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"


@pytest.fixture
def model():
    return model_of({"type": "affine", "name": "one", "units": 5}, {"type": "affine", "name": "two", "units": 5})


def refused(path, message_part, spec=None, names=None):
    with pytest.raises(specnet.CheckpointError) as caught:
        import_model(path, spec, names)
    assert message_part in str(caught.value)
    assert "\n" not in str(caught.value)


def replace_in_archive(path, member, old, new):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert old in members[member]
    members[member] = members[member].replace(old, new, 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("member", "old", "new"),
    [
        ("config.json", b'"units": 5', b'"units": 4, "units": 5'),
        ("config.json", b'"class_name": "Dense"', b'"class_name": "Dense", "class_name": "Dense"'),
        ("metadata.json", b'"keras_version"', b'"keras_version": 1, "keras_version"'),
    ],
)
def test_a_key_twice_in_the_json_of_an_archive(tmp_path, model, member, old, new):
    path = tmp_path / "m.keras"
    export(path, model)
    replace_in_archive(path, member, old, new)
    key = old.decode().split('"')[1]
    refused(path, f"m.keras: its {member} has the key '{key}' twice")


@pytest.mark.parametrize("attribute", ["model_config", "training_config"])
def test_a_key_twice_in_an_attribute(tmp_path, attribute):
    path = tmp_path / "m.h5"
    path.write_bytes((GOLDEN / "keras3.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        text = json.dumps(json.loads(file.attrs[attribute]))
        file.attrs[attribute] = text.replace('"name":', '"name": "x", "name":', 1)
    refused(path, f"m.h5: its {attribute} has the key 'name' twice")


@pytest.mark.parametrize("key", ["0.weight", "__metadata__", "dtype"])
def test_a_key_twice_in_a_safetensors_header(tmp_path, model, key):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "m.safetensors"
    export(path, model)
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end].decode()
    old = f'"{key}":'
    value = json.JSONDecoder().raw_decode(header[header.index(old) + len(old) :])[0]
    header = header.replace(old, f"{old}{json.dumps(value)},{old}", 1).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    with pytest.raises(specnet.CheckpointError, match=r"twice|duplicate"):
        import_model(path)


@pytest.mark.parametrize("suffix", ["npz", "keras"])
def test_a_member_twice(tmp_path, model, suffix):
    path = tmp_path / f"m.{suffix}"
    export(path, model)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = archive.namelist()[0]
        archive.writestr(name, archive.read(name))
    refused(path, "the archive contains two members with the same name")


def test_other_members_of_npz(tmp_path, model):
    path = tmp_path / "m.npz"
    export(path, model)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("one.weight", archive.read("one.weight.npy"))  # numpy gives both the same key
    refused(path, "the archive contains 'one.weight', which numpy does not write")


def test_layers_mapped_to_one(tmp_path, model):
    arrays = {**model.parameters, **{f"x.{n}": model.parameters[f"one.{n}"] + 1 for n in ("weight", "bias")}}
    np.savez(tmp_path / "m.npz", **arrays)
    refused(tmp_path / "m.npz", "has two arrays for 'one.weight'; map each layer", model.spec, {"x": "one"})
    with h5py.File(tmp_path / "m.caffemodel.h5", "w") as file:
        for layer in ("one", "two", "x"):
            file[f"data/{layer}/0"] = np.ones((5, 5), "f4")
            file[f"data/{layer}/1"] = np.ones(5, "f4")
    refused(tmp_path / "m.caffemodel.h5", "has two arrays for 'one.weight'", model.spec, {"x": "one"})
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = ["x", "one"]
        for layer in ("x", "one"):
            group = file.create_group(layer)
            group.attrs["weight_names"] = ["k", "b"]
            group["k"], group["b"] = np.ones((5, 5), "f4"), np.ones(5, "f4")
    refused(tmp_path / "m.h5", "has two layers of the same name", model.spec, {"x": "one"})


def test_text_with_invalid_code_points(tmp_path, model):
    """Check the document of an .npz file, whose code points numpy does not check, and other forms of it."""
    path, text = tmp_path / "m.npz", model.spec.to_json()
    arrays = dict(model.parameters)
    for document, message_part in (
        (np.full(8, 0x7FFFFFFF, "<u4").view("<U8").reshape(()), "is not text: it has invalid code points"),
        (np.full(8, 0xD800, "<u4").view("<U8").reshape(()), "is not text: it has invalid code points"),
        (np.full(8, 0xFFFFFF7F, "<u4").view(">U8").reshape(()), "is not text: it has invalid code points"),
        (np.array([text]), "of shape (1,), expected one text"),
        (np.array(text.encode()), "expected one text"),
        (np.array(7), "specnet.model is int64 of shape (), expected one text"),
    ):
        np.savez(path, **arrays, **{"specnet.model": document})
        refused(path, message_part)
    for document in (np.array(text), np.array(text).astype(f">U{len(text) + 3}")):
        np.savez(path, **arrays, **{"specnet.model": document})
        assert import_model(path).model.spec == model.spec
