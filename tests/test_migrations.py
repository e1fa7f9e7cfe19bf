"""Documents of an invented older version are converted to the current version wherever documents are read."""

import json

import numpy as np
import pytest

import specnet
from specnet import ModelSpec, SpecError
from specnet.document.migrations import MIGRATIONS
from specnet.plan import identity_of
from tests.support import model_of
from tests.test_checkpoint import save_with_document

OLD = {"format": "specnet-model/0", "input_shape": [5], "stack": [{"type": "affine", "width": 3}, {"type": "relu"}]}


@pytest.fixture
def older(monkeypatch):
    """Register migrations from a version 0, in which "stack" means "layers", "width" "units" and "fit" "training"."""

    def migrate(document):
        layers = document.pop("stack")
        for entry in layers:
            if "width" in entry:
                entry["units"] = entry.pop("width")
        document["layers"] = layers
        return document

    monkeypatch.setitem(MIGRATIONS["specnet-model"], 0, migrate)

    def migrate_experiment(document):
        training = document.pop("fit")
        return {**document, "training": training}

    monkeypatch.setitem(MIGRATIONS["specnet-experiment"], 0, migrate_experiment)


def test_an_older_document_is_converted_to_the_current_version(older, tmp_path):
    before = json.dumps(OLD)
    (tmp_path / "old.json").write_text(before)
    spec = specnet.load_spec(tmp_path / "old.json")
    assert spec.format == "specnet-model/1"
    assert spec == ModelSpec(input_shape=(5,), layers=[{"type": "affine", "units": 3}, {"type": "relu"}])
    assert ModelSpec(**OLD) == spec
    assert json.dumps(OLD) == before
    assert (tmp_path / "old.json").read_text() == before


def test_errors_in_an_older_document_have_paths_and_lines(older):
    text = json.dumps({**OLD, "stack": [{"type": "affine", "width": "3"}, {"type": "relo"}]}, indent=1)
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_text(text, "old.json")
    assert [p.path for p in caught.value.problems] == ["layers[0].units", "layers[1].type"]
    assert all(p.line >= 1 for p in caught.value.problems)
    with pytest.raises(
        SpecError, match=r"cannot convert .* from specnet-model/0 to specnet-model/1: KeyError\('stack'\)"
    ):
        ModelSpec.from_text('{"format": "specnet-model/0"}')


def test_an_older_document_without_a_migration_is_rejected():
    with pytest.raises(
        SpecError, match='got "specnet-model/0", which cannot be converted; read it with an older specnet'
    ) as caught:
        ModelSpec(**OLD)
    assert "format" in [p.path for p in caught.value.problems]
    with pytest.raises(SpecError, match="install a newer specnet"):
        ModelSpec(**{**OLD, "format": "specnet-model/2"})


def test_an_older_experiment_is_converted_with_its_model(older, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones((8, 5)), y=np.zeros(8, int))
    old = {
        "format": "specnet-experiment/0",
        "model": OLD,
        "data": {"train": {"path": str(tmp_path / "d.npz")}},
        "fit": {"loss": "softmax_cross_entropy", "epochs": 1},
    }
    result = specnet.train(old, out=tmp_path / "run")
    written = json.loads((tmp_path / "run/experiment.json").read_text())
    assert (written["format"], written["model"]["format"]) == ("specnet-experiment/1", "specnet-model/1")
    assert result.finished
    specnet.train(old, out=tmp_path / "run", resume=True, overrides={"fit.epochs": "2"})


def test_a_checkpoint_with_an_older_document_is_loaded(older, tmp_path):
    new = {**json.loads(model_of({"type": "affine", "units": 3}, dtype="float32").spec.to_json())}
    model = specnet.build(ModelSpec(**new))
    old = {**new, "format": "specnet-model/0", "stack": new["layers"]}
    del old["layers"]
    old["stack"][0]["width"] = old["stack"][0].pop("units")
    loaded = specnet.load(save_with_document(tmp_path, model, json.dumps(old, indent=2)))
    assert loaded.spec == model.spec
    assert np.array_equal(loaded.parameters["affine_1.weight"], model.parameters["affine_1.weight"])
    with pytest.raises(specnet.CheckpointCorruptError, match="model_sha256 does not match this document"):
        specnet.load(save_with_document(tmp_path, model, json.dumps(old), identity_of({"other": 1})))
