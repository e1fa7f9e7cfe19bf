"""The commands predict and generate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specnet.cli.options import Json, Mpi, column_names
from specnet.cli.output import metrics_text, note, print_json, print_table, say
from specnet.cli.processes import joined
from specnet.errors import DataError
from specnet.files.paths import is_same_file

if TYPE_CHECKING:
    from specnet.prediction.predict import Prediction
    from specnet.prediction.streaming import StreamedPrediction

SHOWN_ROWS = 10


def predict(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="A data file: .npz, .npy, .csv, .parquet, .h5, .txt, IDX; or images.")
    ],
    inputs: Annotated[
        str | None, typer.Option("--inputs", help='Name of the input array (default "x"), or columns, a,b,c.')
    ] = None,
    targets: Annotated[
        str | None, typer.Option("--targets", help="Name of the target array or columns; prints metrics.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Write to a .csv, .npy, .npz or .h5 file.")] = None,
    logits: Annotated[bool, typer.Option("--logits", help="Predict raw outputs instead of probabilities.")] = False,
    json: Json = False,
    mpi: Mpi = None,
) -> None:
    """Predict for the rows of a data file: probabilities and classes for a classifier, outputs for other models.

    Example: specnet predict runs/digits/best.h5 --data digits.npz --targets y --out predictions.csv

    From .npy or .h5 to .npy or .h5, files of any size are streamed; under an MPI launcher the processes share the rows.
    """
    from specnet.checkpoint import load
    from specnet.data.raw import TABLES, kind_of
    from specnet.prediction.predict import predict_file
    from specnet.prediction.streaming import can_stream, predict_stream, takes_stream
    from specnet.prediction.writers import write_prediction

    with joined(mpi, "stopped; no predictions were written") as (world, _):
        world.collectively(lambda: _reject_overwriting(checkpoint, data, out))
        if out is not None and targets is None and can_stream(data, out, alone=world.size == 1):
            model = world.collectively(lambda: load(checkpoint))
            if takes_stream(model):
                streamed = predict_stream(model, data, out, inputs, logits=logits, world=world)
                if world.rank == 0:
                    _show_streamed(streamed, data, out, json=json)
                return
        if world.size > 1:
            msg = (
                "under MPI, predict needs a .npy or .h5 file for both --data and --out, and no --targets; "
                "the model must not be trained on windows or rows of differing length"
            )
            raise world.mark_collective(DataError(msg))
    model = load(checkpoint)
    is_table = kind_of(Path(data)) in TABLES
    input_names, target_names = (column_names(names) if is_table else names for names in (inputs, targets))
    prediction = predict_file(model, data, input_names, target_names, logits=logits)
    for text in prediction.notes:
        note(f"{data}: {text}")
    if out is not None:
        write_prediction(prediction, out)
        note(f"{out}: {len(prediction.outputs)} rows")
    if json:
        result = {"rows": len(prediction.outputs), "metrics": prediction.metrics}
        print_json(result if out is not None else {**result, "predictions": _rows(prediction)})
        return
    if out is None:
        _show(prediction)
    if prediction.metrics:
        say(metrics_text(prediction.metrics))


def generate(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint of a model trained on a .txt file.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text with which every line begins.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Below 1: likelier tokens; 0: always the most likely one.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Draw only among this number of the most likely tokens.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Number of lines.")] = 1,
    json: Json = False,
) -> None:
    """Write lines of text: the model predicts token after token.

    Example: specnet generate runs/names/best.h5 --prompt Ma --seed 1 --temperature 0.8 --lines 10
    """
    from specnet.checkpoint import load
    from specnet.prediction.generate import generate as generate_lines

    written = generate_lines(load(checkpoint), prompt, seed=seed, temperature=temperature, top_k=top_k, lines=lines)
    if json:
        print_json({"lines": list(written)})
        return
    for line in written:
        say(line)


def _reject_overwriting(checkpoint: str, data: str, out: str | None) -> None:
    for kind, source in (("checkpoint", checkpoint), ("data", data)):
        if out is not None and is_same_file(out, source):
            msg = f"{out}: is the {kind} itself; write the predictions to another file"
            raise DataError(msg)


def _show_streamed(streamed: StreamedPrediction, data: str, out: str, *, json: bool) -> None:
    for text in streamed.notes:
        note(f"{data}: {text}")
    note(f"{out}: {streamed.rows} rows")
    if json:
        print_json({"rows": streamed.rows, "metrics": {}})


def _rows(prediction: Prediction) -> list[dict[str, object]]:
    """Return the outputs and the class of every row for JSON."""
    classes = [None] * len(prediction.outputs) if prediction.classes is None else prediction.classes.tolist()
    rows = zip(prediction.outputs.tolist(), classes, strict=True)
    return [{"outputs": outputs} | ({} if label is None else {"class": label}) for outputs, label in rows]


def _show(prediction: Prediction) -> None:
    rows = []
    for index, outputs in enumerate(prediction.outputs[:SHOWN_ROWS].reshape(-1, len(prediction.names))):
        cells = [str(index), *(f"{value:.4g}" for value in outputs)]
        rows.append([*cells, *([str(prediction.classes[index])] if prediction.classes is not None else [])])
    columns = ["row", *prediction.names, *(["class"] if prediction.classes is not None else [])]
    print_table(columns, rows, numbers=range(len(prediction.names) + 1))
    if len(prediction.outputs) > SHOWN_ROWS:
        say(f"… {len(prediction.outputs) - SHOWN_ROWS} more rows; --out FILE writes all rows")
