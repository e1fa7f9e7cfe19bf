"""What compiled kernels accept: every other array is refused, and nothing is read or written out of bounds."""

import copy
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import types

import numpy as np
import pytest

import specnet
from specnet import kernels
from specnet.training.losses import SoftmaxCrossEntropy
from specnet.training.optimizers import Adam, AdamW
from tests.kernel_support import IN_PLACE, OPTIONAL, WRITTEN, needs_kernels, refusal, valid_arguments
from tests.support import model_of


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
        if isinstance(argument, (int, float)):
            continue
        damages = DAMAGES | (MATRIX_DAMAGES if argument.ndim == 2 and len(argument) > 1 else {})
        if i in WRITTEN[name]:
            damages["read-only"] = read_only
        if name == "add_bias" and i == 0:
            del damages["one axis"]  # the same numbers: rows are as long as the bias
        harmless = ["misaligned, from Python"] if name == "gather" else []  # it copies bytes
        if argument.shape[-1:] == (1,):
            harmless += ["reversed", "shorter", "Fortran order"]
        if i in OPTIONAL.get(name, ()):
            harmless += ["empty"]
        for why, damage in damages.items():
            if why in harmless:
                continue
            arguments = valid_arguments(name)
            arguments[i] = damage(arguments[i])
            assert_refused(name, arguments, f"argument {i}: {why}")


@needs_kernels
@pytest.mark.parametrize("name", WRITTEN)
def test_overlapping_arrays_are_refused(name):
    valid = valid_arguments(name)
    arrays = [i for i, argument in enumerate(valid) if not isinstance(argument, (int, float))]
    for i, j in ((i, j) for i in WRITTEN[name] for j in arrays if i != j):
        if valid[i].nbytes == 8:
            continue
        starts = [8] if IN_PLACE.get(name) == i or valid[i].nbytes != valid[j].nbytes else [0, 8]
        for start in starts:
            arguments, storage = valid_arguments(name), np.zeros(2 + max(valid[i].nbytes, valid[j].nbytes) // 8)
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
    assert kernels.adam(*[empty] * 4, np.ones(6, dtype))
    assert not kernels.affine_row(np.ones((1, 0), dtype), zero_rows, vectors[0], np.ones((1, 3), dtype))
    assert not kernels.affine_row(np.ones((1, 3), dtype), zero_width, empty, np.ones((1, 0), dtype))
    for rows in (zero_rows, np.ones((1, 3), dtype)):  # a single row has no variance
        assert not kernels.batch_norm_backward(rows, rows.copy(), *vectors[:4], rows.copy())
    written = zero_rows.copy(), zero_rows.copy()
    assert not kernels.batch_norm(zero_rows, *vectors[:2], *written, *vectors[2:], 1e-5, 0, 0.1)
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


def test_the_build_hook_compiles_or_warns(tmp_path, root, build, monkeypatch):
    monkeypatch.setenv("CFLAGS", "-O0 -DANY_TILES")  # compile a part of the tiles, and fast
    folder = tmp_path / "specnet/kernels"
    shutil.copytree(root / "specnet/kernels", folder, ignore=shutil.ignore_patterns("*.so", "*.py", "__pycache__"))
    sources = sorted(path.name for path in folder.iterdir())
    for compiler in ("no-such-compiler", f"{sys.executable} -c 'import sys; sys.exit(1)'"):
        data, warnings = build(tmp_path, compiler)
        assert data == {"artifacts": [], "pure_python": True}
        assert "numpy is used instead" in warnings[0]
        assert sorted(path.name for path in folder.iterdir()) == sources
    if shutil.which("cc"):
        data, warnings = build(tmp_path, "cc")
        assert not data["pure_python"]
        assert not warnings
        is_free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
        assert data["tag"].split("-")[1].endswith("t") if is_free_threaded else data["tag"].startswith("cp311-abi3-")
        (library,) = {path.name for path in folder.iterdir()} - set(sources)
        assert is_free_threaded or library == "_compiled.abi3.so"


KERNEL_TESTS = tuple(f"test_kernel{name}.py" for name in ("s", "_arrays", "_threads", "_convolution", "_sequence"))


@pytest.mark.full
def test_sanitizers_find_nothing(tmp_path, root, python, build, monkeypatch):
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
    for name in (
        "__init__.py",
        "commands.py",
        "conftest.py",
        "support.py",
        "kernel_support.py",
        *KERNEL_TESTS,
    ):
        shutil.copy(root / "tests" / name, tests / name)
    shutil.copy(root / "pyproject.toml", tmp_path)
    monkeypatch.setenv("CFLAGS", "-O1")  # with -O3, the checks take minutes to compile
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
    process = run("pytest", "-q", "-s", "-p", "no:cacheprovider", *(f"tests/{name}" for name in KERNEL_TESTS))
    assert process.returncode == 0, (process.stdout + process.stderr)[-5000:]


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


@needs_kernels
@pytest.mark.parametrize("name", IN_PLACE)
def test_kernels_that_work_in_place_compute_the_same_bits(name):
    written = IN_PLACE[name]
    for rows, width in ((3, 5), (300, 200)):
        expected, arguments = valid_arguments(name, rows, width, seed=2), valid_arguments(name, rows, width, seed=2)
        arguments[written] = arguments[1 if name == "relu_backward" else 0]
        for call in (expected, arguments):
            assert getattr(kernels, name)(*call)
        assert all(np.array_equal(arguments[index], expected[index]) for index in WRITTEN[name])
