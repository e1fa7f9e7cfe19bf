"""Compiled kernels: the same bits as numpy's, and numpy where there are none."""

import copy
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import specnet
from specnet import kernels
from specnet.training.losses import SoftmaxCrossEntropy
from specnet.training.optimizers import Adam, AdamW
from tests.support import model_of

needs_kernels = pytest.mark.skipif(
    kernels.backend() == "numpy", reason="no kernels were built when specnet was installed, or they are switched off"
)
ODD = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e-320, 3e38, -1.5, 1e-20]
NAMES = ("adam", "add_bias", "affine_row", "relu", "relu_backward", "batch_norm", "batch_norm_backward")


@pytest.fixture
def by_numpy(monkeypatch):
    """Give a switch that makes the layers, losses and optimizers do without kernels from then on."""

    def switch():
        for name in NAMES:
            monkeypatch.setattr(kernels, name, kernels._not_taken)
        monkeypatch.setattr(kernels, "cross_entropy", kernels._no_number)

    return switch


def both_ways(work):
    """Run some work with the kernels and without them; give both results."""
    with pytest.MonkeyPatch.context() as patch:
        taken = set()
        for name in (*NAMES, "cross_entropy"):
            patch.setattr(kernels, name, noting(getattr(kernels, name), name, taken))
        compiled = work()
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setattr(kernels, name, kernels._not_taken)
        patch.setattr(kernels, "cross_entropy", kernels._no_number)
        plain = work()
    return compiled, plain, taken


def noting(kernel, name, taken):
    def call(*arrays):
        answer = kernel(*arrays)
        if answer is not None and answer is not False:
            taken.add(name)
        return answer

    return call


def odd_array(rng, shape, dtype, odd):
    array = rng.normal(size=shape).astype(dtype)
    if odd and array.size:
        with np.errstate(over="ignore"):
            array.reshape(-1)[rng.integers(array.size)] = np.array(rng.choice(ODD)).astype(dtype)
    return array


def assert_same_bits(mine, other):
    assert mine.dtype == other.dtype
    same = (mine == other) | (np.isnan(mine) & np.isnan(other))  # NaNs have many forms
    assert same.all()
    assert np.array_equal(np.signbit(mine[~np.isnan(mine)]), np.signbit(other[~np.isnan(other)]))


floats = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)


@needs_kernels
@given(st.integers(1, 300), floats, seeds, st.booleans(), st.sampled_from([0.0, 0.1]))
def test_adam_gives_the_same_bits_as_numpys(count, dtype, seed, odd, decay):
    def work():
        rng = np.random.default_rng(seed)
        layer = {"type": "affine", "units": count, "bias": False}
        model = specnet.build(specnet.ModelSpec(input_shape=(2,), dtype=dtype, layers=[layer]))
        optimizer = AdamW(model, 0.003, weight_decay=decay)
        model.adopt_gradients()
        with np.errstate(all="ignore"):
            for _ in range(3):
                model.store.gradient_vector[...] = odd_array(rng, 2 * count, dtype, odd)
                optimizer.step()
        return [model.store.value_vector, *list(optimizer.state.values())[1:]]

    compiled, plain, taken = both_ways(work)
    assert taken == {"adam"}
    for mine, other in zip(compiled, plain, strict=True):
        assert_same_bits(mine, other)


@needs_kernels
@given(st.integers(0, 40), st.integers(1, 70), floats, seeds, st.booleans())
def test_relu_gives_the_same_bits_as_numpys(rows, width, dtype, seed, odd):
    def work():
        rng = np.random.default_rng(seed)
        relu = specnet.layers.Relu()
        with np.errstate(all="ignore"):
            y = relu.forward(odd_array(rng, (rows, width), dtype, odd))
            return y, relu.backward(odd_array(rng, (rows, width), dtype, odd))

    compiled, plain, taken = both_ways(work)
    assert taken == {"relu", "relu_backward"}
    for mine, other in zip(compiled, plain, strict=True):
        assert_same_bits(mine, other + 0.0 if mine is compiled[0] else other)  # which zero is the greater is open


@needs_kernels
@given(st.integers(1, 40), st.integers(1, 70), floats, seeds)
def test_affine_gives_numpys_numbers(rows, width, dtype, seed):
    def work():
        rng = np.random.default_rng(seed)
        weight, bias = rng.normal(size=(9, width)).astype(dtype), rng.normal(size=width).astype(dtype)
        return specnet.layers.Affine(weight, bias).predict(rng.normal(size=(rows, 9)).astype(dtype))

    compiled, plain, taken = both_ways(work)
    assert taken == ({"add_bias"} if rows > 1 else {"affine_row"})
    assert np.array_equal(compiled, plain) or rows == 1
    assert np.allclose(compiled, plain, rtol=0, atol=1e-14 if dtype == "float64" else 1e-5)


@needs_kernels
@given(st.integers(2, 40), st.integers(1, 70), floats, seeds, st.floats(0, 1e3))
def test_batch_norm_gives_numpys_numbers(rows, width, dtype, seed, offset):
    def work():
        rng = np.random.default_rng(seed)
        scale, shift, x, dy = (rng.normal(size=s).astype(dtype) for s in (width, width, (rows, width), (rows, width)))
        norm = specnet.layers.BatchNorm(scale, shift)
        y = norm.forward(x + np.dtype(dtype).type(offset), training=True)
        dx = norm.backward(dy)
        return y, dx, norm.scale_grad, norm.shift_grad, norm.buffers["running_mean"], norm.buffers["running_var"]

    compiled, plain, taken = both_ways(work)
    assert taken == {"batch_norm", "batch_norm_backward"}
    for mine, other in zip(compiled, plain, strict=True):
        # Where two rows are nearly the same, what is divided by is nearly 0.
        scale = 1 + np.abs(other).max() + offset
        assert np.abs(mine - other).max() <= (1e-11 if dtype == "float64" else 1e-2) * scale


@needs_kernels
@given(st.integers(1, 40), st.integers(1, 200), floats, seeds, st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 300))
def test_cross_entropy_gives_numpys_numbers(rows, classes, dtype, seed, smoothing, spread):
    def work():
        rng = np.random.default_rng(seed)
        x = rng.normal(scale=spread, size=(rows, classes)).astype(dtype)
        return SoftmaxCrossEntropy(smoothing)(x, rng.integers(0, classes, rows))

    ((mine, dmine), (other, dother), taken) = both_ways(work)
    assert taken == {"cross_entropy"}
    close = {"rtol": 1e-12, "atol": 1e-14} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-6}
    assert np.allclose(mine, other, **close)
    assert np.allclose(dmine, dother, **close)


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_exponential_is_as_exact_as_the_type(dtype):
    x = np.concatenate([[0.0], -np.logspace(-9, 2.9, 5000)]).astype(dtype)
    gradient = np.empty((len(x), 2), dtype)
    rows = np.stack([np.zeros_like(x), x], axis=1)
    assert kernels.cross_entropy(rows, np.zeros(len(x), np.int64), gradient, 0.0) is not None
    e = np.exp(x.astype(np.longdouble))
    exact = e / (1 + e) / len(x)
    tiny = np.finfo(dtype).tiny * 4
    assert (np.abs(gradient[:, 1] - exact) <= 4 * np.finfo(dtype).eps * exact + tiny).all()


@needs_kernels
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_cross_entropy_passes_on_what_is_not_finite(bad):
    def work():
        x = np.array([[1.0, bad, 2.0], [0.5, 0.25, 1.0]], np.float32)
        with np.errstate(all="ignore"):
            return SoftmaxCrossEntropy()(x, np.array([0, 2]))

    (mine, dmine), (other, dother), _ = both_ways(work)
    assert np.isnan(mine) == np.isnan(other) == (bad != -np.inf)
    assert np.allclose(dmine[1], dother[1], rtol=1e-6)
    assert np.array_equal(np.isnan(dmine), np.isnan(dother))


def test_classes_out_of_range_are_refused_either_way(by_numpy):
    for switch in (lambda: None, by_numpy):
        switch()
        for wrong in (-1, 3, 2**62):
            with pytest.raises(specnet.ShapeError, match="classes 0 to 2"):
                SoftmaxCrossEntropy()(np.zeros((2, 3), np.float32), np.array([0, wrong]))


TRAINED = """
import numpy as np
import specnet
from specnet import kernels
rng = np.random.default_rng(0)
x, y = rng.normal(size=(300, 40)), rng.integers(0, 5, 300)
found = []
for optimizer in ("adam", {"type": "adam", "weight_decay": 0.1}, {"type": "adamw", "weight_decay": 0.1}):
    wide, relu = {"type": "affine", "units": 700}, {"type": "relu"}
    layers = [wide, {"type": "batch_norm"}, relu, wide, relu, {"type": "affine", "units": 5}]
    model = specnet.build(specnet.ModelSpec(input_shape=(40,), dtype="float64", layers=layers))
    specnet.fit(model, x, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=2, freeze=["affine_1.bias"],
                schedule="cosine")
    found += model.store.value_vector[:: 97].tolist()
print(kernels.backend(), *found)
"""


@needs_kernels
def test_a_run_ends_the_same_either_way(python):
    found = {}
    for way in ("", "numpy"):
        environment = {**os.environ, "SPECNET_KERNELS": way, "OPENBLAS_NUM_THREADS": "1"}
        made = subprocess.run([python, "-c", TRAINED], env=environment, capture_output=True, text=True, check=True)
        backend, *numbers = made.stdout.split()
        found[backend] = np.array(numbers, float)
    assert found.keys() == {"compiled", "numpy"}
    assert np.allclose(found["compiled"], found["numpy"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("broken", ["missing", "another machine's", "another version"])
def test_without_a_library_that_fits_numpy_does_the_work(monkeypatch, broken):
    if broken == "another version":
        monkeypatch.setitem(sys.modules, "specnet.kernels._compiled", types.SimpleNamespace(VERSION=1))
    else:
        error = ModuleNotFoundError if broken == "missing" else ImportError

        def refuse(_name):
            raise error("invalid ELF header")

        monkeypatch.setattr(kernels.importlib, "import_module", refuse)
    assert kernels._load() is None


def test_a_library_of_another_machine_is_left_alone(tmp_path, root, python):
    package = tmp_path / "copy/specnet"
    shutil.copytree(root / "specnet", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [
        python,
        "-c",
        "import sys; sys.path[0] = '.'; import specnet.kernels as k; print(k.__file__, k.backend())",
    ]
    for content in (None, b"\x7fELF garbage" * 100, b""):
        if content is not None:
            (package / "kernels/_compiled.abi3.so").write_bytes(content)
        made = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True)
        where, backend = made.stdout.split()
        assert where.startswith((str(package.parent), "./specnet", "specnet"))
        assert backend == "numpy"


def test_the_environment_switches_them_off(python):
    environment = {**os.environ, "SPECNET_KERNELS": "numpy"}
    command = [python, "-m", "specnet", "--version"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert made.stdout == f"specnet {specnet.__version__} (numpy kernels)\n"


@needs_kernels
def test_arrays_that_the_kernels_do_not_take_are_not_touched():
    good = np.ones((4, 4), np.float32)
    readonly = good.copy()
    readonly.flags.writeable = False
    bad = {
        "strided": np.ones((4, 8), np.float32)[:, ::2],
        "turned": np.asfortranarray(np.arange(16, dtype=np.float32).reshape(4, 4)),
        "float64": good.astype(np.float64),
        "float16": good.astype(np.float16),
        "other bytes": good.astype(">f4"),
        "integers": good.astype(np.int32),
        "too long": np.ones((5, 4), np.float32),
        "no array": [1.0],
        "nothing": None,
    }
    for array in bad.values():
        out = np.full((4, 4), 7, np.float32)
        assert kernels.relu(array, out) is False
        assert kernels.relu_backward(good, array, out) is False
        assert kernels.adam(out, array, out, out, np.ones(5, np.float32)) is False
        assert kernels.batch_norm_backward(out, array, *[np.ones(4, np.float32)] * 4, out) is False
        assert (out == 7).all()
    for array in (readonly, *bad.values()):
        assert kernels.relu(good, array) is False
        assert kernels.cross_entropy(good, np.zeros(4, np.int64), array, 0.0) is None
    assert kernels.add_bias(good, np.ones(3, np.float32)) is False
    assert kernels.add_bias(good, np.ones(0, np.float32)) is False
    assert kernels.affine_row(np.ones(3, np.float32), good, np.ones(4, np.float32), np.ones(4, np.float32)) is False
    assert kernels.cross_entropy(good, np.zeros(4, np.int32), good, 0.0) is None
    assert kernels.cross_entropy(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), good, 0.0) is None
    for few in ((), (good,), (good, good)):
        assert kernels.relu_backward(*few) is False
    with pytest.raises(TypeError):
        kernels.cross_entropy(good, np.zeros(4, np.int64), good, "0.1")
    assert (good == 1).all()


@needs_kernels
def test_no_array_is_kept_alive_or_lost():
    arrays = [np.ones((4, 4), np.float32) for _ in range(3)]
    before = [sys.getrefcount(array) for array in arrays]
    for _ in range(1000):
        kernels.relu_backward(*arrays)
        kernels.relu_backward(arrays[0], arrays[1].T[::2], arrays[2])
        kernels.cross_entropy(arrays[0], np.zeros(4, np.int64), arrays[1], 0.0)
    assert [sys.getrefcount(array) for array in arrays] == before
    arrays[0].resize((8, 4), refcheck=False)  # refused while a view of its memory is open


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

    alone, collectively = {}, {}
    for seed in (1, 2):
        run(seed, alone)
    threads = [threading.Thread(target=run, args=(seed, collectively)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collectively == alone


def test_the_hook_builds_and_does_without(tmp_path, root, monkeypatch):
    pytest.importorskip("hatchling", reason="hatchling is there while the package is built only")
    from specnet.kernels.build import KernelsHook

    folder = tmp_path / "specnet/kernels"
    folder.mkdir(parents=True)
    for name in ("_compiled.c", "arithmetic.h"):
        shutil.copy(root / "specnet/kernels" / name, folder)

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
        assert sorted(path.name for path in folder.iterdir()) == ["_compiled.c", "arithmetic.h"]
    if shutil.which("cc"):
        data = build("cc")
        assert not data["pure_python"]
        assert data["tag"].startswith("cp311-abi3-")
        assert sorted(path.name for path in folder.iterdir()) == ["_compiled.abi3.so", "_compiled.c", "arithmetic.h"]


@needs_kernels
@pytest.mark.parametrize(("rows", "offset"), [(4096, 10), (1_000_000, 5)])
def test_sums_over_many_rows_keep_their_digits(rows, offset):
    x = (np.random.default_rng(0).normal(size=(rows, 1)) + offset).astype(np.float32)
    exact = x.astype(np.float64)
    norm = specnet.layers.BatchNorm(np.ones(1, np.float32), np.zeros(1, np.float32))
    y = norm.forward(x, training=True)
    assert np.abs(y - (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)).max() < 2e-5
    norm.backward(x)
    assert norm.shift_grad[0] == pytest.approx(exact.sum(), rel=1e-5)


@needs_kernels
def test_arrays_that_overlap_are_not_taken():
    x = np.arange(6, dtype=np.float32)
    assert kernels.relu(x[:-1], x[1:]) is False
    assert kernels.relu(x, x) is True
    assert kernels.relu(np.ones((5, 3), np.float32), np.ones((3, 5), np.float32)) is False
    assert x.tolist() == [0, 1, 2, 3, 4, 5]


@needs_kernels
def test_classes_that_another_thread_changes_touch_nothing_outside():
    rows, width = 500_000, 4
    whole = np.zeros((rows + 5000, width), np.float32)
    x = np.zeros((rows, width), np.float32)
    for delay in (0.001, 0.003, 0.006):
        classes = np.zeros(rows, np.int64)
        timer = threading.Timer(delay, classes.fill, [4000])
        timer.start()
        kernels.cross_entropy(x, classes, whole[:rows], 0.0)
        timer.join()
    assert not whole[rows:].any()
