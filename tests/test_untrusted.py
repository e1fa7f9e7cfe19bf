"""Test text from files on its way to terminals and spreadsheets, damaged tables of runs, and extreme settings."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet.files.csv_cells import cell_text, csv_cells
from specnet.training.sweep import runs_of
from tests.commands import run_specnet
from tests.support import one_by_default

HOSTILE = "\x1b]0;title\x07\x1b[31m\x9b1m\u202eevil"


@pytest.fixture(autouse=True)
def _in_a_folder_with_an_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(60, 4))
    np.savez("d.npz", x=x, y=np.arange(60) % 3)
    model = {
        "name": HOSTILE,
        "description": HOSTILE,
        "input_shape": [4],
        "labels": [HOSTILE, "=cmd|' /C calc'!A0", "-1"],
        "layers": [{"type": "affine", "units": 3, "name": "out"}],
    }
    document = {
        "name": "e",
        "model": model,
        "data": {"train": {"path": "d.npz"}},
        "training": {"loss": "softmax_cross_entropy", "epochs": 1},
    }
    document["model"]["labels"][2] = "+c"
    Path("e.json").write_text(json.dumps(document))
    Path("m.json").write_text(json.dumps(model))


@pytest.fixture
def run():
    """Train the experiment; return the folder."""
    assert run_specnet("train", "e.json", "--out", "r", "--quiet")[0] == 0
    return Path("r")


def test_no_command_sends_controls_to_the_terminal(run):
    Path("wrong.json").write_text(json.dumps({"input_shape": [1], "layers": [], HOSTILE: 1, "labels": [HOSTILE] * 2}))
    commands = [
        ["summary", "m.json"],
        ["summary", "m.json", "--json"],
        ["validate", "m.json", "e.json", "wrong.json"],
        ["validate", "wrong.json", "--json"],
        ["validate", "wrong.json", "--format", "github"],
        ["inspect", "r/last.h5"],
        ["inspect", "r/last.h5", "--text"],
        ["inspect", "r/last.h5", "--json"],
        ["diff", "m.json", "r/last.h5"],
        ["predict", "r/last.h5", "--data", "d.npz"],
        ["predict", "r/last.h5", "--data", "d.npz", "--json"],
        ["predict", "r/last.h5", "--data", "d.npz", "--inputs", HOSTILE],
        ["trace", "r/last.h5", "--input", "d.npz"],
        ["trace", "r/last.h5", "--input", "d.npz", "--explain"],
        ["train", "e.json", "--out", "r2", "--json"],
        ["train", "e.json", "--out", "r3", "--set", f"training.{HOSTILE}=1"],
        ["sweep", "e.json", "--set", f'name="{HOSTILE}",b', "--jobs", "1"],
        ["export", "r/last.h5", "--out", "m.npz"],
        ["gradcheck", "m.json"],
        ["report", "r", "--out", "r.html"],
        ["inspect", HOSTILE],
    ]
    for command in commands:
        code, output, errors = run_specnet(*command)
        assert code in (0, 1, 2)
        assert "Traceback" not in errors, (command, errors)
        for text in (output, errors):
            assert not [character for character in text if not character.isprintable() and character != "\n"], command
    page = Path("r.html").read_text()
    assert not set("\x1b\x07\x9b\u202e") & set(page)


def test_json_output_means_the_same_after_escaping():
    _, output, _ = run_specnet("summary", "m.json", "--json")
    assert json.loads(output)["name"] == HOSTILE


def test_predictions_hold_no_formulas(run):
    assert run_specnet("predict", "r/last.h5", "--data", "d.npz", "--out", "p.csv")[0] == 0
    with Path("p.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [HOSTILE, "'=cmd|' /C calc'!A0", "'+c", "class"]
    assert {row[3] for row in rows} <= {HOSTILE, "'=cmd|' /C calc'!A0", "'+c"}
    assert all(float(cell) >= 0 for row in rows for cell in row[:3])


def test_numbers_are_no_formulas():
    cells = ["-1", "+2.5e-3", "-.5", "-inf", "nan", "1-2", "a=b", "", "word", "-1-2", "=1", "@x", "\tx", "-x", "+"]
    assert csv_cells(cells) == [*cells[:9], *(f"'{cell}" for cell in cells[9:])]
    assert csv_cells([3, -0.5]) == ["3", "-0.5"]
    assert [cell_text(cell) for cell in csv_cells(cells)] == cells
    assert cell_text("'x") == "'x"


def test_the_table_of_a_sweep_holds_no_formulas():
    code, _, errors = run_specnet("sweep", "e.json", "--set", "model.description==1+1,@x", "--jobs", "1", "--out", "s")
    assert code == 0, errors
    with Path("s/sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model.description"] for row in rows} == {"'=1+1", "'@x"}
    assert sorted(runs_of(Path("s"))) == sorted(path for path in Path("s").iterdir() if path.is_dir())


@pytest.mark.parametrize("name", ["../r", "r/../../r", "", "..", "/etc", "link", "r/last.h5"])
def test_the_table_of_a_sweep_does_not_lead_outside_its_folder(run, tmp_path, name):
    Path("s").mkdir()
    (Path("s") / "link").symlink_to(tmp_path / "r")
    Path("s/sweep.csv").write_text(f"rank,run,error\n1,{name},\n")
    code, _, errors = run_specnet("report", "s", "--out", "o.html")
    assert code == 1
    assert "expected the name of a run in this folder" in errors
    assert not Path("o.html").exists()


DAMAGED = ["epoch,loss\nabc,0.5\n", "epoch,loss\n1\n,\n", "epoch,loss\n,0.5\n", "\0", "loss\n0.5\n", 'epoch,loss\n1,"']


@pytest.mark.parametrize("text", one_by_default([*DAMAGED, "x" * 200_000]), ids=lambda text: repr(text[:20]))
def test_a_damaged_history_is_an_error_of_its_run_alone(text):
    sweep = ["sweep", "e.json", "--set", "training.epochs=1,2", "--jobs", "1", "--out", "s"]
    assert run_specnet(*sweep)[0] == 0
    Path("s/epochs=1/history.csv").write_text(text)
    code, _, errors = run_specnet(*sweep)
    assert code == 0
    assert "Traceback" not in errors
    with Path("s/sweep.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["epochs=2"]["error"] == ""
    assert "history" in rows["epochs=1"]["error"]


def test_a_table_of_short_rows_takes_little_memory():
    """A reader that fills each short row up to the header's length would need gigabytes for this table."""
    resource = pytest.importorskip("resource", reason="needs the memory limits of POSIX")
    Path("s").mkdir()
    header = "run,error," + ",".join(f"a{index}" for index in range(30_000))
    Path("s/sweep.csv").write_text(header + "\n" + "r\n" * 3000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert runs_of(Path("s")) == [Path("s")]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("damage", one_by_default(["fifo", "folder", "bytes"]))
@pytest.mark.full
def test_special_files_as_tables_of_runs(damage):
    sweep = ["sweep", "e.json", "--set", "training.epochs=1,2", "--jobs", "1", "--out", "s"]
    assert run_specnet(*sweep)[0] == 0
    for path in (Path("s/epochs=1/history.csv"), Path("s/sweep.csv")):
        path.unlink()
        os.mkfifo(path) if damage == "fifo" else path.mkdir() if damage == "folder" else path.write_bytes(b"\xff\xfe,")
    code, _, errors = run_specnet("report", "s", "--out", "o.html")
    assert code == 1
    assert "Traceback" not in errors
    shutil.rmtree(Path("s/sweep.csv")) if damage == "folder" else Path("s/sweep.csv").unlink()
    code, _, errors = run_specnet(*sweep)
    assert code == 0
    assert "history.csv cannot be read" in Path("s/sweep.csv").read_text()


@pytest.mark.parametrize(
    "setting",
    [
        "training.seed=" + "[" * 20_000 + "]" * 20_000,
        "training.seed=" + "[" * 900 + "]" * 900,
        "training.seed=" + '{"a":' * 20_000,
        ".".join(["a"] * 5_000) + "=1",
        "model.metadata=" + '{"a":' * 300 + "1" + "}" * 300,
        "training" + "[0]" * 5_000 + "=1",
        "x" * 100_000 + "=1",
        "training.seed=" + "9" * 5_000,
        "training.seed=" + "x" * 100_000,
        "training.seed=NaN",
        "training.seed=1e999",
    ],
)
@pytest.mark.parametrize("command", one_by_default(["train", "sweep"]))
def test_extreme_settings_are_rejected(setting, command):
    code, _, errors = run_specnet(command, "e.json", "--out", "r", "--set", setting)
    assert code in (1, 2)
    assert "Traceback" not in errors
    assert all(len(line) <= 2000 for line in errors.splitlines())
    assert not Path("r").exists()


@pytest.mark.parametrize("epoch", ["-1", "x", "1e5", "9" * 30, "²"])
def test_a_time_that_no_checkpoint_can_record_is_refused_before_training(epoch):
    code, _, errors = run_specnet("train", "e.json", "--out", "r", env={**os.environ, "SOURCE_DATE_EPOCH": epoch})
    assert code == 1
    assert "SOURCE_DATE_EPOCH: expected seconds since 1970" in errors
    assert not Path("r").exists()


def test_a_mapped_checkpoint_survives_its_replacement(run):
    """What specnet replaces is a new file, so a model mapped from the old one keeps its values."""
    model = specnet.load("r/last.h5", mmap=True)
    before = model.parameters["out.weight"].copy()
    other = specnet.build(specnet.ModelSpec(input_shape=(1,), layers=[{"type": "relu"}]))
    specnet.save("r/last.h5", other)
    assert np.array_equal(model.parameters["out.weight"], before)


@pytest.mark.parametrize("value", [3, None, True, [1], np.int64(3)])
def test_overrides_in_python_are_json_text(value):
    with pytest.raises(specnet.SpecError, match="expected JSON text for a path"):
        specnet.train("e.json", out="o", overrides={"training.epochs": value})
