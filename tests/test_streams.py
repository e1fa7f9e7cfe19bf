"""Test commands whose standard streams are closed or full, whose files fail, and whose names are not UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import specnet
from tests.commands import run_specnet
from tests.support import one_by_default, write_experiment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX shell")

DOCUMENT = {
    "format": "specnet-experiment/1",
    "name": "e",
    "model": {"input_shape": [4], "layers": [{"type": "affine", "units": 2}]},
    "data": {"train": {"path": "d.npz"}},
    "training": {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": 16},
}


@pytest.fixture(autouse=True)
def _in_a_folder_with_an_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_experiment(DOCUMENT, 60)


def shell(command, **options):
    """Run a line of shell in which `specnet` is this package's command; return exit code, output and errors."""
    line = f'specnet() {{ "{sys.executable}" -m specnet "$@"; }}\n{command}'
    process = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60, **options)
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize(
    "redirection", one_by_default(["<&- >&- 2>&-", ">&-", "2>&-", "<&-", ">&- 2>&-", "2>/dev/full"])
)
def test_training_needs_no_standard_stream(redirection):
    code, _, errors = shell(f"specnet train e.json --out r {redirection}")
    assert code == 0, errors
    assert len(Path("r/history.csv").read_text().splitlines()) == 3
    assert specnet.load("r/last.h5").run_state["epoch"] == 2


@pytest.mark.parametrize("redirection", one_by_default([">&- 2>&-", ">&-"]))
def test_files_do_not_take_the_numbers_of_closed_streams(redirection):
    """What a command prints must not land in a file that it writes."""
    assert shell(f"specnet train e.json --out r {redirection}")[0] == 0
    assert shell(f"specnet predict r/last.h5 --data d.npz --out p.csv {redirection}")[0] == 0
    assert Path("p.csv").read_text().startswith("output_0,output_1,class")
    assert len(Path("p.csv").read_text().splitlines()) == 61


def test_an_output_that_cannot_be_written_is_told():
    code, _, errors = shell("specnet summary e.json >/dev/full")
    assert (code, errors) == (1, "specnet: cannot print: No space left on device\n")
    code, _, errors = shell("specnet summary e.json --json >/dev/full 2>/dev/full")
    assert (code, errors) == (1, "")
    code, _, errors = shell("set -o pipefail; specnet schema model | head -c 1 >/dev/null")
    assert code in (0, 1)
    assert errors == ""
    code, _, errors = shell("specnet validate none.json 2>/dev/full")
    assert (code, errors) == (1, "")


LONG = "n" * 300


@pytest.mark.parametrize(
    "command",
    [
        f"inspect {LONG}",
        f"train e.json --out {LONG}",
        f"train {LONG}",
        f"report {LONG} --out r.html",
        f"report e.json --out {LONG}",
        f"diff {LONG} {LONG}",
        f"replay {LONG} {LONG} --experiment e.json",
        f"predict {LONG} --data d.npz",
        f"predict m.h5 --data {LONG}.npz",
        f"predict m.h5 --data d.npz --out {LONG}.csv",
        f"summary {LONG}",
        f"validate {LONG}",
        f"trace {LONG} --input d.npz",
        f"init --data {LONG}.csv --target y",
        f"init --data d.npz --target y --out {LONG}",
        f"import {LONG}.npz --out a.h5",
        f"import m.h5 --out {LONG}.h5",
        f"export m.h5 --out {LONG}.npz",
        f"sweep e.json --set training.epochs=1 --out {LONG}",
        f"gradcheck {LONG}",
    ],
)
def test_an_error_of_a_file_names_the_file(command):
    specnet.save("m.h5", specnet.build(specnet.ModelSpec.model_validate(DOCUMENT["model"])))
    code, _, errors = run_specnet(*command.split())
    assert code in (1, 2)
    assert "nnnn" in errors or "e.json" in errors
    assert "cannot print" not in errors
    assert "Traceback" not in errors


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to take away its override of permissions")
@pytest.mark.full
def test_folders_without_permission_are_named(tmp_path):
    Path("dark").mkdir(mode=0)
    less = "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search"
    if shell(f"{less} true")[0]:
        pytest.skip("setpriv is not installed")
    for command in ("inspect dark/x.h5", "train e.json --out dark/x", "diff dark/a.h5 dark/b.h5", "summary dark/m.json",
                    "predict dark/a.h5 --data d.npz", "init --data dark/d.npz --target y"):  # fmt: skip
        code, _, errors = shell(f'{less} "{sys.executable}" -m specnet {command}')
        assert code in (1, 2)
        assert "dark/" in errors
        assert "ermission" in errors
        assert len(errors.splitlines()) == 1


def test_a_current_folder_that_is_gone_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    for command in (f"init --data {tmp_path}/d.npz --target y", f"train {tmp_path}/e.json --out r"):
        code, _, errors = shell(f"cd gone; rmdir ../gone; specnet {command}; code=$?; mkdir ../gone; exit $code")
        assert code == 1
        assert len(errors.splitlines()) == 1
        assert "No such file or directory" in errors or "is gone" in errors


def test_names_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in ("e.json", "d.npz"):
        Path(os.fsdecode(folder), name).write_bytes(Path(name).read_bytes())
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    code, output, errors = shell('cd caf*; d=$PWD; cd ..; specnet train "$d/e.json" --out "$d/run" --json', env=strict)
    assert code == 0, errors
    assert "caf\\udce9/run/last.h5" in output
    code, _, errors = shell("cd caf*; specnet inspect run/last.h5", env=strict)
    assert code == 0, errors
    code, _, errors = shell("specnet train caf*/e.json --out run", env=strict)
    assert code == 1
    assert "is not valid UTF-8, so no document can name it" in errors
    assert not Path("run").exists()
    code, _, errors = shell('cd caf*; specnet validate "$PWD/none.json"', env=strict)
    assert "caf\\udce9/none.json" in errors
