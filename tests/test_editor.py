"""What editors say of documents, by VS Code's own JSON engine; its answers are kept in golden/editor.json.

Where they change for the better: node tests/golden/editor.mjs schemas/model.schema.json > tests/golden/editor.json,
in a folder where npm has installed the package.
"""

import json
import subprocess

import pytest

import specnet.spec  # noqa: F401 - registers the built-in layers
from specnet.spec.registry import layer_types
from tests.support import npm_install

PACKAGE = "vscode-json-languageservice@5.7.2"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A folder into which npm has installed the engine."""
    folder = tmp_path_factory.mktemp("npm")
    npm_install(folder, PACKAGE)
    return folder


def test_the_engine_of_vs_code_answers_as_it_did(engine, root):
    script, schema = root / "tests/golden/editor.mjs", root / "schemas/model.schema.json"
    made = subprocess.run(["node", script, schema], capture_output=True, text=True, check=False, cwd=engine)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout) == json.loads((root / "tests/golden/editor.json").read_text())


def test_the_answers_kept_are_those_that_people_need(root):
    said = json.loads((root / "tests/golden/editor.json").read_text())
    assert said["faults"]["a right document"] == []
    types = {f'"{name}"' for name in layer_types() if name != "test_double"}
    assert set(said["completions"]["types of layers"]) == types
    for case in ("a misspelt type", "a type misspelt in a block"):
        (message,) = said["faults"][case]  # one, which lists the types, and none about keys of some other type
        assert all(name in message for name in types)
    assert said["completions"]["keys of a dropout in a block"] == ["name", "rate"]
    assert "inferred" in said["hovers"]["units"][0]


def test_the_reference_page_is_what_the_code_says(root, python):
    command = [python, root / "docs/generate_reference.py"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert made.stdout == (root / "docs/reference.md").read_text(), (
        "python docs/generate_reference.py > docs/reference.md"
    )
    for name in layer_types():
        if name != "test_double":
            assert f"### `{name}`\n" in made.stdout
