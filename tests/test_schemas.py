"""The published JSON Schemas are up to date with the code, and accept everything that the loader accepts."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specnet import ModelSpec, SpecError
from specnet.checkpoint.schema_check import accepts
from specnet.schema import json_schema, schema_text
from specnet.training.spec.experiment_spec import ExperimentSpec
from tests.test_spec import documents, objects_in

MODEL = json_schema("model")
EXPERIMENT = json_schema("experiment")


@pytest.mark.parametrize("kind", ["model", "experiment"])
def test_the_schema_files_are_up_to_date(root, kind):
    assert (root / "schemas" / f"{kind}.schema.json").read_text() == schema_text(kind)
    jsonschema.Draft202012Validator.check_schema(json_schema(kind))


def test_the_schema_copy_for_loading_is_up_to_date(root):
    assert (root / "specnet/checkpoint/model.schema.json").read_text() == schema_text("model")


def test_every_key_has_a_description():
    def keys(schema, path=""):
        if isinstance(schema, dict):
            for name, part in schema.get("properties", {}).items():
                if name != "type":
                    yield f"{path}/{name}", part
            for key, part in schema.items():
                yield from keys(part, f"{path}/{key}")
        if isinstance(schema, list):
            for index, part in enumerate(schema):
                yield from keys(part, f"{path}/{index}")

    for schema in (MODEL, EXPERIMENT):
        missing = [path for path, part in keys(schema) if "description" not in part]
        assert missing == []


def test_every_document_in_examples_is_accepted(root):
    paths = [path for path in (root / "examples").rglob("*.json") if not {"runs", "custom_layer"} & set(path.parts)]
    assert len(paths) >= 3
    for path in paths:
        document = json.loads(path.read_text())
        kind = "experiment" if "experiment" in path.name else "model"
        assert (path.parent / document["$schema"]).resolve() == root / "schemas" / f"{kind}.schema.json"
        jsonschema.validate(document, EXPERIMENT if kind == "experiment" else MODEL)
        (ExperimentSpec if kind == "experiment" else ModelSpec).from_file(path)


arbitrary_values = st.sampled_from(
    [None, True, -1, 0, 1, 1.5, "x", "relu", [], [1], {}, {"type": "relu"}, 2**40, "", ["a", "b"]]
)


@given(documents, st.data())
@pytest.mark.full
def test_the_schema_accepts_what_the_loader_accepts(document, data):
    target = data.draw(st.sampled_from(list(objects_in(document))))
    if data.draw(st.booleans()):
        target[data.draw(st.sampled_from([*target, "extra", "type", "name", "labels"]))] = data.draw(arbitrary_values)
    text = json.dumps(document)
    try:
        spec = ModelSpec.from_text(text)
    except SpecError:
        # The loader's small checker is stricter than jsonschema in one case: it does not accept 64.0 as an integer.
        if accepts(document, MODEL):
            jsonschema.validate(document, MODEL)
        return
    jsonschema.validate(document, MODEL)
    jsonschema.validate(json.loads(spec.to_json()), MODEL)
    assert accepts(document, MODEL)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"},
        {"seed": -1},
        {"extra": 1},
        {"input_shape": []},
        {"layers": []},
        {"layers": [{"type": "relo"}]},
        {"layers": [{"type": "affine"}]},
        {"layers": [{"type": "affine", "units": 0}]},
        {"layers": [{"type": "affine", "units": 3, "unit": 3}]},
        {"layers": [{"type": "affine", "units": 3, "weight_init": "he"}]},
        {"layers": [{"type": "dropout", "rate": 1}]},
        {"layers": [{"type": "relu", "name": "a b"}]},
    ],
)
def test_the_schema_rejects_invalid_documents(change):
    document = {"input_shape": [4], "layers": [{"type": "affine", "units": 3}], **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, MODEL)
    assert not accepts(document, MODEL)


def test_the_checker_implements_its_keywords():
    assert not accepts(3, {"multipleOf": 2})
    assert accepts({"a": 1}, {"additionalProperties": {"type": "integer"}})
    assert not accepts({"a": "x"}, {"additionalProperties": {"type": "integer"}})
    assert accepts([1], {"type": "array", "maxItems": 1, "items": {"maximum": 1, "exclusiveMinimum": 0}})
