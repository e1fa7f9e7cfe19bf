"""Inspect models: the data classes that the commands inspect, diff, trace, report and summary print.

Imports everything up to `interop`.
"""

from __future__ import annotations

from specnet.inspection.classification import Classified, Sample, classify
from specnet.inspection.compare import ArrayChange, Comparison, compare
from specnet.inspection.diagram import draw, mermaid, save_diagram
from specnet.inspection.explain import explain
from specnet.inspection.inspect import CheckpointReport, ParameterReport, inspect
from specnet.inspection.report import RunReport, read_run, report
from specnet.inspection.statistics import ArrayStatistics, Histogram, array_statistics, histogram
from specnet.inspection.trace import LayerTrace, Trace, save_trace, trace
from specnet.inspection.vision import saliency

__all__ = [
    "ArrayChange",
    "ArrayStatistics",
    "CheckpointReport",
    "Classified",
    "Comparison",
    "Histogram",
    "LayerTrace",
    "ParameterReport",
    "RunReport",
    "Sample",
    "Trace",
    "array_statistics",
    "classify",
    "compare",
    "draw",
    "explain",
    "histogram",
    "inspect",
    "mermaid",
    "read_run",
    "report",
    "saliency",
    "save_diagram",
    "save_trace",
    "trace",
]
