"""Compiled kernels agree with numpy (Adam and ReLU to the bit), and numpy is used if there are no kernels."""

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
SPECIAL_VALUES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e-320, 3e38, -1.5, 1e-20]
NAMES = ("adam", "add_bias", "affine_row", "relu", "relu_backward", "batch_norm", "batch_norm_backward")


@pytest.fixture
def switch_to_numpy(monkeypatch):
    """Return a function after whose call layers, losses and optimizers use numpy instead of kernels."""

    def switch():
        for name in NAMES:
            monkeypatch.setattr(kernels, name, kernels._return_false)
        monkeypatch.setattr(kernels, "cross_entropy", kernels._return_none)

    return switch


def run_with_and_without_kernels(work):
    """Run `work` with and without kernels; return both results and the names of the kernels that computed something."""
    with pytest.MonkeyPatch.context() as patch:
        used = set()
        for name in (*NAMES, "cross_entropy"):
            patch.setattr(kernels, name, recording(getattr(kernels, name), name, used))
        compiled = work()
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setattr(kernels, name, kernels._return_false)
        patch.setattr(kernels, "cross_entropy", kernels._return_none)
        plain = work()
    return compiled, plain, used


def recording(kernel, name, used):
    """Wrap a kernel so that it adds its name to `used` when it computes something."""

    def call(*arrays):
        result = kernel(*arrays)
        if result is not None and result is not False:
            used.add(name)
        return result

    return call


def random_array(rng, shape, dtype, special):
    """Draw normal values, one of them replaced by a special value if `special` is true."""
    array = rng.normal(size=shape).astype(dtype)
    if special and array.size:
        with np.errstate(over="ignore"):
            array.reshape(-1)[rng.integers(array.size)] = np.array(rng.choice(SPECIAL_VALUES)).astype(dtype)
    return array


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))  # the bits of NaNs may differ
    assert same.all()
    assert np.array_equal(np.signbit(actual[~np.isnan(actual)]), np.signbit(expected[~np.isnan(expected)]))


floats = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)


@needs_kernels
@given(st.integers(1, 300), floats, seeds, st.booleans(), st.sampled_from([0.0, 0.1]))
def test_adam_computes_the_same_bits_as_numpy(count, dtype, seed, special, decay):
    def work():
        rng = np.random.default_rng(seed)
        layer = {"type": "affine", "units": count, "bias": False}
        model = specnet.build(specnet.ModelSpec(input_shape=(2,), dtype=dtype, layers=[layer]))
        optimizer = AdamW(model, 0.003, weight_decay=decay)
        model.adopt_gradients()
        with np.errstate(all="ignore"):
            for _ in range(3):
                model.store.gradient_vector[...] = random_array(rng, 2 * count, dtype, special)
                optimizer.step()
        return [model.store.value_vector, *list(optimizer.state.values())[1:]]

    compiled, plain, used = run_with_and_without_kernels(work)
    assert used == {"adam"}
    for actual, expected in zip(compiled, plain, strict=True):
        assert_same_bits(actual, expected)


@needs_kernels
@given(st.integers(0, 40), st.integers(1, 70), floats, seeds, st.booleans())
def test_relu_computes_the_same_bits_as_numpy(rows, width, dtype, seed, special):
    def work():
        rng = np.random.default_rng(seed)
        relu = specnet.layers.Relu()
        with np.errstate(all="ignore"):
            y = relu.forward(random_array(rng, (rows, width), dtype, special))
            return y, relu.backward(random_array(rng, (rows, width), dtype, special))

    compiled, plain, used = run_with_and_without_kernels(work)
    assert used == {"relu", "relu_backward"}
    for actual, expected in zip(compiled, plain, strict=True):
        # max(-0.0, 0.0) may return either zero, so -0.0 in numpy's result is converted to +0.0.
        assert_same_bits(actual, expected + 0.0 if actual is compiled[0] else expected)


@needs_kernels
@given(st.integers(1, 40), st.integers(1, 70), floats, seeds)
def test_affine_agrees_with_numpy(rows, width, dtype, seed):
    def work():
        rng = np.random.default_rng(seed)
        weight, bias = rng.normal(size=(9, width)).astype(dtype), rng.normal(size=width).astype(dtype)
        return specnet.layers.Affine(weight, bias).predict(rng.normal(size=(rows, 9)).astype(dtype))

    compiled, plain, used = run_with_and_without_kernels(work)
    assert used == ({"add_bias"} if rows > 1 else {"affine_row"})
    assert np.array_equal(compiled, plain) or rows == 1
    assert np.allclose(compiled, plain, rtol=0, atol=1e-14 if dtype == "float64" else 1e-5)


@needs_kernels
@given(st.integers(2, 40), st.integers(1, 70), floats, seeds, st.floats(0, 1e3))
def test_batch_norm_agrees_with_numpy(rows, width, dtype, seed, offset):
    def work():
        rng = np.random.default_rng(seed)
        scale, shift, x, dy = (rng.normal(size=s).astype(dtype) for s in (width, width, (rows, width), (rows, width)))
        norm = specnet.layers.BatchNorm(scale, shift)
        y = norm.forward(x + np.dtype(dtype).type(offset), training=True)
        dx = norm.backward(dy)
        return y, dx, norm.scale_grad, norm.shift_grad, norm.buffers["running_mean"], norm.buffers["running_var"]

    compiled, plain, used = run_with_and_without_kernels(work)
    assert used == {"batch_norm", "batch_norm_backward"}
    for actual, expected in zip(compiled, plain, strict=True):
        # If all rows are nearly equal, the divisor is nearly 0, which amplifies rounding.
        scale = 1 + np.abs(expected).max() + offset
        assert np.abs(actual - expected).max() <= (1e-11 if dtype == "float64" else 1e-2) * scale


@needs_kernels
@given(st.integers(1, 40), st.integers(1, 200), floats, seeds, st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 300))
def test_cross_entropy_agrees_with_numpy(rows, classes, dtype, seed, smoothing, spread):
    def work():
        rng = np.random.default_rng(seed)
        x = rng.normal(scale=spread, size=(rows, classes)).astype(dtype)
        return SoftmaxCrossEntropy(smoothing)(x, rng.integers(0, classes, rows))

    ((compiled_loss, compiled_gradient), (numpy_loss, numpy_gradient), used) = run_with_and_without_kernels(work)
    assert used == {"cross_entropy"}
    close = {"rtol": 1e-12, "atol": 1e-14} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-6}
    assert np.allclose(compiled_loss, numpy_loss, **close)
    assert np.allclose(compiled_gradient, numpy_gradient, **close)


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_exponential_is_accurate_to_the_dtype(dtype):
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
def test_cross_entropy_propagates_non_finite_logits(bad):
    def work():
        x = np.array([[1.0, bad, 2.0], [0.5, 0.25, 1.0]], np.float32)
        with np.errstate(all="ignore"):
            return SoftmaxCrossEntropy()(x, np.array([0, 2]))

    (compiled_loss, compiled_gradient), (numpy_loss, numpy_gradient), _ = run_with_and_without_kernels(work)
    assert np.isnan(compiled_loss) == np.isnan(numpy_loss) == (bad != -np.inf)
    assert np.allclose(compiled_gradient[1], numpy_gradient[1], rtol=1e-6)
    assert np.array_equal(np.isnan(compiled_gradient), np.isnan(numpy_gradient))


def test_out_of_range_classes_are_rejected_with_and_without_kernels(switch_to_numpy):
    for switch in (lambda: None, switch_to_numpy):
        switch()
        for class_index in (-1, 3, 2**62):
            with pytest.raises(specnet.ShapeError, match="classes 0 to 2"):
                SoftmaxCrossEntropy()(np.zeros((2, 3), np.float32), np.array([0, class_index]))


TRAIN = """
import numpy as np
import specnet
from specnet import kernels
rng = np.random.default_rng(0)
x, y = rng.normal(size=(300, 40)), rng.integers(0, 5, 300)
values = []
for optimizer in ("adam", {"type": "adam", "weight_decay": 0.1}, {"type": "adamw", "weight_decay": 0.1}):
    wide, relu = {"type": "affine", "units": 700}, {"type": "relu"}
    layers = [wide, {"type": "batch_norm"}, relu, wide, relu, {"type": "affine", "units": 5}]
    model = specnet.build(specnet.ModelSpec(input_shape=(40,), dtype="float64", layers=layers))
    specnet.fit(model, x, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=2, freeze=["affine_1.bias"],
                schedule="cosine")
    values += model.store.value_vector[:: 97].tolist()
print(kernels.backend(), *values)
"""


@needs_kernels
def test_training_agrees_with_and_without_kernels(python):
    results = {}
    for setting in ("", "numpy"):
        environment = {**os.environ, "SPECNET_KERNELS": setting, "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.run([python, "-c", TRAIN], env=environment, capture_output=True, text=True, check=True)
        backend, *numbers = process.stdout.split()
        results[backend] = np.array(numbers, float)
    assert results.keys() == {"compiled", "numpy"}
    assert np.allclose(results["compiled"], results["numpy"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("broken", ["missing", "another machine's", "another version"])
def test_numpy_is_used_if_the_library_cannot_be_loaded(monkeypatch, broken):
    if broken == "another version":
        monkeypatch.setitem(sys.modules, "specnet.kernels._compiled", types.SimpleNamespace(VERSION=1))
    else:
        error = ModuleNotFoundError if broken == "missing" else ImportError

        def refuse(_name):
            raise error("invalid ELF header")

        monkeypatch.setattr(kernels.importlib, "import_module", refuse)
    assert kernels._load() is None


def test_an_invalid_library_file_is_ignored(tmp_path, root, python):
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
        process = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True)
        module_file, backend = process.stdout.split()
        assert module_file.startswith((str(package.parent), "./specnet", "specnet"))
        assert backend == "numpy"


def test_the_environment_switches_the_kernels_off(python):
    environment = {**os.environ, "SPECNET_KERNELS": "numpy"}
    command = [python, "-m", "specnet", "--version"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert process.stdout == f"specnet {specnet.__version__} (numpy kernels)\n"


def valid_arguments(name):
    """Return arguments that a kernel accepts."""

    def ones(*shape):
        return np.ones(shape, np.float32)

    matrices = [ones(4, 3) for _ in range(3)]
    vectors = [ones(3) for _ in range(5)]
    return {
        "adam": [*(ones(6) for _ in range(4)), ones(5)],
        "add_bias": [matrices[0], vectors[0]],
        "affine_row": [ones(1, 4), matrices[0], vectors[0], ones(1, 3)],
        "relu": matrices[:2],
        "relu_backward": matrices,
        "batch_norm": [matrices[0], *vectors[:2], *matrices[1:], *vectors[2:], 1e-5],
        "batch_norm_backward": [*matrices[:2], *vectors[:4], matrices[2]],
        "cross_entropy": [matrices[0], np.array([0, 1, 2, 0]), matrices[1], 0.1],
    }[name]


WRITTEN = {
    "adam": (0, 2, 3),
    "add_bias": (0,),
    "affine_row": (3,),
    "relu": (1,),
    "relu_backward": (2,),
    "batch_norm": (3, 4, 5, 6, 7),
    "batch_norm_backward": (4, 5, 6),
    "cross_entropy": (2,),
}
"""The positions of the arguments that each kernel writes."""


def place(array, storage, start):
    """Return a copy of an array, in the bytes of another one from `start` on."""
    view = storage.reshape(-1).view(np.uint8)[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def misaligned(array):
    return place(np.asarray(array), np.zeros(array.nbytes + 8, np.uint8), 1)


def misaligned_in_python(array):
    """Return a misaligned memoryview; unlike numpy, Python gives it the same format as an aligned one."""
    return memoryview(bytearray(1) + array.tobytes())[1:].cast(array.dtype.char, array.shape)


def field_of_packed_structure(array):
    return np.zeros(array.shape, [("a", np.uint8), ("b", array.dtype)])["b"]


def read_only(array):
    array.flags.writeable = False
    return array


DAMAGES = {
    "misaligned": misaligned,
    "misaligned, from Python": misaligned_in_python,
    "field of a packed structure": field_of_packed_structure,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[..., ::-1],
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
    "complex": lambda a: a.astype(np.complex64),
    "int32": lambda a: a.astype(np.int32),
    "another byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "longer": lambda a: np.concatenate([a, a[..., :1]], axis=-1),
    "shorter": lambda a: a[..., :1].copy(),
    "empty": lambda a: a[..., :0],
    "without axes": lambda a: a.reshape(-1)[:1].reshape(()),
    "a list": lambda a: a.tolist(),
    "bytes": lambda a: a.tobytes(),
    "None": lambda a: None,
}
MATRIX_DAMAGES = {
    "Fortran order": np.asfortranarray,
    "other axes": lambda a: a.reshape(a.shape[::-1]),
    "one axis": lambda a: a.reshape(-1),
}


def refusal(name):
    return None if name == "cross_entropy" else False


def assert_refused(name, arguments, why):
    before = [a.tobytes() if hasattr(a, "tobytes") else a for a in arguments]
    assert getattr(kernels, name)(*arguments) is refusal(name), why
    assert [a.tobytes() if hasattr(a, "tobytes") else a for a in arguments] == before, why


@needs_kernels
@pytest.mark.parametrize("name", WRITTEN)
def test_unsupported_arrays_are_refused_and_not_modified(name):
    valid = valid_arguments(name)
    assert getattr(kernels, name)(*valid) is not refusal(name)
    for arguments in ([], valid[:-1], [*valid, valid[0]]):
        assert_refused(name, arguments, "number of arguments")
    for i, argument in enumerate(valid):
        if isinstance(argument, float):
            continue
        damages = DAMAGES | (MATRIX_DAMAGES if argument.ndim == 2 and len(argument) > 1 else {})
        if i in WRITTEN[name]:
            damages["read-only"] = read_only
        if name == "add_bias" and i == 0:
            del damages["one axis"]  # the same numbers: rows are as long as the bias
        for why, damage in damages.items():
            arguments = valid_arguments(name)
            arguments[i] = damage(arguments[i])
            assert_refused(name, arguments, f"argument {i}: {why}")


@needs_kernels
@pytest.mark.parametrize("name", WRITTEN)
def test_overlapping_arrays_are_refused(name):
    valid = valid_arguments(name)
    arrays = [i for i, argument in enumerate(valid) if not isinstance(argument, float)]
    for i, j in ((i, j) for i in WRITTEN[name] for j in arrays if i != j):
        starts = [8] if name.startswith("relu") or valid[i].nbytes != valid[j].nbytes else [0, 8]
        for start in starts:
            arguments, storage = valid_arguments(name), np.zeros(16)
            arguments[i], arguments[j] = place(valid[i], storage, 0), place(valid[j], storage, start)
            assert_refused(name, arguments, f"arguments {i} and {j}, {start} bytes apart")


@needs_kernels
def test_relu_works_in_place():
    x = np.arange(-3, 3, dtype=np.float32)
    assert kernels.relu(x, x)
    assert x.tolist() == [0, 0, 0, 0, 1, 2]
    dy = np.full(6, 3, np.float32)
    assert kernels.relu_backward(x, dy, dy)
    assert dy.tolist() == [0, 0, 0, 0, 3, 3]


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_without_axes_or_without_elements(dtype):
    empty = np.ones(0, dtype)
    zero_rows, zero_width = np.ones((0, 3), dtype), np.ones((3, 0), dtype)
    vectors = [np.ones(3, dtype) for _ in range(5)]
    no_axes = np.array(-1, dtype)
    assert kernels.relu(no_axes, no_axes)
    assert no_axes == 0
    for array in (empty, zero_rows, zero_width):
        assert kernels.relu(array, array)
        assert kernels.relu_backward(array, array, array)
        assert not kernels.add_bias(array, empty)
    assert not kernels.add_bias(no_axes, vectors[0])
    assert kernels.add_bias(zero_rows, vectors[0])
    assert kernels.adam(*[empty] * 4, np.ones(5, dtype))
    assert not kernels.affine_row(np.ones((1, 0), dtype), zero_rows, vectors[0], np.ones((1, 3), dtype))
    assert not kernels.affine_row(np.ones((1, 3), dtype), zero_width, empty, np.ones((1, 0), dtype))
    for rows in (zero_rows, np.ones((1, 3), dtype)):  # a single row has no variance
        assert not kernels.batch_norm_backward(rows, rows.copy(), *vectors[:4], rows.copy())
    assert not kernels.batch_norm(zero_rows, *vectors[:2], zero_rows.copy(), zero_rows.copy(), *vectors[2:], 1e-5)
    for x in (zero_rows, zero_width):
        assert kernels.cross_entropy(x, np.zeros(len(x), np.int64), x.copy(), 0.0) is None


def test_layers_compute_the_same_for_misaligned_arrays():
    def work(prepare):
        rng = np.random.default_rng(0)
        x, dy, weight, bias = (prepare(rng.normal(size=shape)) for shape in ((6, 4), (6, 4), (4, 4), (4,)))
        assert x.flags.aligned == (prepare is np.array)
        relu, affine = specnet.layers.Relu(), specnet.layers.Affine(weight, bias)
        results = [affine.predict(x[:1]), *SoftmaxCrossEntropy()(x, prepare(np.arange(6) % 4))]
        for layer in (relu, affine, specnet.layers.BatchNorm(bias, bias)):
            results += [layer.forward(x, training=True), layer.backward(dy)]
        out = prepare(np.zeros((6, 4)))
        return [*results, relu.forward(x, out=out), out]

    for actual, expected in zip(work(misaligned), work(np.array), strict=True):
        assert np.allclose(actual, expected, rtol=1e-12, atol=1e-14)


@needs_kernels
def test_numbers_of_a_wrong_type_raise():
    for name in ("batch_norm", "cross_entropy"):
        with pytest.raises(TypeError):
            getattr(kernels, name)(*valid_arguments(name)[:-1], "0.1")


@needs_kernels
@pytest.mark.parametrize("index", [-1, 3, 2**62, -(2**63)])
def test_classes_out_of_range_are_refused(index):
    arguments = valid_arguments("cross_entropy")
    arguments[1][2] = index
    assert_refused("cross_entropy", arguments, index)


@needs_kernels
def test_kernels_do_not_leak_references():
    arrays = [np.ones((4, 4), np.float32) for _ in range(3)]
    before = [sys.getrefcount(array) for array in arrays]
    for _ in range(1000):
        kernels.relu_backward(*arrays)
        kernels.relu_backward(arrays[0], arrays[1].T[::2], arrays[2])
        kernels.cross_entropy(arrays[0], np.zeros(4, np.int64), arrays[1], 0.0)
    assert [sys.getrefcount(array) for array in arrays] == before
    arrays[0].resize((8, 4), refcheck=False)  # numpy rejects this while a buffer of the array is exported


@pytest.mark.parametrize("cls", [Adam, AdamW])
def test_an_optimizer_cannot_be_copied_without_its_model(cls):
    model = model_of({"type": "affine", "units": 2})
    optimizer = cls(model)
    with pytest.raises(specnet.SpecnetError, match="copy the model"):
        copy.deepcopy(optimizer)


def test_two_models_train_independently_in_two_threads():
    def run(seed, digests):
        model = model_of({"type": "affine", "units": 300}, {"type": "relu"}, {"type": "affine", "units": 3}, seed=seed)
        x, y = np.random.default_rng(seed).normal(size=(60, 5)), np.arange(60) % 3
        specnet.fit(model, x, y, loss="softmax_cross_entropy", epochs=20)
        digests[seed] = hashlib.sha256(b"".join(v.tobytes() for v in model.parameters.values())).hexdigest()

    sequential, concurrent = {}, {}
    for seed in (1, 2):
        run(seed, sequential)
    threads = [threading.Thread(target=run, args=(seed, concurrent)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert concurrent == sequential


@pytest.fixture
def build(monkeypatch):
    """Return a function that runs the build hook and returns its data and warnings; hatchling need not be installed."""
    interface = types.SimpleNamespace(BuildHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.builders.hooks.plugin.interface", interface)
    from specnet.kernels.build import KernelsHook

    def run(folder, compiler):
        monkeypatch.setenv("CC", compiler)
        hook, data, warnings = KernelsHook(), {"artifacts": [], "pure_python": True}, []
        hook.root, hook.app = str(folder), types.SimpleNamespace(display_warning=warnings.append)
        hook.initialize("standard", data)
        return data, warnings

    return run


def test_the_build_hook_compiles_or_warns(tmp_path, root, build):
    sources = ["_compiled.c", "arithmetic.h"]
    folder = tmp_path / "specnet/kernels"
    folder.mkdir(parents=True)
    for name in sources:
        shutil.copy(root / "specnet/kernels" / name, folder)
    for compiler in ("no-such-compiler", f"{sys.executable} -c 'import sys; sys.exit(1)'"):
        data, warnings = build(tmp_path, compiler)
        assert data == {"artifacts": [], "pure_python": True}
        assert "numpy is used instead" in warnings[0]
        assert sorted(path.name for path in folder.iterdir()) == sources
    if shutil.which("cc"):
        data, warnings = build(tmp_path, "cc")
        assert not data["pure_python"]
        assert not warnings
        assert data["tag"].startswith("cp311-abi3-")
        assert sorted(path.name for path in folder.iterdir()) == ["_compiled.abi3.so", *sources]


@pytest.mark.full
def test_sanitizers_find_nothing(tmp_path, root, python, build):
    """Run these tests with kernels that end the process at an access out of bounds or at undefined behaviour."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    command = ["cc", "-print-file-name=libasan.so"]
    runtime = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(runtime):  # the bare name: not found
        pytest.skip("cc has no libasan.so")
    package, tests = tmp_path / "specnet", tmp_path / "tests"
    shutil.copytree(root / "specnet", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    tests.mkdir()
    for name in ("__init__.py", "commands.py", "conftest.py", "support.py", "test_kernels.py"):
        shutil.copy(root / "tests" / name, tests)
    shutil.copy(root / "pyproject.toml", tmp_path)
    _, warnings = build(tmp_path, "cc -g -fsanitize=address,undefined -fno-sanitize-recover=all")
    if warnings:
        pytest.skip(f"cc does not compile with sanitizers: {warnings[0]}")
    sanitized = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    environment = {**os.environ, **sanitized, "SPECNET_KERNELS": "", "PYTEST_ADDOPTS": ""}

    def run(*arguments):
        command = [python, "-m", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    process = run("specnet", "--version")
    if "compiled" not in process.stdout:
        pytest.skip(f"the sanitizers do not start: {process.stderr[:200]}")
    # -s: what a sanitizer writes before it ends the process would be lost with what pytest captures.
    process = run("pytest", "-q", "-s", "-p", "no:cacheprovider", "tests/test_kernels.py")
    assert process.returncode == 0, (process.stdout + process.stderr)[-5000:]


@needs_kernels
@pytest.mark.parametrize(("rows", "offset"), [(4096, 10), (1_000_000, 5)])
def test_sums_over_many_rows_are_accurate(rows, offset):
    x = (np.random.default_rng(0).normal(size=(rows, 1)) + offset).astype(np.float32)
    exact = x.astype(np.float64)
    norm = specnet.layers.BatchNorm(np.ones(1, np.float32), np.zeros(1, np.float32))
    y = norm.forward(x, training=True)
    assert np.abs(y - (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)).max() < 2e-5
    norm.backward(x)
    assert norm.shift_grad[0] == pytest.approx(exact.sum(), rel=1e-5)


@needs_kernels
def test_classes_changed_by_another_thread_cause_no_write_out_of_bounds():
    rows, width = 500_000, 4
    buffer = np.zeros((rows + 5000, width), np.float32)
    x = np.zeros((rows, width), np.float32)
    for delay in (0.001, 0.003, 0.006):
        classes = np.zeros(rows, np.int64)
        timer = threading.Timer(delay, classes.fill, [4000])
        timer.start()
        kernels.cross_entropy(x, classes, buffer[:rows], 0.0)
        timer.join()
    assert not buffer[rows:].any()
