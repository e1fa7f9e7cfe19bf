"""The conformance kit, `check_layer`, accepts a correct layer and reports each kind of defect."""

import numpy as np
import pytest

import specnet
from specnet.spec import registry
from specnet.testing import check_gradients, check_layer, numerical_gradient, relative_error, sample_inputs
from tests.support import model_of


class Square(specnet.Layer):
    """y = x^2 * gain. A correct layer; its subclasses below each add one defect."""

    def __init__(self, gain):
        super().__init__(gain=gain)
        self.x = None

    @classmethod
    def infer(cls, _fields, input_shape):
        return {"gain": input_shape[-1:]}, input_shape

    def forward(self, x, training=False):
        self.x = self.floats(x)
        return self.predict(x)

    def backward(self, dy):
        x = self.cached(self.x)
        dy = self.incoming(dy, x.shape, x.dtype)
        self.gradient("gain")[...] = (dy * x * x).reshape(-1, x.shape[-1]).sum(axis=0)
        return dy * 2 * x * self.parameters["gain"]

    def predict(self, x):
        x = self.floats(x)
        return x * x * self.parameters["gain"]


@pytest.fixture
def check():
    """Return a function that registers a layer class as the type "square" and runs `check_layer` on it."""

    def run(layer_class):
        class SquareSpec(specnet.LayerSpec):
            layer = layer_class

            def parameters(self, shapes):
                return {"gain": specnet.ParameterSpec("ones")}

        registry._registered.pop("square", None)
        specnet.register_layer("square")(SquareSpec)
        check_layer({"type": "square"}, (3,))

    yield run
    registry._registered.pop("square", None)


def test_a_correct_layer_passes(check):
    check(Square)


class WrongGradient(Square):
    def backward(self, dy):
        return 1.01 * super().backward(dy)


class WrongParameterGradient(Square):
    def backward(self, dy):
        dx = super().backward(dy)
        self.gradient("gain")[0] += 1e-3
        return dx


class AccumulatesGradients(Square):
    def backward(self, dy):
        before = self.gradient("gain").copy()
        dx = super().backward(dy)
        self.gradient("gain")[...] += before
        return dx


class ReturnsOtherShape(Square):
    def forward(self, x, training=False):
        return super().forward(x)[..., np.newaxis]


class ReturnsOtherDtype(Square):
    def predict(self, x):
        return super().predict(x).astype(np.float64)


class WritesIntoInput(Square):
    def forward(self, x, training=False):
        y = super().forward(x)
        self.x[:1] = 5
        return y


class ReturnsView(Square):
    def forward(self, x, training=False):
        super().forward(x)
        return self.x

    def predict(self, x):
        return self.floats(x)

    def backward(self, dy):
        super().backward(dy)
        return np.array(dy)


class ReturnsItsCache(Square):
    def forward(self, x, training=False):
        self.y = super().forward(x)
        return self.y

    def backward(self, dy):
        x = self.cached(self.x)
        super().backward(dy)
        return self.incoming(dy, x.shape, x.dtype) * 2 * self.y / x


class ReusesOutput(Square):
    def forward(self, x, training=False):
        y = super().forward(x)
        reused = self.keep("y", y.shape, y.dtype)
        reused[...] = y
        return reused


class PredictCaches(Square):
    def predict(self, x):
        self.x = self.floats(x)
        return super().predict(x)

    def forward(self, x, training=False):
        return self.predict(x)


class PredictWrites(Square):
    def predict(self, x):
        self.last = self.floats(x)
        return super().predict(x)


class RebindsABuffer(Square):
    def __init__(self, gain):
        super().__init__(gain)
        self.buffers["count"] = np.zeros((), np.int64)

    @classmethod
    def infer_buffers(cls, _fields, _input_shape):
        return {"count": ((), np.int64)}

    def forward(self, x, training=False):
        self.buffers["count"] = self.buffers["count"] + 1
        return super().forward(x)


class PredictDiffers(Square):
    def predict(self, x):
        return super().predict(x) * (1 + 1e-7)

    def forward(self, x, training=False):
        super().forward(x)
        return super().predict(x)


class DependsOnGlobalRandomness(Square):
    def forward(self, x, training=False):
        y = super().forward(x)
        return y + np.random.default_rng().normal() if training else y


class AcceptsBackwardBeforeForward(Square):
    def backward(self, dy):
        if self.x is None:
            return self.floats(dy)
        return super().backward(dy)


class AcceptsAnyGradientShape(Square):
    def backward(self, dy):
        if np.shape(dy) != self.cached(self.x).shape:
            return self.floats(dy)
        return super().backward(dy)


class IgnoresOut(Square):
    def predict(self, x, out=None):
        y = super().predict(x)
        return y if out is None else y * 2


class DependsOnOtherRows(Square):
    def predict(self, x):
        x = self.floats(x)
        return super().predict(x) + (x.mean() if x.size else 0) * 0 + len(x)

    def backward(self, dy):
        return super().backward(dy)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (WrongGradient, "gradient of input differs"),
        (WrongParameterGradient, r"gradient of square_1\.gain differs"),
        (AccumulatesGradients, "gradient of square_1.gain"),
        (ReturnsOtherShape, "forward returns shape"),
        (ReturnsOtherDtype, "float64"),
        (WritesIntoInput, "writes into its input"),
        (ReturnsView, "view of its input"),
        (ReturnsItsCache, "writing into a result changes a later result"),
        (ReusesOutput, "later call changes an earlier result of forward"),
        (PredictCaches, "predict sets attributes of the layer"),
        (PredictWrites, r"predict sets attributes of the layer.*\['last'\]"),
        (RebindsABuffer, "rebinds its buffer count"),
        (PredictDiffers, "predict differs from forward"),
        (DependsOnGlobalRandomness, "the same seed differ in their outputs"),
        (AcceptsBackwardBeforeForward, "backward before forward does not raise SpecnetError"),
        (AcceptsAnyGradientShape, "another shape does not raise ShapeError"),
        (IgnoresOut, "other values with `out`"),
        (DependsOnOtherRows, "depends on the other rows"),
    ],
)
def test_a_defect_of_a_layer_is_reported(check, layer, words):
    with pytest.raises(AssertionError, match=rf"check_layer\(square, \(3,\), float\d\d\): .*{words}"):
        check(layer)


class DropsParameters(Square):
    def __init__(self, gain):
        super().__init__(gain)
        self.parameters.clear()


class CopiesParameters(Square):
    def __init__(self, gain):
        super().__init__(gain.copy())


class SetsUndeclaredBuffer(Square):
    def __init__(self, gain):
        super().__init__(gain)
        self.buffers["count"] = np.zeros(())


class LeavesBufferUnset(Square):
    @classmethod
    def infer_buffers(cls, _fields, _input_shape):
        return {"count": ((), np.int64)}


class TakesExtraArgument(Square):
    def __init__(self, gain, more):
        super().__init__(gain)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (DropsParameters, r"document declares parameters \['gain'\], the constructor sets self.parameters \[\]"),
        (CopiesParameters, "must keep the array that it receives for gain, not a copy"),
        (SetsUndeclaredBuffer, r"declares buffers \[\], the constructor sets self.buffers \['count'\]"),
        (LeavesBufferUnset, r"declares buffers \['count'\], the constructor sets self.buffers \[\]"),
        (TakesExtraArgument, r"from_document cannot create the layer .*missing 1 required"),
    ],
)
def test_a_layer_that_differs_from_its_document_is_reported(check, layer, words):
    with pytest.raises(specnet.SpecnetError, match=words):
        check(layer)


def test_invalid_parameter_specs_and_registrations_are_rejected():
    with pytest.raises(specnet.SpecnetError, match=r'unknown initializer .*did you mean "ones"'):
        specnet.ParameterSpec("one")
    with pytest.raises(specnet.SpecnetError, match="two positive integers"):
        specnet.ParameterSpec("ones", fans=(0, 3))
    for invalid_name in ("Bad Name!", "", 1, Square):
        with pytest.raises(specnet.SpecnetError, match="expected a type name"):
            specnet.register_layer(invalid_name)
    with pytest.raises(specnet.SpecnetError, match="has no layer class"):
        specnet.register_layer("nothing")(type("NothingSpec", (specnet.LayerSpec,), {}))


def test_an_unknown_layer_type_is_rejected():
    with pytest.raises(specnet.SpecError, match="unknown layer type"):
        check_layer({"type": "relo"}, (3,))


def test_the_numerical_gradient_of_a_cubic():
    x = np.array([[1.0, -2.0], [0.5, 3.0]])
    assert np.allclose(numerical_gradient(lambda: float(np.sum(x**3)), x), 3 * x**2, rtol=1e-9)
    assert x.tolist() == [[1.0, -2.0], [0.5, 3.0]]
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


def test_check_gradients_tolerates_kinks_and_leaves_the_model_unchanged():
    model = model_of({"type": "batch_norm"}, {"type": "relu"}, {"type": "dropout"}, {"type": "affine", "units": 2})
    x = sample_inputs(model, 6)
    before = {name: array.copy() for name, array in {**model.parameters, **model.buffers}.items()}
    dy = np.ones((6, 2))
    checks = check_gradients(model, x, dy, training=True)
    assert [(check.name, check.checked) for check in checks] == [
        ("input", 30),
        ("batch_norm_1.scale", 5),
        ("batch_norm_1.shift", 5),
        ("affine_1.weight", 10),
        ("affine_1.bias", 2),
    ]
    assert max(check.error for check in checks) < 1e-7
    assert all(np.array_equal(array, before[name]) for name, array in {**model.parameters, **model.buffers}.items())
    assert model.draws.step == 0
    kinked = model_of({"type": "relu"})
    assert max(c.error for c in check_gradients(kinked, np.full((1, 5), 3e-5), np.ones((1, 5)))) < 1e-7
