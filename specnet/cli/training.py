"""train, replay, predict."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from specnet.checkpoint import load
from specnet.cli.documents import Json
from specnet.cli.output import BarProgress, LineProgress, metrics_text, note, print_json, print_table
from specnet.training.loop import Event, Listener
from specnet.training.prediction import Prediction, predict_file, write_prediction
from specnet.training.runs import train as run_training

SHOWN_ROWS = 10


def train(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment document.")],
    out: Annotated[str | None, typer.Option("--out", "-o", help="The run's folder. [default: runs/<name>]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is there.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the run that is there.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Resume although document or data have changed.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a value, training.epochs=3 say.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
    json: Json = False,
) -> None:
    """Train as an experiment document says; writes experiment.json, last.h5 and best.h5.

    Example: specnet train digits.experiment.json --out runs/digits
    """
    if resume and force:
        msg = "--resume goes on with a run, --force overwrites it; choose one"
        raise typer.BadParameter(msg)
    listeners: list[Listener] = []
    if not quiet:
        listeners.append(BarProgress() if sys.stderr.isatty() else LineProgress())
    with _stops_on_signals() as stop:
        listeners.append(stop)
        result = run_training(
            experiment,
            out=out,
            resume=resume,
            force=force,
            allow_changes=allow_changes,
            overrides=_overrides(set_ or []),
            listeners=listeners,
        )
    for change in result.changes:
        note(f"changed since the run began: {change}")
    if stop.signal:
        options = [
            *(["--out", out] if out else []),
            *(["--allow-changes"] if allow_changes else []),
            *(word for setting in set_ or [] for word in ("--set", setting)),
        ]
        again = shlex.join(["specnet", "train", experiment, *options, "--resume"])
        note(f"stopped after a whole step; {result.checkpoint_path} is written. Go on with: {again}")
        raise typer.Exit(128 + stop.signal)
    if resume and not stop.steps:
        note(f"{result.checkpoint_path}: the run was finished already; --set training.epochs=N makes it longer")
    last = {name: values[-1] for name, values in result.history.items()}
    if json:
        best = str(result.best_path) if result.best_path else None
        print_json({"metrics": last, "checkpoint": str(result.checkpoint_path), "best": best})
        return
    typer.echo(f"epoch {int(last.pop('epoch'))} · {metrics_text(last)}")
    typer.echo(f"{result.checkpoint_path} holds the model after the last epoch")
    if result.best_path:
        typer.echo(f"{result.best_path} holds the best one")


def _overrides(settings: list[str]) -> dict[str, str]:
    pairs = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            msg = f"--set {setting}: expected PATH=VALUE, training.epochs=3 say"
            raise typer.BadParameter(msg)
        pairs[path.strip()] = value.strip()
    return pairs


class _Stop:
    """A listener that counts steps, and ends the run after the one during which a signal came."""

    signal = 0
    steps = 0

    def __call__(self, event: Event) -> None:
        self.steps += event.kind == "step"
        if self.signal:
            event.run.stop()


@contextmanager
def _stops_on_signals() -> Iterator[_Stop]:
    """Let SIGINT and SIGTERM finish the step; a second one leaves at once, the last checkpoint being whole."""
    stop = _Stop()

    def handle(number: int, _frame: object) -> None:
        if stop.signal:
            sys.exit(128 + number)
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def replay(
    begin: Annotated[str, typer.Argument(metavar="A", help="A checkpoint of a run.")],
    end: Annotated[str, typer.Argument(metavar="B", help="A later one of the same run.")],
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="The document. [default: experiment.json beside A]")
    ] = None,
    json: Json = False,
) -> None:
    """Prove that a run can be repeated: train from A to B's step and compare every bit. Writes nothing.

    Exits with 0 where all is the same, 1 where not, 2 where machine or library differ from those that made B.

    Example: specnet replay runs/digits/best.h5 runs/digits/last.h5
    """
    from specnet.training.replay import replay as repeat  # noqa: PLC0415 - needed here only

    found = repeat(begin, end, experiment)
    if json:
        print_json({**dataclasses.asdict(found), "same": found.same})
    else:
        steps = (
            f"steps {found.first_step + 1} to {found.last_step}" if found.last_step > found.first_step else "no step"
        )
        told = f"{len(found.different)} differ" if found.different else "all are the same, bit for bit"
        typer.echo(f"{steps} trained again, {len(found.compared)} arrays compared: {told}")
        for name in found.different:
            typer.echo(f"  {name}")
    for difference in found.machine:
        note(f"not comparable: {difference}")
    if found.different:
        raise typer.Exit(2 if found.machine else 1)


def predict(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    data: Annotated[str, typer.Option("--data", "-d", help="A data file: .npz, .npy, .csv, .h5 or IDX.")],
    inputs: Annotated[
        str | None, typer.Option("--inputs", help='Name of the inputs\' array (default "x") or columns, a,b,c.')
    ] = None,
    targets: Annotated[str | None, typer.Option("--targets", help="Name of the targets; prints metrics.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Write to a .csv, .npy, .npz or .h5 file.")] = None,
    logits: Annotated[bool, typer.Option("--logits", help="Raw outputs instead of probabilities.")] = False,
    json: Json = False,
) -> None:
    """Predict for the rows of a data file: probabilities and class for a classifier, outputs for others.

    Example: specnet predict runs/digits/best.h5 --data digits.npz --targets y --out predictions.csv
    """
    model = load(checkpoint)
    columns = tuple(inputs.split(",")) if inputs and Path(data).suffix.lower() == ".csv" else inputs
    prediction = predict_file(model, data, columns, targets, logits=logits)
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
