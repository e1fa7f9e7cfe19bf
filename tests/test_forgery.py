"""Hostile checkpoints: each is refused with a clear word, soon, in little memory, or it is the good one."""

import json
import subprocess
import sys

import numpy as np
import pytest

import specnet
from specnet import CheckpointError
from tests.forge import Forge
from tests.support import model_of

CHILD = """
import json, pathlib, resource, sys, time
sys.path.insert(0, sys.argv[3])
import numpy as np, specnet, specnet.spec
from tests.forge import Forge
from tests.support import arrays_of, same_arrays

good, forged = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + ".forged")
count, seed = int(sys.argv[4]), int(sys.argv[5])
forge = Forge(good)
expected = specnet.load(good)
files = forge.mutants(count, seed) if count else forge.variants()
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event in ("open", "subprocess.Popen") else None)
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + 96 * 2**20 + 6 * len(forge.good), -1))

def run(model):
    return {key: np.asarray(value) for key, value in model.run_state.items()}

wrong, refused, names = [], 0, []
for name, data in files:
    forged.write_bytes(data)
    names.append(name)
    for mmap in (False, True):
        opened.clear()
        begin = time.monotonic()
        try:
            model = specnet.load(forged, mmap=mmap, verify=True)
        except specnet.CheckpointError as error:
            refused += 1
            told = str(error)
            if len(told.splitlines()) != 1 or len(told) > 1000 or not told.isprintable() or str(forged) not in told:
                wrong.append([name, "told badly", told[:200]])
        except BaseException as error:
            wrong.append([name, type(error).__name__, str(error)[:200]])
        else:
            same = same_arrays(arrays_of(model), arrays_of(expected)) and same_arrays(run(model), run(expected))
            if not same or model.spec != expected.spec:
                wrong.append([name, "accepted, and other content", ""])
        if time.monotonic() - begin > 1:
            wrong.append([name, "slow", str(time.monotonic() - begin)])
        if {str(what) for what in opened if not isinstance(what, int)} - {str(forged)}:
            wrong.append([name, "opened", str(opened)])
print(json.dumps({"wrong": wrong, "refused": refused, "names": names}))
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint with every structure: large groups, continuations, composites, buffers, a run."""
    folder = tmp_path_factory.mktemp("forgery")
    block = {"type": "residual", "layers": [{"type": "affine", "units": 2}, {"type": "batch_norm"}]}
    model = model_of({"type": "affine", "units": 2}, block, input_shape=(2,), dtype="float32")
    model.backward(model.forward(np.ones((4, 2)), training=True))
    history = {f"history/{name}": np.arange(3.0) for name in ("loss", "accuracy")} | {"history/epoch": np.arange(3)}
    moments = {f"optimizer/first_moment/layer_{index * 7919 % 60}.weight": np.ones(2) * index for index in range(60)}
    model.run_state = {"experiment": "{}\n", "step": 3, "sums/loss": 0.5, **history, **moments}
    specnet.save(folder / "good.h5", model)
    return folder / "good.h5"


def attack(good, root, count=0, seed=0):
    command = [sys.executable, "-c", CHILD, good, "", root, str(count), str(seed)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert made.returncode == 0, made.stderr[-2000:]
    return json.loads(made.stdout)


def test_every_field_of_every_structure(good, root):
    found = attack(good, root)
    assert found["wrong"] == []
    assert len(set(found["names"])) > 400
    assert found["refused"] > 1.5 * len(found["names"])  # of two loads each; some fields say nothing that is used
    kinds = {name.partition(":")[0] for name in found["names"]}
    assert kinds >= {"superblock", "OHDR", "FRHP", "FHDB", "FHIB", "BTHD", "BTLF", "link", "attribute", "layout"}


@pytest.mark.parametrize("seed", [0, 1])
def test_random_forgeries(good, root, seed):
    found = attack(good, root, 1000, seed)
    assert found["wrong"] == []
    assert found["refused"] > 1000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_random_forgeries(good, root, seed):
    assert attack(good, root, 2000, seed)["wrong"] == []


def test_the_forge_repairs_what_it_changes(good, tmp_path):
    forge = Forge(good)
    for structure in forge.structures:
        assert forge.repaired(bytearray(forge.good), structure) == forge.good
    told = set()
    for name, data in forge.variants():
        (tmp_path / "x.h5").write_bytes(data)
        try:
            specnet.load(tmp_path / "x.h5")
        except CheckpointError as error:
            told.add(str(error).partition(": ")[2][:40])
            assert "the checksum of" not in str(error) or name.startswith(
                ("superblock", "OHDR", "FHDB", "continuation")
            )
        if len(told) > 30:
            break
    assert len(told) > 20
