"""ONNX: a model becomes a graph with a dynamic batch dimension, the document in its metadata."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from specnet.errors import SpecnetError
from specnet.interop.onnx.graph import Graph
from specnet.interop.onnx.layer_writers import LAYER_WRITERS
from specnet.model import Model

_FILE_VERSIONS = {13: 7, 14: 7, 17: 8, 18: 8, 20: 9}


def to_onnx(model: Model) -> bytes:
    """Write a model as the bytes of an ONNX file: input "input", output "output", the first axis called "batch".

    Raises SpecnetError for a layer that ONNX has nothing for, by name, and where the onnx package is missing.
    """
    onnx = onnx_package()
    graph = _graph(model, onnx)
    made = onnx.helper.make_model(
        graph.made(),
        opset_imports=[onnx.helper.make_opsetid("", graph.operators)],
        ir_version=_FILE_VERSIONS[graph.operators],
        producer_name="specnet",
    )
    onnx.helper.set_model_props(
        made, {"specnet.model": model.spec.to_json(), "labels": json.dumps(list(model.spec.labels))}
    )
    onnx.checker.check_model(made, full_check=True)
    written: bytes = made.SerializeToString(deterministic=True)
    return written


def onnx_package() -> Any:
    """Import onnx. Raises SpecnetError where it is missing."""
    try:
        import onnx  # noqa: PLC0415 - of an extra
    except ImportError as error:
        msg = "ONNX files are read and written by onnx, which is not installed; pip install 'specnet-nn[onnx]'"
        raise SpecnetError(msg) from error
    return onnx


def graph_of(model: Model) -> Any:
    """Give the graph that `to_onnx` writes."""
    return _graph(model, onnx_package()).made()


def _graph(model: Model, onnx: Any) -> Graph:
    graph = Graph(model, onnx, LAYER_WRITERS)
    last = graph.chain(model.spec.layers, model.plan.layers, "input", "")
    graph.node("Identity", [last], output="output")
    return graph


def run_onnx(data: bytes, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Predict with an ONNX file, by ONNX Runtime where it is installed, else by onnx's own evaluator.

    Raises SpecnetError where the runtime has no operator of this type.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - of an extra
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
        msg = f"ONNX Runtime does not run it: {str(error).splitlines()[0]:.200}"
        raise SpecnetError(msg) from error
