"""Export to ONNX: a graph with a dynamic batch axis, and the model document in the metadata."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.interop.onnx.graph import LARGEST, Graph
from specnet.interop.onnx.layer_writers import LAYER_WRITERS
from specnet.model import Model

_FILE_VERSIONS = {13: 7, 14: 7, 17: 8, 18: 8, 20: 9}


def to_onnx(model: Model) -> bytes:
    """Return an ONNX file of a model; its input is "input", its output "output", their first axis "batch".

    Raises SpecnetError for a layer that ONNX cannot express, by name, and if the package onnx is not installed.
    """
    onnx = onnx_package()
    graph = _build_graph(model, onnx)
    model_proto = onnx.helper.make_model(
        graph.made(),
        opset_imports=[onnx.helper.make_opsetid("", graph.operators)],
        ir_version=_FILE_VERSIONS[graph.operators],
        producer_name="specnet",
    )
    onnx.helper.set_model_props(
        model_proto, {"specnet.model": model.spec.to_json(), "labels": json.dumps(list(model.spec.labels))}
    )
    onnx.checker.check_model(model_proto, full_check=True)
    data: bytes = model_proto.SerializeToString(deterministic=True)
    return data


def onnx_package() -> Any:
    """Import and return onnx. Raises SpecnetError if it is not installed."""
    try:
        import onnx  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        msg = "ONNX files need the package onnx, which is not installed; pip install 'specnet-nn[onnx]'"
        raise SpecnetError(msg) from error
    return onnx


def graph_of(model: Model, most: tuple[int, int]) -> Any:
    """Return the graph that `to_onnx` writes. Raises SpecnetError for more nodes, or bytes in arrays, than `most`."""
    return _build_graph(model, onnx_package(), most).made()


def _build_graph(model: Model, onnx: Any, most: tuple[int, int] = LARGEST) -> Graph:
    graph = Graph(model, onnx, LAYER_WRITERS, most)
    last = graph.chain(model.spec.layers, model.plan.layers, "input", "")
    graph.node("Identity", [graph.channels_last(last, len(model.output_shape) + 1)], output="output")
    return graph


def run_onnx(data: bytes, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the predictions of an ONNX file, with ONNX Runtime if it is installed, else with onnx's evaluator.

    Raises SpecnetError if ONNX Runtime cannot run the file, for example because it lacks an operator for the dtype.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - an optional dependency
    except ImportError:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

        results: Any = ReferenceEvaluator(data).run(None, {"input": x})
        return np.asarray(results[0])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"input": x})[0])
    except Exception as error:
        msg = f"ONNX Runtime cannot run it: {str(error).splitlines()[0]:.200}"
        raise SpecnetError(msg) from error
