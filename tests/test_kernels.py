"""Compiled kernels: the same bits as numpy's, and numpy where there are none."""

import copy
import hashlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specnet
from specnet import kernels
from specnet.training.optimizers import Adam, AdamW
from tests.support import model_of

needs_kernels = pytest.mark.skipif(
    kernels.backend() == "numpy", reason="no kernels were built when specnet was installed, or they are switched off"
)
ODD = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e-320, 3e38, -1.5, 1e-20]


def by_numpy(value, g, first, second, settings):
    """Adam as optimizers.py writes it for numpy, pass by pass."""
    beta1, beta2, epsilon, rate, keep = (settings[i : i + 1].reshape(()) for i in range(5))
    scratch = np.empty_like(value)
    np.multiply(value, keep, value)
    np.multiply(first, beta1, first)
    np.add(first, g, first)
    np.multiply(second, beta2, second)
    np.multiply(g, g, scratch)
    np.add(second, scratch, second)
    np.sqrt(second, scratch)
    np.add(scratch, epsilon, scratch)
    np.divide(first, scratch, scratch)
    np.multiply(scratch, rate, scratch)
    np.subtract(value, scratch, value)


@needs_kernels
@given(st.integers(1, 300), st.sampled_from(["float32", "float64"]), st.integers(0, 2**32 - 1), st.booleans())
def test_the_same_bits_as_numpys(count, dtype, seed, odd):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=count).astype(dtype) for _ in range(4)]
    arrays[3] = np.abs(arrays[3])
    if odd:
        for array in arrays[:2]:
            with np.errstate(over="ignore"):
                array[rng.integers(count)] = np.array(rng.choice(ODD)).astype(dtype)
    settings = np.array([0.9, 0.999, 1e-8, 0.003, 1 - 0.003 * 0.1], dtype)
    ours, theirs = [a.copy() for a in arrays], [a.copy() for a in arrays]
    kernels.adam(*ours, settings)()
    with np.errstate(all="ignore"):
        by_numpy(*theirs, settings)
    for mine, other in zip(ours, theirs, strict=True):
        same = (mine == other) | (np.isnan(mine) & np.isnan(other))  # NaNs have many forms
        assert same.all()
        assert np.array_equal(np.signbit(mine[~np.isnan(mine)]), np.signbit(other[~np.isnan(other)]))


TRAINED = """
import hashlib, sys
import numpy as np
import specnet
from specnet import kernels
rng = np.random.default_rng(0)
x, y = rng.normal(size=(300, 40)), rng.integers(0, 5, 300)
found = hashlib.sha256()
for dtype in ("float32", "float64"):
    for optimizer in ("adam", {"type": "adam", "weight_decay": 0.1}, {"type": "adamw", "weight_decay": 0.1}):
        wide, relu = {"type": "affine", "units": 700}, {"type": "relu"}
        layers = [wide, {"type": "batch_norm"}, relu, wide, relu, {"type": "affine", "units": 5}]
        model = specnet.build(specnet.ModelSpec(input_shape=(40,), dtype=dtype, layers=layers))
        specnet.fit(model, x, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=2, freeze=["affine_1.bias"],
                    schedule="cosine")
        found.update(model.store.value_vector.tobytes())
print(kernels.backend(), found.hexdigest())
"""


@needs_kernels
def test_a_run_ends_with_the_same_bits_either_way(python):
    found = {}
    for way in ("", "numpy"):
        environment = {**os.environ, "SPECNET_KERNELS": way, "OPENBLAS_NUM_THREADS": "1"}
        made = subprocess.run([python, "-c", TRAINED], env=environment, capture_output=True, text=True, check=True)
        backend, digest = made.stdout.split()
        found[backend] = digest
    assert found.keys() == {"compiled", "numpy"}
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("broken", ["missing", "garbage", "empty", "another version", "another library"])
def test_without_a_library_that_fits_numpy_does_the_work(tmp_path, monkeypatch, broken):
    path = tmp_path / "kernels.so"
    if broken in ("garbage", "empty"):
        path.write_bytes(b"\x7fELF garbage" * 100 if broken == "garbage" else b"")
    elif broken == "another version":
        if kernels.backend() == "numpy":
            pytest.skip("no kernels were built")
        path = kernels._LIBRARY
        monkeypatch.setattr(kernels, "VERSION", 0)
    elif broken == "another library":
        import _ctypes

        path = type(path)(_ctypes.__file__)
    monkeypatch.setattr(kernels, "_LIBRARY", path)
    assert kernels._load() is None
    monkeypatch.setattr(kernels, "_library", None)
    assert kernels.backend() == "numpy"
    array = np.ones(3, np.float32)
    assert kernels.adam(array, array, array, array, array) is None


def test_the_environment_switches_them_off(python):
    environment = {**os.environ, "SPECNET_KERNELS": "numpy"}
    command = [python, "-m", "specnet", "--version"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert made.stdout == f"specnet {specnet.__version__} (numpy kernels)\n"


def test_arrays_that_the_kernels_do_not_take():
    array = np.ones(8, np.float32)
    assert kernels.adam(array[::2], array[::2], array[::2], array[::2], array) is None
    assert kernels.adam(array, array, array, array.astype(np.float64), array) is None
    whole = np.ones(8, np.int64)
    assert kernels.adam(whole, whole, whole, whole, whole) is None


@pytest.mark.parametrize("cls", [Adam, AdamW])
def test_an_optimizer_cannot_be_copied_away_from_its_memory(cls):
    model = model_of({"type": "affine", "units": 2})
    optimizer = cls(model)
    with pytest.raises(specnet.SpecnetError, match="copy the model"):
        copy.deepcopy(optimizer)


def test_two_models_in_two_threads_do_not_disturb_each_other():
    def run(seed, found):
        model = model_of({"type": "affine", "units": 300}, {"type": "relu"}, {"type": "affine", "units": 3}, seed=seed)
        x, y = np.random.default_rng(seed).normal(size=(60, 5)), np.arange(60) % 3
        specnet.fit(model, x, y, loss="softmax_cross_entropy", epochs=20)
        found[seed] = hashlib.sha256(b"".join(v.tobytes() for v in model.parameters.values())).hexdigest()

    alone, together = {}, {}
    for seed in (1, 2):
        run(seed, alone)
    threads = [threading.Thread(target=run, args=(seed, together)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_the_hook_builds_and_does_without(tmp_path, root, monkeypatch):
    pytest.importorskip("hatchling", reason="hatchling is there while the package is built only")
    import shutil

    from specnet.kernels.build import KernelsHook

    folder = tmp_path / "specnet/kernels"
    folder.mkdir(parents=True)
    shutil.copy(root / "specnet/kernels/kernels.c", folder)

    warnings = []

    class App:
        def display_warning(self, text):
            warnings.append(text)

    def build(compiler):
        monkeypatch.setenv("CC", compiler)
        hook = KernelsHook.__new__(KernelsHook)
        data = {"artifacts": [], "pure_python": True}
        monkeypatch.setattr(KernelsHook, "root", str(tmp_path), raising=False)
        monkeypatch.setattr(KernelsHook, "app", App(), raising=False)
        hook.initialize("standard", data)
        return data

    for compiler in ("no-such-compiler", f"{sys.executable} -c 'import sys; sys.exit(1)'"):
        assert build(compiler) == {"artifacts": [], "pure_python": True}
        assert "numpy does without them" in warnings[-1]
        assert sorted(path.name for path in folder.iterdir()) == ["kernels.c"]
    if shutil.which("cc"):
        data = build("cc")
        assert not data["pure_python"]
        assert data["tag"].startswith("py3-none-")
        assert sorted(path.name for path in folder.iterdir()) == ["kernels.c", "kernels.so"]
