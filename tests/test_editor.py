"""VS Code's JSON engine, run on example documents with our schema, returns the answers in golden/editor.json.

To accept changed answers, run this in a folder where npm has installed the package:
node tests/golden/editor.mjs schemas/model.schema.json > tests/golden/editor.json
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
    """Return a folder in which npm has installed the engine."""
    folder = tmp_path_factory.mktemp("npm")
    npm_install(folder, PACKAGE)
    return folder


def test_the_vs_code_engine_returns_the_golden_answers(engine, root):
    script, schema = root / "tests/golden/editor.mjs", root / "schemas/model.schema.json"
    process = subprocess.run(["node", script, schema], capture_output=True, text=True, check=False, cwd=engine)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == json.loads((root / "tests/golden/editor.json").read_text())


def test_the_golden_answers_are_helpful(root):
    answers = json.loads((root / "tests/golden/editor.json").read_text())
    assert answers["faults"]["a right document"] == []
    types = {f'"{name}"' for name in layer_types() if name != "test_double"}
    assert set(answers["completions"]["types of layers"]) == types, "regenerate it as this module's docstring says"
    for case in ("a misspelt type", "a type misspelt in a block"):
        (message,) = answers["faults"][
            case
        ]  # exactly one message, which lists the types; none about keys of other types
        assert all(name in message for name in types)
    assert answers["completions"]["keys of a dropout in a block"] == ["name", "rate"]
    assert "inferred" in answers["hovers"]["units"][0]


def test_the_reference_page_is_up_to_date(root, python):
    command = [python, root / "docs/generate_reference.py"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout == (root / "docs/reference.md").read_text(), (
        "python docs/generate_reference.py > docs/reference.md"
    )
    for name in layer_types():
        if name != "test_double":
            assert f"### `{name}`\n" in process.stdout
