"""train, replay."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

from specnet.cli.options import Json, Mpi
from specnet.cli.output import is_shown, metrics_text, note, print_json, print_table
from specnet.cli.processes import Ending, Stop, joined
from specnet.errors import SpecnetError

if TYPE_CHECKING:
    from specnet.checkpoint.transfer import Transfer
    from specnet.training.loop import Listener
    from specnet.training.runs.train import TrainingResult


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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Check all, try one batch, tell what is needed; write nothing.")
    ] = False,
    check_finite: Annotated[
        bool, typer.Option("--check-finite", help="Look at every array of every layer in each step.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print each event as a line of JSON, for programs.")
    ] = False,
    json: Json = False,
    mpi: Mpi = None,
) -> None:
    """Train as an experiment document says; writes experiment.json, last.h5, best.h5 and history.csv.

    Example: specnet train digits.experiment.json --out runs/digits

    Under an MPI launcher all processes share the run: mpiexec -n 4 specnet train digits.experiment.json
    """
    from specnet.training.runs.train import train as run_training

    if resume and force:
        msg = "--resume goes on with a run, --force overwrites it; choose one"
        raise typer.BadParameter(msg)
    overrides = _overrides(set_ or [])
    with joined(mpi) as (world, ending):
        if dry_run:
            if world.rank == 0:
                _show_dry_run(experiment, overrides, json=json)
            return
        listeners = [] if world.rank else _progress(quiet=quiet, json_lines=json_lines)
        with _told_as_json(json_lines and world.rank == 0), _stops_on_signals(ending) as stop:
            result = run_training(
                experiment,
                out=out,
                resume=resume,
                force=force,
                allow_changes=allow_changes,
                overrides=overrides,
                listeners=[*listeners, stop],
                check_finite=check_finite,
                world=world,
            )
            stopped_by = max(world.gather(stop.signal))
    if world.rank:
        return
    if result.transfer is not None:
        note(_taken_over(result.transfer))
    for change in result.changes:
        note(f"changed since the run began: {change}")
    if stopped_by and not result.finished:
        options = [*(["--out", out] if out else []), *(["--allow-changes"] if allow_changes else [])]
        again = _again([experiment, *options], set_ or [])
        note(f"stopped after a whole step; {result.checkpoint_path} is written. Go on with: {again}")
        raise typer.Exit(128 + stopped_by)
    if resume and not stop.steps:
        way = "training.early_stopping.patience" if result.stopped_early else "training.epochs"
        note(f"{result.checkpoint_path}: the run was finished already; --set {way}=N makes it longer")
    _show_result(result, json=json, json_lines=json_lines)


def _progress(*, quiet: bool, json_lines: bool) -> list[Listener]:
    from specnet.cli.progress import BarProgress, JsonProgress, LineProgress

    if json_lines:
        return [JsonProgress()]
    if quiet:
        return []
    return [BarProgress() if sys.stderr.isatty() else LineProgress()]


def _again(arguments: list[str], settings: list[str]) -> str:
    """Give the command that goes on with a run."""
    set_again = [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["specnet", "train", *arguments, *set_again, "--resume"])


def _taken_over(transfer: Transfer) -> str:
    """Say what a run took over from another checkpoint, and what not."""
    left = {**transfer.skipped, **dict.fromkeys(transfer.missing, "is not in the file")}
    told = "".join(f"; {name} {why}" for name, why in list(left.items())[:8])
    return f"taken over: {', '.join(transfer.taken[:8])}{', …' if len(transfer.taken) > 8 else ''}{told}"


def _show_result(result: TrainingResult, *, json: bool, json_lines: bool) -> None:
    """Tell what a finished run has come to."""
    last = {name: values[-1] for name, values in result.history.items()}
    best = str(result.best_path) if result.best_path else None
    files = {"checkpoint": str(result.checkpoint_path), "best": best, "stopped_early": result.stopped_early}
    if json_lines:
        print(dumps({"event": "result", **files}))
        return
    if json:
        print_json({"metrics": last, **files})
        return
    if sys.stdout.isatty():
        _table(result.history)
    else:
        typer.echo(f"epoch {int(last['epoch'])} · {metrics_text({k: v for k, v in last.items() if k != 'epoch'})}")
    if result.stopped_early:
        typer.echo(f"stopped after epoch {int(last['epoch'])}, as it did not get better any more")
    typer.echo(f"{result.checkpoint_path} holds the model after the last epoch")
    if result.best_path:
        typer.echo(f"{result.best_path} holds the best one")


def _table(history: dict[str, list[float]]) -> None:
    """Print the last and the best value of each metric."""
    from specnet.training.metrics import greater_is_better

    rows = []
    for name, values in history.items():
        if name == "epoch" or not is_shown(name):
            continue
        best = (max if greater_is_better(name) else min)(values)
        rows.append([name, f"{values[-1]:.4g}", f"{best:.4g}", str(int(history["epoch"][values.index(best)]))])
    print_table(["Metric", "Last", "Best", "Epoch"], rows, numbers=[1, 2, 3])


def _show_dry_run(experiment: str, overrides: dict[str, str], *, json: bool) -> None:
    """Print what a run would be."""
    from specnet.training.runs.dry_run import dry_run

    found = dry_run(experiment, overrides)
    if json:
        print_json(dataclasses.asdict(found))
        return
    held_out = f", {found.validation_rows:,} to validate on" if found.validation_rows else ""
    typer.echo(f"{found.rows:,} rows to train on{held_out}")
    steps = found.steps_per_epoch * found.epochs
    typer.echo(f"{found.steps_per_epoch:,} steps an epoch, {found.epochs:,} epochs: {steps:,} steps")
    moving = "" if found.trained == found.parameters else f", of which {found.trained:,} move"
    typer.echo(f"{found.parameters:,} parameters{moving}; the loss of the first batch is {found.first_loss:.4g}")
    if found.taken_over:
        typer.echo(f"{len(found.taken_over)} arrays are taken over: {', '.join(found.taken_over[:8])}")
    parts = ", ".join(f"{what} {size / 2**20:,.1f}" for what, size in found.memory.items())
    typer.echo(f"{sum(found.memory.values()) / 2**20:,.1f} MiB of memory beside Python's own: {parts}")


def _overrides(settings: list[str]) -> dict[str, str]:
    pairs = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            msg = f"--set {setting}: expected PATH=VALUE, training.epochs=3 say"
            raise typer.BadParameter(msg)
        pairs[path.strip()] = value.strip()
    return pairs


@contextmanager
def _told_as_json(wanted: bool) -> Iterator[None]:
    """Tell programs too why a run failed, or did not begin."""
    try:
        yield
    except SpecnetError as error:
        if wanted:
            print(dumps({"event": "error", "message": str(error)}), flush=True)
        raise


@contextmanager
def _stops_on_signals(ending: Ending | None) -> Iterator[Stop]:
    """Let SIGINT and SIGTERM finish the step; a second one leaves at once, the last checkpoint being whole.

    Processes that share a run have an `ending`: they agree on the step, and are ended where that takes too long.
    """
    stop = Stop()

    def handle(number: int, _frame: object) -> None:
        if stop.signal and ending is None:
            sys.exit(128 + number)
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with nullcontext() if ending is None else ending.patient(stop.is_ending):
            yield stop
    finally:
        if ending is None:
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
    from specnet.training.runs.replay import replay as repeat

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
