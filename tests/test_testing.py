"""The conformance kit finds what it is there to find."""

import numpy as np
import pytest

import specnet
from specnet.spec import registry
from specnet.testing import check_gradients, check_layer, numerical_gradient, relative_error, sample_inputs
from tests.support import model_of


class Square(specnet.Layer):
    """y = x^2 * gain: a right layer, of which the tests make wrong ones."""

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
    """Check a layer class as the registered type "square"."""

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


def test_a_right_layer_passes(check):
    check(Square)


class WrongGradient(Square):
    def backward(self, dy):
        return 1.01 * super().backward(dy)


class WrongParameterGradient(Square):
    def backward(self, dy):
        dx = super().backward(dy)
        self.gradient("gain")[0] += 1e-3
        return dx


class AddsUp(Square):
    def backward(self, dy):
        before = self.gradient("gain").copy()
        dx = super().backward(dy)
        self.gradient("gain")[...] += before
        return dx


class OtherShape(Square):
    def forward(self, x, training=False):
        return super().forward(x)[..., np.newaxis]


class OtherDtype(Square):
    def predict(self, x):
        return super().predict(x).astype(np.float64)


class WritesIntoInput(Square):
    def forward(self, x, training=False):
        y = super().forward(x)
        self.x[:1] = 5
        return y


class GivesView(Square):
    def forward(self, x, training=False):
        super().forward(x)
        return self.x

    def predict(self, x):
        return self.floats(x)

    def backward(self, dy):
        super().backward(dy)
        return np.array(dy)


class GivesItsCache(Square):
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
        kept = self.keep("y", y.shape, y.dtype)
        kept[...] = y
        return kept


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


class Random(Square):
    def forward(self, x, training=False):
        y = super().forward(x)
        return y + np.random.default_rng().normal() if training else y


class ForgetsOrder(Square):
    def backward(self, dy):
        if self.x is None:
            return self.floats(dy)
        return super().backward(dy)


class TakesAnyGradient(Square):
    def backward(self, dy):
        if np.shape(dy) != self.cached(self.x).shape:
            return self.floats(dy)
        return super().backward(dy)


class IgnoresOut(Square):
    def predict(self, x, out=None):
        y = super().predict(x)
        return y if out is None else y * 2


class LooksAtTheBatch(Square):
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
        (AddsUp, "gradient of square_1.gain"),
        (OtherShape, "forward gives shape"),
        (OtherDtype, "float64"),
        (WritesIntoInput, "writes into its input"),
        (GivesView, "view of its input"),
        (GivesItsCache, "writing into a result changes a later one"),
        (ReusesOutput, "later call changes an earlier result of forward"),
        (PredictCaches, "predict writes on the layer"),
        (PredictWrites, r"predict writes on the layer.*\['last'\]"),
        (RebindsABuffer, "rebinds its buffer count"),
        (PredictDiffers, "predict differs from forward"),
        (Random, "one seed differ in their outputs"),
        (ForgetsOrder, "backward before forward is not refused"),
        (TakesAnyGradient, "another shape is not a ShapeError"),
        (IgnoresOut, "something else with `out`"),
        (LooksAtTheBatch, "depends on the other rows"),
    ],
)
def test_a_wrong_layer_is_found(check, layer, words):
    with pytest.raises(AssertionError, match=rf"check_layer\(square, \(3,\), float\d\d\): .*{words}"):
        check(layer)


class Forgets(Square):
    def __init__(self, gain):
        super().__init__(gain)
        self.parameters.clear()


class Copies(Square):
    def __init__(self, gain):
        super().__init__(gain.copy())


class Undeclared(Square):
    def __init__(self, gain):
        super().__init__(gain)
        self.buffers["count"] = np.zeros(())


class Unset(Square):
    @classmethod
    def infer_buffers(cls, _fields, _input_shape):
        return {"count": ((), np.int64)}


class OtherArguments(Square):
    def __init__(self, gain, more):
        super().__init__(gain)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Forgets, r"document announces the parameters \['gain'\], its constructor sets self.parameters \[\]"),
        (Copies, "has to keep the array that it is given for gain, not a copy"),
        (Undeclared, r"announces the buffers \[\], its constructor sets self.buffers \['count'\]"),
        (Unset, r"announces the buffers \['count'\], its constructor sets self.buffers \[\]"),
        (OtherArguments, r"from_document cannot make the layer .*missing 1 required"),
    ],
)
def test_mistakes_of_a_layers_author_are_told(check, layer, words):
    with pytest.raises(specnet.SpecnetError, match=words):
        check(layer)


def test_mistakes_in_what_a_document_announces_are_told():
    with pytest.raises(specnet.SpecnetError, match=r'unknown initializer .*did you mean "ones"'):
        specnet.ParameterSpec("one")
    with pytest.raises(specnet.SpecnetError, match="two positive integers"):
        specnet.ParameterSpec("ones", fans=(0, 3))
    for wrong in ("Bad Name!", "", 1, Square):
        with pytest.raises(specnet.SpecnetError, match="expected a type name"):
            specnet.register_layer(wrong)
    with pytest.raises(specnet.SpecnetError, match="names no layer class"):
        specnet.register_layer("nothing")(type("NothingSpec", (specnet.LayerSpec,), {}))


def test_what_is_no_layer_is_told():
    with pytest.raises(specnet.SpecError, match="unknown layer type"):
        check_layer({"type": "relo"}, (3,))


def test_a_numerical_gradient():
    x = np.array([[1.0, -2.0], [0.5, 3.0]])
    assert np.allclose(numerical_gradient(lambda: float(np.sum(x**3)), x), 3 * x**2, rtol=1e-9)
    assert x.tolist() == [[1.0, -2.0], [0.5, 3.0]]
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


def test_a_kink_is_no_wrong_gradient_and_the_model_stays_as_it_was():
    model = model_of({"type": "batch_norm"}, {"type": "relu"}, {"type": "dropout"}, {"type": "affine", "units": 2})
    x = sample_inputs(model, 6)
    before = {name: array.copy() for name, array in {**model.parameters, **model.buffers}.items()}
    dy = np.ones((6, 2))
    found = check_gradients(model, x, dy, training=True)
    assert [(check.name, check.checked) for check in found] == [
        ("input", 30),
        ("batch_norm_1.scale", 5),
        ("batch_norm_1.shift", 5),
        ("affine_1.weight", 10),
        ("affine_1.bias", 2),
    ]
    assert max(check.error for check in found) < 1e-7
    assert all(np.array_equal(array, before[name]) for name, array in {**model.parameters, **model.buffers}.items())
    assert model.draws.step == 0
    kinked = model_of({"type": "relu"})
    assert max(c.error for c in check_gradients(kinked, np.full((1, 5), 3e-5), np.ones((1, 5)))) < 1e-7
