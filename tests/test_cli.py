"""Test the commands as child processes: their output and exit codes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

import specnet
from specnet.cli.app import COMMANDS
from tests.commands import run_specnet


def run(*arguments, cwd=None, code=0, env=None):
    """Run a specnet command; return its standard output and error."""
    status, out, err = run_specnet(*arguments, cwd=cwd, env=env)
    assert status == code, err
    assert "Traceback" not in err
    return out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with the digits example, trained for three epochs."""
    import pathlib
    import shutil

    folder = tmp_path_factory.mktemp("trained")
    for name in ("digits.npz", "digits.model.json", "digits.experiment.json"):
        shutil.copy(pathlib.Path(__file__).parent.parent / "examples/digits" / name, folder)
    run("train", "digits.experiment.json", "--out", "run", "--set", "training.epochs=3", cwd=folder)
    return folder


def test_specnet_without_arguments_prints_the_first_steps():
    out, err = run()
    assert len(out.splitlines()) <= 20
    assert "specnet train EXPERIMENT" in out
    assert err == ""
    assert run("--version")[0].startswith(f"specnet {specnet.__version__} (")


@pytest.mark.parametrize(
    "command", ["train", *(pytest.param(c, marks=pytest.mark.full) for c in COMMANDS if c != "train")]
)
def test_every_command_has_an_example(command):
    for flag in ("-h", "--help"):
        assert "Example: specnet" in run(command, flag)[0]


def test_the_help_lists_every_command():
    out, _ = run("--help")
    assert all(f"\n  {command} " in out for command in COMMANDS)
    out, _ = run()
    assert all(f"  specnet {command} " in out for command in COMMANDS)


def test_wrong_usage_exits_with_2():
    for arguments in (
        ["nonsense"],
        ["train"],
        ["train", "x", "--nonsense"],
        ["schema", "x"],
        ["train", "e", "--set", "x"],
    ):
        _, err = run(*arguments, code=2)
        assert err
    assert "choose one" in run("train", "e.json", "--resume", "--force", code=2)[1]


def test_an_unknown_home_folder_is_reported_as_a_missing_file(tmp_path):
    for command in (["validate"], ["summary"], ["train"]):
        _, err = run(*command, "~nosuchuser/x.json", cwd=tmp_path, code=1)
        assert err == "~nosuchuser/x.json: cannot be read: No such file or directory\n"


def test_validate_accepts_valid_documents(trained):
    out, err = run("validate", "digits.model.json", "digits.experiment.json", cwd=trained)
    assert out.splitlines()[0].startswith("digits.model.json: a valid model")
    assert out.splitlines()[1].startswith('digits.experiment.json: a valid experiment with "digits-mlp"')
    assert err == ""


def test_validate_reports_every_problem(tmp_path):
    (tmp_path / "good.json").write_text('{"input_shape": [3], "layers": [{"type": "relu"}]}')
    (tmp_path / "bad.json").write_text('{"input_shape": [0],\n "layers": [{"type": "relo"}]}')
    out, err = run("validate", "bad.json", "good.json", "none.json", cwd=tmp_path, code=1)
    assert out.splitlines() == ['good.json: a valid model, "model": 1 layer, 0 parameters']
    lines = err.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["bad.json:1:18:", "bad.json:2:22:", "none.json:"]
    out, err = run("validate", "--json", "bad.json", "good.json", cwd=tmp_path, code=1)
    results = json.loads(out)
    assert err == ""
    assert [entry["valid"] for entry in results] == [False, True]
    assert results[0]["problems"][1]["path"] == "layers[0].type"
    assert results[0]["problems"][1]["line"] == 2


def test_validate_prints_github_annotations(tmp_path):
    (tmp_path / "a,b.json").write_text('{"input_shape": [3],\n "layers": [{"type": "relo"}]}')
    out, err = run("validate", "--format", "github", "a,b.json", "none.json", cwd=tmp_path, code=1)
    assert err == ""
    first, second = out.splitlines()
    assert first.startswith('::error file=a%2Cb.json,line=2,col=22::layers[0].type: unknown layer type "relo"')
    assert second == "::error file=none.json::cannot be read: No such file or directory"


def test_validate_prints_the_normalized_document(trained):
    out, _ = run("validate", "--print", "digits.model.json", cwd=trained)
    assert out == specnet.load_spec(trained / "digits.model.json").to_json()
    (trained / "normalized.experiment.json").write_text(
        run("validate", "--print", "digits.experiment.json", cwd=trained)[0]
    )
    assert (
        run("validate", "--print", "normalized.experiment.json", cwd=trained)[0]
        == (trained / "normalized.experiment.json").read_text()
    )


def test_errors_are_limited_and_contain_no_escape_sequences(tmp_path):
    keys = ", ".join(f'"\\u001b[31m{index}": 1' for index in range(200))
    (tmp_path / "bad.json").write_text(f'{{"layers": 3, {keys}}}')
    _, err = run("validate", "bad.json", cwd=tmp_path, code=1)
    assert len(err.splitlines()) == 61
    assert err.splitlines()[-1] == "… and 142 more"
    assert "\x1b" not in err
    assert "\\x1b[31m0" in err


def test_summary_prints_layers_and_parameters(trained):
    out, err = run("summary", "digits.model.json", cwd=trained)
    assert re.search(r"^wide +affine +\(batch, 256\) +16,640 +16,384$", out, re.MULTILINE)
    assert '"digits-mlp": 50,826 parameters, 203,304 bytes of float32' in out
    assert err == ""
    assert run("summary", "run/best.h5", cwd=trained)[0] == out
    (trained / "checkpoint.bin").write_bytes((trained / "run/best.h5").read_bytes())
    assert run("summary", "checkpoint.bin", cwd=trained)[0] == out
    assert run("summary", "digits.experiment.json", cwd=trained)[0] == out
    summary = json.loads(run("summary", "run/last.h5", "--json", cwd=trained)[0])
    assert summary["parameters"] == 50_826
    assert [layer["type"] for layer in summary["layers"]][:3] == ["affine", "relu", "dropout"]


def test_summary_rejects_missing_and_malformed_files(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"nonsense")
    (tmp_path / "x.json").write_text("{")
    for name in ("x.h5", "x.json", "none.h5", "none.json"):
        out, err = run("summary", name, cwd=tmp_path, code=1)
        assert out == ""
        assert err.startswith(name)
        assert len(err.splitlines()) == 1


def test_train_prints_lines_and_results(digits):
    out, err = run("train", "digits.experiment.json", "--set", "training.epochs=2", cwd=digits)
    assert re.fullmatch(
        r"epoch 1/2 · loss [\d.]+ · accuracy [\d.]+ · val_loss [\d.]+ · val_accuracy [\d.]+", err.splitlines()[0]
    )
    assert len(err.splitlines()) == 2
    assert out.splitlines()[1].startswith("runs/digits/last.h5")
    assert sorted(os.listdir(digits / "runs/digits")) == ["best.h5", "experiment.json", "history.csv", "last.h5"]
    _, err = run("train", "digits.experiment.json", "--set", "training.epochs=2", cwd=digits, code=1)
    assert "holds a run already" in err
    out, err = run(
        "train", "digits.experiment.json", "--set", "training.epochs=3", "--resume", "--quiet", "--json", cwd=digits
    )
    assert err == ""
    assert json.loads(out)["metrics"]["epoch"] == 3
    run("train", "digits.experiment.json", "--set", "training.epochs=1", "--force", "-q", cwd=digits)


def test_resuming_a_finished_run_is_reported(digits):
    arguments = ["train", "digits.experiment.json", "--set", "training.epochs=1", "-q"]
    run(*arguments, cwd=digits)
    out, err = run(*arguments, "--resume", cwd=digits)
    assert "finished already" in err
    assert out.startswith("epoch 1 ")


def test_train_reports_each_problem_in_one_line(digits):
    _, err = run("train", "digits.experiment.json", "--set", "training.optimizer.learning_rate=-1", cwd=digits, code=1)
    assert err.startswith("digits.experiment.json: ")
    assert "training.optimizer.learning_rate: expected a positive number" in err
    assert len(err.splitlines()) == 1
    (digits / "digits.npz").unlink()
    _, err = run("train", "digits.experiment.json", cwd=digits, code=1)
    assert err == "digits.npz: there is no such file\n"
    assert not (digits / "runs").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_after_a_checkpoint(digits, number, code):
    command = [sys.executable, "-m", "specnet", "train", "digits.experiment.json", "--set", "training.epochs=100000"]
    with subprocess.Popen(command, cwd=digits, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert out == ""
    resume_command = "specnet train digits.experiment.json --set training.epochs=100000 --resume"
    assert f"Resume with: {resume_command}" in err
    state = specnet.load(digits / "runs/digits/last.h5").run_state
    assert state["epoch"] >= 3


def test_predict_writes_predictions_in_every_format(trained):
    x, y = np.load(trained / "digits.npz").values()
    out, err = run(
        "predict",
        "run/best.h5",
        "--data",
        "digits.npz",
        "--inputs",
        "x",
        "--targets",
        "y",
        "--out",
        "p.csv",
        cwd=trained,
    )
    assert err == "p.csv: 1797 rows\n"
    metrics = re.fullmatch(r"loss ([\d.]+) · accuracy ([\d.]+)\n", out)
    assert float(metrics[2]) > 0.8
    with open(trained / "p.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == [*"0123456789", "class"]
    probabilities = np.array([[float(cell) for cell in row[:10]] for row in rows[1:]])
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert [row[10] for row in rows[1:]] == [str(index) for index in probabilities.argmax(axis=1)]
    assert np.mean(probabilities.argmax(axis=1) == y) == pytest.approx(float(metrics[2]), abs=1e-4)
    model = specnet.load(trained / "run/best.h5")
    for name in ("p.npy", "p.npz", "p.h5"):
        run("predict", "run/best.h5", "--data", "digits.npz", "-o", name, "--logits", cwd=trained)
    logits = model.predict(x)
    assert np.allclose(np.load(trained / "p.npy"), logits, atol=1e-4)
    with np.load(trained / "p.npz") as file:
        assert file["class"].tolist() == [str(index) for index in logits.argmax(axis=1)]
    with h5py.File(trained / "p.h5") as file:
        assert np.allclose(file["outputs"], logits, atol=1e-4)
        assert file["class"].asstr()[0] == str(logits[0].argmax())


def test_predict_shows_rows_without_out(trained):
    out, _ = run("predict", "run/best.h5", "--data", "digits.npz", cwd=trained)
    assert "… 1787 more rows" in out
    result = json.loads(run("predict", "run/best.h5", "--data", "digits.npz", "--json", cwd=trained)[0])
    assert result["rows"] == len(result["predictions"]) == 1797
    assert result["predictions"][0]["class"] in list("0123456789")


def test_predict_from_csv_and_npy(trained):
    x, y = np.load(trained / "digits.npz").values()
    header = ",".join([f"p{index}" for index in range(64)])
    np.savetxt(trained / "d.csv", x[:5], delimiter=",", header=header, comments="", fmt="%d")
    np.save(trained / "x.npy", x[:5])
    np.save(trained / "y.npy", y[:5])
    run("predict", "run/best.h5", "--data", "d.csv", "-o", "a.npy", cwd=trained)
    out, _ = run("predict", "run/best.h5", "--data", "x.npy", "--targets", "y.npy", "-o", "b.npy", cwd=trained)
    assert out.startswith("loss")
    assert np.array_equal(np.load(trained / "a.npy"), np.load(trained / "b.npy"))


def test_predict_selects_the_columns_of_the_run(tmp_path):
    rows = "".join(f"{i},{i % 3},{'ab'[i % 2]}\n" for i in range(40))
    (tmp_path / "d.csv").write_text("u,v,kind\n" + rows)
    layers = [{"type": "affine", "units": 2}]
    document = {
        "model": {"input_shape": [2], "layers": layers, "labels": ["a", "b"]},
        "data": {"train": {"path": "d.csv", "targets": "kind"}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 1},
    }
    (tmp_path / "e.json").write_text(json.dumps(document))
    run("train", "e.json", "-o", "run", cwd=tmp_path)
    run("predict", "run/last.h5", "--data", "d.csv", "-o", "p.csv", cwd=tmp_path)
    out, _ = run("predict", "run/last.h5", "--data", "d.csv", "--targets", "kind", "-o", "q.csv", cwd=tmp_path)
    assert "accuracy" in out
    assert (tmp_path / "p.csv").read_text() == (tmp_path / "q.csv").read_text()
    assert (tmp_path / "p.csv").read_text().startswith("a,b,class\n")
    run("predict", "run/last.h5", "--data", "d.csv", "--inputs", "u,v", "-o", "r.csv", cwd=tmp_path)
    assert (tmp_path / "p.csv").read_text() == (tmp_path / "r.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message_start"),
    [
        (["run/best.h5", "--data", "none.npz"], "none.npz: there is no such file"),
        (["run/best.h5", "--data", "digits.npz", "--inputs", "z"], 'digits.npz: there is no array "z"'),
        (["run/best.h5", "--data", "digits.npz", "--inputs", "y"], r"digits.npz: inputs: the model expects shape"),
        (["run/best.h5", "--data", "digits.npz", "--out", "p.txt"], "p.txt: expected a file name that ends in"),
        (["run/best.h5", "--data", "digits.npz", "--out", "no/p.csv"], "no/p.csv: cannot be written: No such file"),
        (["none.h5", "--data", "digits.npz"], "none.h5: cannot be read: No such file"),
    ],
)
def test_predict_reports_errors_in_one_line(trained, arguments, message_start):
    out, err = run("predict", *arguments, cwd=trained, code=1)
    assert out == ""
    assert err.startswith(message_start)
    assert len(err.splitlines()) == 1


def test_predict_with_a_checkpoint_without_a_run(trained):
    specnet.save(trained / "plain.h5", specnet.build(specnet.load_spec(trained / "digits.model.json")))
    out, _ = run("predict", "plain.h5", "--data", "digits.npz", cwd=trained)
    assert "class" in out
    _, err = run("predict", "plain.h5", "--data", "digits.npz", "--targets", "y", cwd=trained, code=1)
    assert "no training run" in err


def test_a_closed_pipe_causes_no_error_message(trained):
    command = f"{sys.executable} -m specnet schema model | head -1"
    process = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=trained, check=False)
    assert process.stdout == "{\n"
    assert process.stderr == ""


def test_train_shows_a_progress_bar_on_a_terminal(digits):
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "specnet", "train", "digits.experiment.json", "--set", "training.epochs=2"]
    with subprocess.Popen(command, cwd=digits, stderr=slave, stdout=subprocess.PIPE, text=True) as process:
        os.close(slave)
        screen = b""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                piece = os.read(master, 65536)
            except OSError:
                break
            if not piece:
                break
            screen += piece
        out = process.stdout.read()
    os.close(master)
    assert process.returncode == 0
    assert "epoch 2 ·" in out
    assert b"epoch 1/2" in screen
    assert "epoch 2/2 · loss".encode() in screen
    assert b"/45" in screen
    assert b"val_loss" in screen


def test_gradcheck_reports_the_error_of_every_gradient(root, tmp_path):
    out, _ = run("gradcheck", root / "examples/digits/digits.experiment.json", "--at-most", "5")
    assert re.search(r"wide\.weight +\(64, 256\) +5 +\S+e-\d+ +\S+e-\d+ +ok", out)
    document = {
        "input_shape": [3],
        "layers": [
            {"type": "standardize"},
            {"type": "residual", "name": "block", "layers": [{"type": "affine", "units": 3}, {"type": "dropout"}]},
            {"type": "batch_norm"},
        ],
    }
    (tmp_path / "m.json").write_text(json.dumps(document))
    result = json.loads(run("gradcheck", tmp_path / "m.json", "--json")[0])
    assert result["passed"] is True
    assert [g["name"] for g in result["gradients"]] == [
        "input", "block.affine_1.weight", "block.affine_1.bias", "batch_norm_1.scale", "batch_norm_1.shift"
    ]  # fmt: skip
    assert max(max(g["error"], g["error_in_training"]) for g in result["gradients"]) < 1e-6
    out, err = run("gradcheck", tmp_path / "m.json", "--tolerance", "1e-30", code=1)
    assert "WRONG" in out
    assert "m.json: wrong gradients, with a relative error above 1e-30: input" in err
    run("gradcheck", tmp_path / "m.json", "--batch", "0", code=2)


def test_validate_checks_the_data_files_that_exist(digits):
    path = digits / "digits.experiment.json"
    assert "its data fit" in run("validate", path)[0]
    with np.load(digits / "digits.npz") as data:
        x, y = data["x"], data["y"]
    for change, message_pattern in (
        ({"x": x[:, :60], "y": y}, r"7:14: data\.train: digits\.npz: inputs: the model expects shape \(batch, 64\)"),
        ({"x": x, "y": y + 5}, r"data\.train: digits\.npz: targets: row \d+: expected a class from 0 to 9"),
        ({"x": x, "z": y}, r'there is no array "y"'),
        ({"x": x[:1], "y": y[:1]}, r"8:19: data\.validation: digits\.npz: 1 rows are too few"),
    ):
        np.savez(digits / "digits.npz", **change)
        out, err = run("validate", path, code=1)
        assert out == ""
        assert re.search(message_pattern, err), err
        _, train_error = run("train", path, "--out", digits / "run", code=1)
        assert train_error.strip().partition("digits.npz: ")[2] in err  # train reports the same error
    np.savez(digits / "digits.npz", x=x[:, :60], y=y)
    (annotation,) = run("validate", path, "--format", "github", code=1)[0].splitlines()
    assert re.match(r"::error file=.*,line=7,col=14::data\.train: ", annotation)
    (digits / "digits.npz").unlink()
    assert "data not checked, missing files: digits.npz" in run("validate", path)[0]


def test_the_limit_of_elements_is_set_by_the_environment(tmp_path, monkeypatch):
    (tmp_path / "m.json").write_text('{"input_shape": [10],\n "layers": [{"type": "affine", "units": 20}]}')
    monkeypatch.setenv("SPECNET_MAX_ELEMENTS", "100")
    _, err = run("validate", tmp_path / "m.json", code=1)
    assert "m.json:2:41: layers[0].units: expected at most 100 elements, got 220 parameters" in err
    monkeypatch.setenv("SPECNET_MAX_ELEMENTS", str(2**40))
    (tmp_path / "m.json").write_text('{"input_shape": [10], "layers": [{"type": "affine", "units": 10000000000}]}')
    assert "110,000,000,000 parameters" in run("validate", tmp_path / "m.json")[0]
    monkeypatch.setenv("SPECNET_MAX_ELEMENTS", "many")
    _, err = run("validate", tmp_path / "m.json", code=1)
    assert "SPECNET_MAX_ELEMENTS: expected a positive integer, got 'many'" in err


def test_validate_checks_a_checkpoint_dataset_by_dataset(trained, tmp_path):
    path = trained / "run/last.h5"
    out, _ = run("validate", path)
    lines = out.splitlines()
    assert lines[-1].endswith(f"an undamaged checkpoint with {len(lines) - 1} datasets")
    assert all(re.match(r"ok +/\S+  \S+ \(.*\)  sha256 [0-9a-f]{64}$", line) for line in lines[:-1])
    (result,) = json.loads(run("validate", path, "--json")[0])
    assert result["valid"] is True
    assert {"path", "dtype", "shape", "size", "sha256", "intact"} == set(result["datasets"][0])
    raw = bytearray(path.read_bytes())
    weight = specnet.load(path).parameters["wide.weight"].tobytes()
    raw[raw.index(weight)] ^= 1
    (tmp_path / "bad.h5").write_bytes(raw)
    out, err = run("validate", tmp_path / "bad.h5", code=1)
    assert "DAMAGED /layers/wide/parameters/weight" in out
    assert "bad.h5: the bytes of /layers/wide/parameters/weight do not match their sha256; the file is damaged" in err
    (result,) = json.loads(run("validate", tmp_path / "bad.h5", "--json", code=1)[0])
    assert [d["path"] for d in result["datasets"] if not d["intact"]] == ["/layers/wide/parameters/weight"]
    (tmp_path / "none.h5").write_bytes(b"hello")
    assert "not an HDF5 file" in run("validate", tmp_path / "none.h5", code=1)[1]


def test_replay_compares_two_checkpoints(trained, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "copy")
    folder = tmp_path / "copy/run"
    out, err = run("replay", folder / "best.h5", folder / "last.h5", cwd=folder)
    assert re.match(
        r"(no step|steps \d+ to \d+) trained again, \d+ arrays compared: all are identical, bit for bit\n", out
    )
    assert err == ""
    model = specnet.load(folder / "last.h5")
    model.parameters["wide.bias"][0] += 1
    specnet.save(folder / "last.h5", model)
    out, _ = run("replay", folder / "best.h5", folder / "last.h5", code=1)
    assert "1 differ\n  wide.bias\n" in out
    assert json.loads(run("replay", folder / "best.h5", folder / "last.h5", "--json", code=1)[0])["different"] == [
        "wide.bias"
    ]
    model.run_state["machine"] = json.dumps({**json.loads(model.run_state["machine"]), "blas": "another 1.0"})
    specnet.save(folder / "last.h5", model)
    _, err = run("replay", folder / "best.h5", folder / "last.h5", code=2)
    assert "not comparable: blas was 'another 1.0', is " in err
