"""What a user's typed program looks like; test_typing.py checks that type checkers find nothing in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import specnet
from specnet.fields import PositiveInteger, PositiveReal, Share
from specnet.initializers import Constant
from specnet.layers import Affine, AffineSpec, ConcatSpec, Relu, ResidualSpec, SequentialSpec
from specnet.testing import check_layer

Floats = npt.NDArray[np.floating[Any]]


class Swish(specnet.Layer):
    """y = x * sigmoid(beta * x), beta trained, one a feature."""

    def __init__(self, beta: npt.ArrayLike) -> None:
        super().__init__()
        self.parameters["beta"] = self.floats(beta)
        self.buffers["seen"] = np.zeros((), np.int64)
        self.x: Floats | None = None

    @classmethod
    def infer(
        cls, fields: Mapping[str, Any], input_shape: tuple[int, ...]
    ) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
        return {"beta": input_shape[-1:]}, input_shape

    @classmethod
    def infer_buffers(
        cls, fields: Mapping[str, Any], input_shape: tuple[int, ...]
    ) -> dict[str, tuple[tuple[int, ...], npt.DTypeLike | None]]:
        return {"seen": ((), np.int64)}

    @classmethod
    def from_document(cls, fields: Mapping[str, Any], parameters: Mapping[str, Floats]) -> Swish:
        return cls(**parameters)

    def forward(self, x: npt.ArrayLike, training: bool = False) -> Floats:
        self.x = self.floats(x)
        return self.predict(self.x)

    def backward(self, dy: npt.ArrayLike) -> Floats:
        x, beta = self.cached(self.x), self.parameters["beta"]
        dy = self.incoming(dy, x.shape, x.dtype)
        s = (1 + np.tanh(beta * x / 2)) / 2
        bend = x * s * (1 - s)
        np.sum(dy * x * bend, axis=0, out=self.gradient("beta"))
        result: Floats = dy * (s + beta * bend)
        return result

    def predict(self, x: npt.ArrayLike) -> Floats:
        x = self.floats(x)
        result: Floats = x * (1 + np.tanh(self.parameters["beta"] * x / 2)) / 2
        return result


@specnet.register_layer("typed_swish")
class SwishSpec(specnet.LayerSpec):
    """Swish."""

    layer = Swish
    is_activation = True
    beta: PositiveReal = 1.0
    share: Share = 0.5
    groups: PositiveInteger = 1

    def parameters(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, specnet.ParameterSpec]:
        return {"beta": specnet.ParameterSpec(Constant(value=self.beta), decay=False)}


def main() -> None:
    spec = specnet.ModelSpec(input_shape=(64,), layers=[{"type": "affine", "units": 10}, SwishSpec(beta=2.0)])
    block = ResidualSpec(layers=[AffineSpec(units=4), {"type": "relu"}], name="block")
    print(SequentialSpec(layers=[block]), ConcatSpec(branches=[[], [block]]).branches[1][0].name)
    other = specnet.ModelSpec(name="m", dtype="float64", seed=1, input_shape=[4], layers=[{"type": "relu"}])
    model: specnet.Model = specnet.build(spec, seed=7)
    y = model.forward(np.zeros((5, 64)), training=True)
    dx = model.backward(np.ones_like(y))
    assert dx is not None
    print(dx.shape, model.parameters["affine_1.weight"].mean(), other.identity)
    history = specnet.fit(model, np.zeros((8, 64)), np.zeros(8, int), loss="softmax_cross_entropy", epochs=1)
    print(history["loss"][-1])
    specnet.save("m.h5", model)
    print(specnet.load("m.h5", mmap=True).predict(np.zeros((1, 64))).shape)
    affine, relu = Affine([[1, 3, 5], [2, 4, 6]], [1, 2, 3]), Relu()
    print(relu.forward(affine.forward([[1, 2]])), affine.weight_grad)
    check_layer({"type": "typed_swish"}, input_shape=(5,))
    try:
        specnet.train("experiment.json", overrides={"training.epochs": "3"}, resume=True)
    except specnet.SpecError as error:
        for problem in error.problems:
            print(problem.path, problem.line)


if __name__ == "__main__":
    main()
