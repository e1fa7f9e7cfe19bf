"""Check the layer with specnet's conformance test."""

import pytest

from specnet.testing import check_layer


@pytest.mark.parametrize("input_shape", [(1,), (5,), (2, 3)])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_swish(input_shape, beta):
    check_layer({"type": "example_swish", "beta": beta}, input_shape)
