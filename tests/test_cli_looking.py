"""Test the commands inspect, diff, trace, report and summary --out as child processes."""

import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

import specnet
from tests.test_cli import run
from tests.test_inspection import TUTORIAL, trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a trained run, its data, and a model document of two small layers."""
    folder = tmp_path_factory.mktemp("looking")
    trained(folder)
    (folder / "two.json").write_text(json.dumps(TUTORIAL))
    return folder


def test_inspect_prints_run_and_parameters(folder):
    out, err = run("inspect", "run/last.h5", cwd=folder)
    assert '"model", 67 parameters of float32' in out
    assert "step 10, epoch 2 · loss" in out
    assert out.count("affine_") == 4
    assert err == ""
    result = json.loads(run("inspect", "run/last.h5", "--json", cwd=folder)[0])
    assert result["parameters"][0]["name"] == "affine_1.weight"
    assert result["origin"]["specnet_version"] == specnet.__version__


def test_inspect_warns_on_standard_error_and_its_json_has_no_nan(folder, tmp_path):
    model = specnet.load(folder / "run/last.h5")
    model.parameters["affine_1.weight"][...] = np.nan
    specnet.save(tmp_path / "m.h5", model)
    out, err = run("inspect", tmp_path / "m.h5")
    assert "warning: affine_1.weight: 32 of 32 values are NaN or infinite" in err
    assert "warning" not in out
    json.loads(run("inspect", tmp_path / "m.h5", "--json")[0], parse_constant=pytest.fail)


def test_the_text_form_is_independent_of_the_file_name(folder, tmp_path):
    other = tmp_path / "copy.h5"
    model = specnet.load(folder / "run/last.h5")
    specnet.save(other, model)
    first, second = (run("inspect", path, "--text")[0] for path in (folder / "run/last.h5", other))
    assert first == second
    model.parameters["affine_2.bias"][0] += 1
    specnet.save(other, model)
    changed = [
        a for a, b in zip(first.splitlines(), run("inspect", other, "--text")[0].splitlines(), strict=True) if a != b
    ]
    assert [line.split()[:2] for line in changed] == [["parameter", "affine_2.bias"]]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_diff_shows_checkpoints_as_text(root, folder, tmp_path, python, monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):  # git caches the texts as notes, and notes need an author
        monkeypatch.setenv(f"GIT_{role}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")
    lines = [line.strip() for line in (root / "docs/inspection.md").read_text().splitlines() if "diff" in line]
    commands = [line for line in lines if line.startswith(("echo '*.h5", "git config diff.specnet"))]
    assert len(commands) == 3
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for line in commands:
        subprocess.run(line.replace("'specnet ", f"'{python} -m specnet "), shell=True, cwd=tmp_path, check=True)
    model = specnet.load(folder / "run/last.h5")
    specnet.save(tmp_path / "m.h5", model)
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    model.parameters["affine_2.bias"][0] += 1
    specnet.save(tmp_path / "m.h5", model)
    shown = subprocess.run(["git", "diff"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    changed = [line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line.split()[:2] for line in changed] == [["-parameter", "affine_2.bias"], ["+parameter", "affine_2.bias"]]


def test_diff_has_the_exit_codes_of_diff(folder, tmp_path):
    assert run("diff", "run/last.h5", "run/last.h5", cwd=folder)[0] == ""
    out, err = run("diff", "run/best.h5", "run/last.h5", cwd=folder, code=0 if best_is_last(folder) else 1)
    model = specnet.load(folder / "run/last.h5")
    model.parameters["affine_1.weight"][0, 0] += 0.5
    specnet.save(tmp_path / "m.h5", model)
    out, err = run("diff", folder / "run/last.h5", tmp_path / "m.h5", code=1)
    assert out.splitlines()[1].split()[:2] == ["affine_1.weight", "4"]
    assert "1 of 4 arrays differ" in err
    assert run("diff", folder / "run/last.h5", tmp_path / "m.h5", "--tolerance", "10")[0] == ""
    result = json.loads(run("diff", folder / "run/last.h5", tmp_path / "m.h5", "--json", code=1)[0])
    assert result["equal"] is False
    assert result["arrays"][0]["differing"] == 1
    assert "gone" in run("diff", folder / "run/last.h5", folder / "two.json", code=1)[0]
    for invalid in ("nothing.h5", "nothing.json"):
        out, err = run("diff", "two.json", invalid, cwd=folder, code=2)
        assert out == ""
        assert invalid in err


def best_is_last(folder):
    return (folder / "run/best.h5").read_bytes() == (folder / "run/last.h5").read_bytes()


def test_trace_prints_the_numbers_of_the_tutorial(folder, tmp_path):
    out, err = run("trace", "two.json", "--input", "[[1, 2]]", "--dy", "[[1, 1, 1]]", cwd=folder)
    assert out.splitlines()[:6] == [
        "forward  affine_1 (affine)",
        "  x = [[1. 2.]]",
        "  weight = [[1. 3. 5.]",
        "            [2. 4. 6.]]",
        "  bias = [1. 2. 3.]",
        "  y = [[ 6. 13. 20.]]",
    ]
    assert "  dweight = [[1. 1. 1.]\n             [2. 2. 2.]]" in out
    assert err == ""
    out, err = run("trace", "two.json", "-i", "[[1, 2]]", "--save", tmp_path / "t.h5", cwd=folder)
    assert "backward" not in out
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["layers/02_relu_1/y"][...].tolist() == [[6, 13, 20]]


def test_trace_accepts_rows_of_a_file_and_uses_the_loss_of_the_run(folder):
    out, _ = run("trace", "run/last.h5", "--input", "d.npz", "--rows", "2", "--target", "[0, 1]", cwd=folder)
    assert "loss = " in out
    out, err = run("trace", "run/last.h5", "--input", "d.npz", "--rows", "9", cwd=folder)
    assert "units are 0 for all 9 rows" in err or err == ""
    out, _ = run(
        "trace", "two.json", "-i", "[[1, 2]]", "--target", "[[0, 0, 0]]", "--loss", "huber", "--explain", cwd=folder
    )
    assert "The loss is 12.5." in out


def test_report_writes_an_html_page(folder, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out, err = run("report", "run", "--data", "d.npz", "--out", tmp_path / "r.html", cwd=folder)
    assert out == ""
    assert "open it in a browser" in err
    assert "Confusion matrix" in (tmp_path / "r.html").read_text()
    run("report", "run", "run/last.h5", "--out", tmp_path / "r.html", cwd=folder)
    assert "2 runs side by side" in (tmp_path / "r.html").read_text()


def test_summary_writes_a_diagram(folder, tmp_path):
    out, err = run("summary", "two.json", "--out", tmp_path / "net.mmd", cwd=folder)
    assert out == ""
    assert "2 layers" in err
    assert (tmp_path / "net.mmd").read_text().startswith("flowchart TD\n")


@pytest.mark.parametrize(
    ("arguments", "message_part"),
    [
        (["inspect", "nothing.h5"], "nothing.h5: cannot be read"),
        (["inspect", "two.json"], "two.json"),
        (
            ["trace", "two.json", "--input", "[[1, 2, 3]]"],
            "affine_1: expected an array of shape (batch, 2), got (1, 3)",
        ),
        (["trace", "two.json", "--input", "[[1, 2"], "--input:1:"),
        (["trace", "two.json", "--input", "[[1, NaN]]"], "--input:1:6: [0][1]"),
        (["trace", "two.json", "--input", "[[1, 2]]", "--dy", "[[1e400, 0, 0]]"], "--dy:1:3: [0][0]"),
        (["trace", "run", "--input", "[[1e39, 0, 0, 0]]"], "expected numbers within the range of float32"),
        (["trace", "two.json", "--input", "[[1, true]]", "--dy", "7"], "--dy: expected a JSON array"),
        (["trace", "two.json", "--input", "[[1, 2]]", "--dy", "[[1, 1]]"], "expected a gradient of shape (1, 3)"),
        (["trace", "two.json", "--input", "[[1, 2]]", "--target", "[0]"], "choose one with --loss: softmax_cross"),
        (["trace", "two.json", "--input", "[[1, 2]]", "--target", "[0]", "--loss", "no"], "unknown loss 'no'"),
        (["trace", "two.json", "--input", "nothing.npz"], "nothing.npz"),
        (["trace", "two.json", "--input", "[[1, 2]]", "--save", "two.json"], "would be overwritten"),
        (["trace", "two.json", "--input", "[[1, 2]]", "--save", "no/where.h5"], "cannot be written"),
        (["report", "run", "--out", "r.txt"], "ends in .html"),
        (["report", "nothing", "--out", "r.html"], "nothing: cannot be read"),
        (["report", "run", "--data", "nothing.npz", "--out", "r.html"], "nothing.npz"),
        (["summary", "two.json", "--out", "net.pdf"], ".svg, .png or .mmd"),
        (["summary", "two.json", "--out", "two.json"], "choose another file for the diagram"),
    ],
)
def test_invalid_input_is_reported_in_one_line(folder, arguments, message_part):
    out, err = run(*arguments, cwd=folder, code=1)
    assert out == ""
    assert message_part in err
    assert len(err.splitlines()) == 1
    assert not (folder / "r.html").exists()


def test_a_run_folder_selects_its_last_checkpoint(folder):
    assert run("inspect", "run", cwd=folder)[0] == run("inspect", "run/last.h5", cwd=folder)[0]
    assert run("diff", "run", "run/last.h5", cwd=folder)[0] == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["trace", "two.json", "--input", "[[1, 2]]", "--loss", "huber"],
        ["trace", "two.json", "--input", "[[1, 2]]", "--as", "markdown"],
        ["trace", "two.json", "--input", "[[1, 2]]", "--dy", "[[1]]", "--target", "[0]"],
        ["report", "run", "--targets", "y"],
    ],
)
def test_options_without_effect_are_usage_errors(folder, arguments):
    assert run(*arguments, cwd=folder, code=2)[0] == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_reported_in_one_line(folder):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "specnet", "inspect", "run"]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=folder, check=False)
    assert process.returncode == 1
    assert process.stderr == "specnet: cannot print: No space left on device\n"
