"""predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specnet.cli.options import Json, Mpi, column_names
from specnet.cli.output import metrics_text, note, print_json, print_table
from specnet.cli.processes import joined
from specnet.errors import DataError
from specnet.files.paths import is_same_file

if TYPE_CHECKING:
    from specnet.prediction.predict import Prediction
    from specnet.prediction.streaming import StreamedPrediction

SHOWN_ROWS = 10


def predict(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    data: Annotated[str, typer.Option("--data", "-d", help="A data file: .npz, .npy, .csv, .parquet, .h5 or IDX.")],
    inputs: Annotated[
        str | None, typer.Option("--inputs", help='Name of the inputs\' array (default "x") or columns, a,b,c.')
    ] = None,
    targets: Annotated[
        str | None, typer.Option("--targets", help="Name of the targets' array or columns; prints metrics.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Write to a .csv, .npy, .npz or .h5 file.")] = None,
    logits: Annotated[bool, typer.Option("--logits", help="Raw outputs instead of probabilities.")] = False,
    json: Json = False,
    mpi: Mpi = None,
) -> None:
    """Predict for the rows of a data file: probabilities and class for a classifier, outputs for others.

    Example: specnet predict runs/digits/best.h5 --data digits.npz --targets y --out predictions.csv

    Rows of .npy and .h5 files go into .npy and .h5 files of any size; under an MPI launcher all processes share them.
    """
    from specnet.checkpoint import load
    from specnet.data.raw import TABLES, kind_of
    from specnet.prediction.predict import predict_file
    from specnet.prediction.streaming import can_stream, predict_stream
    from specnet.prediction.writers import write_prediction

    with joined(mpi, "stopped; no predictions are written") as (world, _):
        world.collectively(lambda: _keep_apart(checkpoint, data, out))
        if out is not None and targets is None and can_stream(data, out, alone=world.size == 1):
            model = world.collectively(lambda: load(checkpoint))
            streamed = predict_stream(model, data, out, inputs, logits=logits, world=world)
            if world.rank == 0:
                _show_streamed(streamed, data, out, json=json)
            return
        if world.size > 1:
            msg = "under MPI, predict reads a .npy or .h5 file and writes one (--out), without --targets"
            raise world.mark_collective(DataError(msg))
    model = load(checkpoint)
    table = kind_of(Path(data)) in TABLES
    columns, wanted = (column_names(names) if table else names for names in (inputs, targets))
    prediction = predict_file(model, data, columns, wanted, logits=logits)
    for told in prediction.notes:
        note(f"{data}: {told}")
    if out is not None:
        write_prediction(prediction, out)
        note(f"{out}: {len(prediction.outputs)} rows")
    if json:
        said = {"rows": len(prediction.outputs), "metrics": prediction.metrics}
        print_json(said if out is not None else {**said, "predictions": _rows(prediction)})
        return
    if out is None:
        _show(prediction)
    if prediction.metrics:
        typer.echo(metrics_text(prediction.metrics))


def _keep_apart(checkpoint: str, data: str, out: str | None) -> None:
    for what, source in (("checkpoint", checkpoint), ("data", data)):
        if out is not None and is_same_file(out, source):
            msg = f"{out}: is the {what} itself; write the predictions to another file"
            raise DataError(msg)


def _show_streamed(streamed: StreamedPrediction, data: str, out: str, *, json: bool) -> None:
    for told in streamed.notes:
        note(f"{data}: {told}")
    note(f"{out}: {streamed.rows} rows")
    if json:
        print_json({"rows": streamed.rows, "metrics": {}})


def _rows(prediction: Prediction) -> list[dict[str, object]]:
    """List outputs and class of every row, for programs."""
    classes = [None] * len(prediction.outputs) if prediction.classes is None else prediction.classes.tolist()
    rows = zip(prediction.outputs.tolist(), classes, strict=True)
    return [{"outputs": outputs} | ({} if kind is None else {"class": kind}) for outputs, kind in rows]


def _show(prediction: Prediction) -> None:
    rows = []
    for index, outputs in enumerate(prediction.outputs[:SHOWN_ROWS].reshape(-1, len(prediction.names))):
        cells = [str(index), *(f"{value:.4g}" for value in outputs)]
        rows.append([*cells, *([str(prediction.classes[index])] if prediction.classes is not None else [])])
    columns = ["row", *prediction.names, *(["class"] if prediction.classes is not None else [])]
    print_table(columns, rows, numbers=range(len(prediction.names) + 1))
    if len(prediction.outputs) > SHOWN_ROWS:
        typer.echo(f"… {len(prediction.outputs) - SHOWN_ROWS} more rows; --out FILE writes all")
