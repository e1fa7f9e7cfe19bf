"""Kernels on several threads: the same bits for any number, in forked children, beside other threads and BLAS."""

import hashlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import specnet
from specnet import kernels
from specnet.training.losses import SoftmaxCrossEntropy
from specnet.training.optimizers import SGD, Adagrad, Adam, Lion, RMSprop
from tests.kernel_support import WRITTEN, needs_kernels, valid_arguments
from tests.support import model_of

pytestmark = needs_kernels


def with_threads(python, code, threads, **environment):
    """Run a script with this number of threads in the pool; return its output."""
    variables = {"SPECNET_KERNELS": "", "SPECNET_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    settings = {**os.environ, **variables, **environment}
    process = subprocess.run(
        [python, "-c", code], env=settings, capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


DIGESTS = """
import hashlib
import numpy as np
from specnet import kernels
from tests.kernel_support import WRITTEN, valid_arguments
for name, written in WRITTEN.items():
    for dtype in (np.float32, np.float64):
        for rows, width in ((517, 301), (40_001, 3), (5, 20_011)):
            arguments = valid_arguments(name, rows, width, dtype, seed=1)
            if name == "dropout":
                arguments[4] = 1e9
            result = getattr(kernels, name)(*arguments)
            assert result is not False and result is not None, (name, rows)
            digest = hashlib.sha256(repr(result).encode())
            for index in written:
                digest.update(arguments[index].tobytes())
            print(name, dtype.__name__, rows, digest.hexdigest())
print(kernels.threads())
"""


def test_the_bits_do_not_depend_on_the_number_of_threads(python, full):
    *expected, threads = with_threads(python, DIGESTS, 1).splitlines()
    assert threads == "1"
    assert len(expected) == 6 * len(WRITTEN)
    for count in (2, 3, 8) if full else (3,):
        *digests, threads = with_threads(python, DIGESTS, count).splitlines()
        assert threads == str(count)
        assert digests == expected


TRAIN = """
import hashlib
import numpy as np
import specnet
rng = np.random.default_rng(0)
x, y = rng.normal(size=(700, 200)), rng.integers(0, 300, 700)
block = [{"type": "affine", "units": 300}, {"type": "batch_norm"}, {"type": "relu"}, {"type": "dropout", "rate": 0.2}]
layers = [*block, {"type": "affine", "units": 300}, {"type": "layer_norm"}, {"type": "gelu"}]
model = specnet.build(specnet.ModelSpec(input_shape=(200,), layers=[*layers, {"type": "affine", "units": 300}]))
specnet.fit(model, x, y, loss="softmax_cross_entropy", epochs=2, batch_size=256)
print(hashlib.sha256(model.store.value_vector.tobytes()).hexdigest())
"""


def test_a_training_has_the_same_bits_with_any_number_of_threads(python):
    """BLAS has one thread here, because the bits of its products may depend on their number."""
    digests = {with_threads(python, TRAIN, count, OPENBLAS_NUM_THREADS="1") for count in (1, 2, 5)}
    assert len(digests) == 1


PRODUCTS = """
import hashlib
import numpy as np
from specnet import kernels
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for dtype in ("float32", "float64"):
    for rows, inner, width in ((300, 400, 500), (64, 2000, 64), (1000, 37, 900), (3000, 100, 10)):
        a, b = rng.normal(size=(rows, inner)).astype(dtype), rng.normal(size=(inner, width)).astype(dtype)
        if ADOPT:
            assert kernels.relu(np.ones(100_000), np.empty(100_000))  # large enough to start the pool
        for product in (a @ b, (b.T @ a.T).T, np.dot(np.ones(rows, dtype), a), a[0] @ b):
            digest.update(np.ascontiguousarray(product).tobytes())
print(digest.hexdigest())
"""


def test_products_keep_their_bits_when_the_pool_computes_them(python):
    for threads in (2, 7):
        digests = {
            with_threads(python, f"ADOPT = {adopt}{PRODUCTS}", threads, OPENBLAS_NUM_THREADS=str(threads))
            for adopt in (False, True)
        }
        assert len(digests) == 1


BESIDE = """
import os
import threading
import numpy as np
from specnet import kernels
rng = np.random.default_rng(0)
a, b = rng.normal(size=(300, 400)), rng.normal(size=(400, 300))
x = rng.normal(size=(500, 500))
product, positive = a @ b, np.maximum(x, 0)

def work(count, faults):
    y = np.empty_like(x)
    for _ in range(count):
        if not kernels.relu(x, y) or not np.array_equal(y, positive) or not np.array_equal(a @ b, product):
            faults.append(1)

faults = []
work(3, faults)
threads = [threading.Thread(target=work, args=(40, faults)) for _ in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for _ in range(5):  # a child has no threads of the pool, and starts its own
    child = os.fork()
    if not child:
        work(5, faults)
        os._exit(len(faults))
    faults += [1] * os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
work(3, faults)
print(len(faults), kernels.threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_several_python_threads_and_forked_children_compute_correctly(python):
    for threads in (2, 6):
        output = with_threads(python, BESIDE, threads, OPENBLAS_NUM_THREADS=str(threads), PYTHONWARNINGS="ignore")
        assert output.split() == ["0", str(threads)]


def test_the_number_of_threads_follows_the_environment(python):
    code = "from specnet import kernels; print(kernels.threads())"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for variables, expected in (
        ({"SPECNET_THREADS": "5", "OPENBLAS_NUM_THREADS": "1"}, 5),
        ({"SPECNET_THREADS": "", "OPENBLAS_NUM_THREADS": "1"}, 1),
        ({"SPECNET_THREADS": "", "OPENBLAS_NUM_THREADS": "", "OMP_NUM_THREADS": "1"}, 1),
        ({"SPECNET_THREADS": "", "OPENBLAS_NUM_THREADS": "", "OMP_NUM_THREADS": ""}, min(cores, 64)),
        ({"SPECNET_THREADS": "many", "OPENBLAS_NUM_THREADS": "1000"}, min(cores, 64)),
    ):
        assert with_threads(python, code, variables.pop("SPECNET_THREADS"), **variables).split() == [str(expected)]


def test_small_arrays_start_no_threads(python):
    code = """
import os
import numpy as np
import specnet
rng = np.random.default_rng(0)
model = specnet.build(specnet.ModelSpec(input_shape=(64,), layers=[{"type": "affine", "units": 32}, {"type": "relu"}]))
before = len(os.listdir("/proc/self/task"))
specnet.fit(model, rng.normal(size=(100, 64)), rng.integers(0, 32, 100), loss="softmax_cross_entropy", epochs=3)
model.predict(np.ones((1, 64)))
assert len(os.listdir("/proc/self/task")) == before
np.asarray(specnet.layers.Relu().forward(np.ones((1000, 1000))))
print(len(os.listdir("/proc/self/task")) - before)
"""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this system does not list a process's threads")
    assert with_threads(python, code, 3, OPENBLAS_NUM_THREADS="1").split() == ["2"]


LARGE = 20_000
"""Elements from which on a pass over an array counts as large."""


class Watched:
    """A function of numpy that adds its name to a list when an argument or the result is large."""

    def __init__(self, name, function, passes):
        self.name, self.function, self.passes = name, function, passes

    def __call__(self, *arguments, **options):
        result = self.function(*arguments, **options)
        if any(isinstance(array, np.ndarray) and array.size >= LARGE for array in (*arguments, result)):
            self.passes.append(self.name)
        return result

    def __getattr__(self, method):
        return Watched(f"{self.name}.{method}", getattr(self.function, method), self.passes)


@pytest.fixture
def large_passes(monkeypatch):
    """Return a list to which numpy's passes over large arrays add their names."""
    passes = []
    arithmetic = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "sign", "abs", "greater")
    functions = ("exp", "expm1", "sqrt", "square", "tanh", "take", "where", "copyto", "sum", "mean", "einsum")
    for name in (*arithmetic, *functions):
        monkeypatch.setattr(np, name, Watched(name, getattr(np, name), passes))
    return passes


@pytest.mark.parametrize("optimizer", [Adam, SGD, Adagrad, Lion, RMSprop])
def test_no_pass_over_a_large_array_is_left_to_numpy(large_passes, optimizer):
    """Count them in a step of every layer that has kernels; products stay with BLAS, which has threads of its own."""
    activations = ["relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "mish", "softplus", "sigmoid", "tanh"]
    layers = [{"type": "standardize", "mean": 0.5, "std": 2.0}]
    for kind in [*activations, "batch_norm", "layer_norm", "rms_norm"]:
        layers += [{"type": "affine", "units": 200}, {"type": kind}, {"type": "dropout", "rate": 0.1}]
    model = model_of(*layers, {"type": "affine", "units": 200}, input_shape=(200,))
    rng = np.random.default_rng(0)
    x, classes = rng.normal(size=(256, 200)).astype(model.dtype), rng.integers(0, 200, 256)
    step = optimizer(model, 0.01)
    large_passes.clear()
    _, dy = SoftmaxCrossEntropy()(model.forward(x, training=True), classes)
    model.backward(dy, input_gradient=False)
    step.step()
    assert large_passes == []
    np.add(x, x)
    assert large_passes == ["add"]


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


def test_valid_arguments_exist_for_every_kernel():
    library = {
        name for name in vars(kernels._library) if not name.startswith("_") and name not in ("VERSION", "threads")
    }
    assert library == WRITTEN.keys()
    for name in WRITTEN:
        assert getattr(kernels, name)(*valid_arguments(name)) not in (False, None)
