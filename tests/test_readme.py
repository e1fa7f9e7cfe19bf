"""Test that the examples in the README and in the documentation work as shown."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

import specnet
from specnet.spec import registry
from specnet.training.experiment import load_experiment
from tests.commands import run_specnet


def blocks(path, language):
    """Return the fenced code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def test_the_python_code_of_the_readme_runs(root, tmp_path):
    quickstart, training, by_hand, custom = blocks(root / "README.md", "python")
    code = quickstart.replace("examples/", f"{root}/examples/")
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert process.stdout == "(64, 256)\n(5, 10)\n"
    assert len([line for line in quickstart.splitlines() if line]) <= 10
    training_process = subprocess.run(
        [sys.executable, "-c", code + training.replace("examples/", f"{root}/examples/")],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert "runs/readme/best.h5" in training_process.stdout
    process = subprocess.run([sys.executable, "-c", by_hand], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "[[" in process.stdout
    try:
        exec(custom, namespace := {"__name__": "readme"})
        spec = specnet.ModelSpec(input_shape=(2,), layers=[{"type": "scaled_silu", "beta": 2.0}])
        model = specnet.build(spec)
        y = model.forward([[1.0, -1.0]], training=True)
        assert y[0, 0] == pytest.approx(1 / (1 + 2.718281828459045**-2))
        model.backward(y)
        specnet.save(tmp_path / "m.h5", model)
        assert specnet.load(tmp_path / "m.h5").predict([[1.0, -1.0]]).tolist() == y.tolist()
        with pytest.raises(specnet.SpecError, match="positive number"):
            namespace["ScaledSiluSpec"](beta=0)
    finally:
        registry._registered.pop("scaled_silu", None)


def test_the_document_of_the_readme_and_its_error_messages(root, tmp_path):
    text = blocks(root / "README.md", "json")[0]
    specnet.ModelSpec.from_text(text)
    invalid = text.replace('"name": "hidden"', '"nme": "hidden"').replace("32}", '"32"}').replace('"relu"', '"rellu"')
    (tmp_path / "digits.model.json").write_text(invalid)
    command = [sys.executable, "-m", "specnet", "validate", "digits.model.json"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    shown = [line.strip() for line in (root / "README.md").read_text().splitlines() if "digits.model.json:" in line]
    assert process.stderr.splitlines() == shown


def test_the_worked_example_matches_the_output_of_trace(root):
    page = (root / "docs/worked-example.md").read_text()
    shown = page.split("<!-- worked example -->\n")[1].split("<!-- end of the worked example -->")[0]
    (line,) = re.findall(r"^    specnet (trace .*--explain.*)$", page, re.MULTILINE)
    command = [sys.executable, "-m", "specnet", *shlex.split(line)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert process.stdout.replace("### ", "#### ") == shown


def test_the_documentation_shows_the_current_documents_and_layers(root, monkeypatch):
    monkeypatch.chdir(root / "examples/digits")
    text = blocks(root / "docs/training.md", "json")[0]
    (spec, _) = load_experiment(json.loads(text))
    assert spec == load_experiment("digits.experiment.json")[0]
    readme = (root / "README.md").read_text()
    for name in specnet.layers.__all__:
        kind = getattr(specnet.layers, f"{name}Spec").registered_type
        assert f"`{kind}`" in readme


def test_the_reader_on_the_format_page_reads_a_checkpoint(root, tmp_path):
    model = specnet.build(specnet.load_spec(root / "examples/digits/digits.model.json"))
    specnet.save(tmp_path / "digits.h5", model)
    code = blocks(root / "docs/checkpoint-format.md", "python")[0] + "\nprint(sorted(weights), len(document))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert process.stdout.startswith("['narrow', 'output', 'wide']")


def test_the_layer_on_the_page_about_layers_works(root):
    try:
        for code in blocks(root / "docs/layers.md", "python"):
            exec(code, {"__name__": "page"})
        spec = specnet.ModelSpec(input_shape=(2,), layers=[{"type": "scaled_copy"}, {"type": "affine", "units": 1}])
        model = specnet.build(spec)
        model.forward([[1.0, -1.0]], training=True)
        assert model.buffers["scaled_copy_1.batches"] == 1
        with pytest.raises(specnet.SpecError, match=r"layers\[0\]: the input has shape \(1, 1, 1\), .* two axes"):
            specnet.ModelSpec(input_shape=(1, 1, 1), layers=[{"type": "scaled_copy"}])
    finally:
        registry._registered.pop("scaled_copy", None)


def test_the_python_code_of_the_page_about_training_runs(root, tmp_path):
    code = "\n".join(blocks(root / "docs/training.md", "python"))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert float(process.stdout) > 0.9


@pytest.mark.full
def test_the_commands_of_the_page_about_training_run(root, tmp_path):
    pytest.importorskip("polars", reason="polars is not installed")
    rng = np.random.default_rng(0)
    points = rng.normal(size=(150, 2)) + np.repeat([[0, 0], [3, 0], [0, 3]], 50, axis=0)
    rows = [f"{a:.3f},{b:.3f},{name}" for (a, b), name in zip(points, np.repeat(["x", "y", "z"], 50), strict=True)]
    (tmp_path / "flowers.csv").write_text("\n".join(["length,width,species", *rows]) + "\n")
    (tmp_path / "new.csv").write_text("width,length\n0,3\n3,0\n")
    page = (root / "docs/training.md").read_text()
    commands = re.findall(r"^    (specnet .*flowers.*)$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        status, _, err = run_specnet(*command.split()[1:], cwd=tmp_path)
        assert status == 0, err
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "x,y,z,class"
    assert [line.rpartition(",")[2] for line in lines[1:]] == ["y", "z"]
