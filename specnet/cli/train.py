"""The commands train and replay."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

from specnet.cli.options import Json, Mpi
from specnet.cli.output import is_shown, metrics_text, note, print_json, print_table, say
from specnet.cli.processes import Ending, Stop, ending_signals, joined
from specnet.errors import SpecnetError

if TYPE_CHECKING:
    from specnet.checkpoint.transfer import Transfer
    from specnet.training.loop import Listener
    from specnet.training.runs.train import TrainingResult


def train(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment document.")],
    out: Annotated[str | None, typer.Option("--out", "-o", help="The run's folder. [default: runs/<name>]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the existing run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the existing run.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Resume although the document or the data changed.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a value, e.g. training.epochs=3.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Check all, try one batch, report sizes and memory; write nothing.")
    ] = False,
    check_finite: Annotated[
        bool, typer.Option("--check-finite", help="Check every array of every layer for NaN and infinity in each step.")
    ] = False,
    checkpoint_signal: Annotated[
        str | None,
        typer.Option("--checkpoint-signal", metavar="NAME", help="Write last.h5 on this signal and go on, e.g. USR1."),
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print each event as a line of JSON for programs.")
    ] = False,
    json: Json = False,
    mpi: Mpi = None,
) -> None:
    """Train as an experiment document describes; write experiment.json, last.h5, best.h5 and history.csv.

    Example: specnet train digits.experiment.json --out runs/digits

    Under an MPI launcher all processes share the run: mpiexec -n 4 specnet train digits.experiment.json
    """
    from specnet.data.raw import ignore
    from specnet.training.runs.train import train as run_training

    if resume and force:
        msg = "--resume continues a run, --force overwrites it; choose one"
        raise typer.BadParameter(msg)
    overrides, saving = _parse_overrides(set_ or []), _signal_number(checkpoint_signal)
    with joined(mpi) as (world, ending):
        if dry_run:
            if world.rank == 0:
                _show_dry_run(experiment, overrides, json=json)
            return
        listeners = [] if world.rank else _progress(quiet=quiet, json_lines=json_lines)
        signals = _stop_on_signals(ending, saving)
        with _errors_as_json(json_lines and world.rank == 0), signals as stop:
            result = run_training(
                experiment,
                out=out,
                resume=resume,
                force=force,
                allow_changes=allow_changes,
                overrides=overrides,
                listeners=[*listeners, stop],
                check_finite=check_finite,
                note=ignore if world.rank else note,
                world=world,
            )
            stopped_by = max(world.gather(stop.signal))
    if world.rank:
        return
    if result.transfer is not None:
        note(_transfer_text(result.transfer))
    for change in result.changes:
        note(f"changed since the run started: {change}")
    if stopped_by and not result.finished:
        options = {"--out": out, "--checkpoint-signal": checkpoint_signal}
        flags = {"--allow-changes": allow_changes, "--check-finite": check_finite}
        command = _resume_command(experiment, options, flags, set_ or [])
        note(f"stopped after a complete step; {result.checkpoint_path} is written. Resume with: {command}")
        raise typer.Exit(128 + stopped_by)
    if resume and not stop.steps:
        setting = "training.early_stopping.patience" if result.stopped_early else "training.epochs"
        note(f"{result.checkpoint_path}: the run is finished already; extend it with --set {setting}=N")
    _show_result(result, json=json, json_lines=json_lines)


def _progress(*, quiet: bool, json_lines: bool) -> list[Listener]:
    from specnet.cli.progress import BarProgress, JsonProgress, LineProgress

    if json_lines:
        return [JsonProgress()]
    if quiet:
        return []
    return [BarProgress() if sys.stderr.isatty() else LineProgress()]


def _resume_command(
    experiment: str, options: dict[str, str | None], flags: dict[str, bool], settings: list[str]
) -> str:
    """Return the command that resumes a run, with the options and settings that were given."""
    given = [word for name, value in options.items() if value for word in (name, value)]
    given += [name for name, is_set in flags.items() if is_set]
    given += [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["specnet", "train", experiment, *given, "--resume"])


def _transfer_text(transfer: Transfer) -> str:
    """Return a line about the arrays that a run loaded from another checkpoint, and those it did not load."""
    not_loaded = {**transfer.skipped, **dict.fromkeys(transfer.missing, "is not in the file")}
    reasons = "".join(f"; {name} {reason}" for name, reason in list(not_loaded.items())[:8])
    names = ", ".join(transfer.taken[:8]) + (", …" if len(transfer.taken) > 8 else "")
    return f"initialized from a checkpoint: {names}{reasons}"


def _show_result(result: TrainingResult, *, json: bool, json_lines: bool) -> None:
    """Print the result of a finished run."""
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
        _print_metrics(result.history)
    else:
        say(f"epoch {int(last['epoch'])} · {metrics_text({k: v for k, v in last.items() if k != 'epoch'})}")
    if result.stopped_early:
        say(f"early stopping after epoch {int(last['epoch'])}: no further improvement")
    say(f"{result.checkpoint_path} contains the model after the last epoch")
    if result.best_path:
        say(f"{result.best_path} contains the best model")


def _print_metrics(history: dict[str, list[float]]) -> None:
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
    """Print the sizes, the first loss and the memory of a dry run."""
    from specnet.training.runs.dry_run import dry_run

    sizes = dry_run(experiment, overrides, note)
    if json:
        print_json(dataclasses.asdict(sizes))
        return
    validation = f", {sizes.validation_rows:,} to validate on" if sizes.validation_rows else ""
    say(f"{sizes.rows:,} rows to train on{validation}")
    steps = sizes.steps_per_epoch * sizes.epochs
    say(f"{sizes.steps_per_epoch:,} steps per epoch, {sizes.epochs:,} epochs: {steps:,} steps")
    trained = "" if sizes.trained == sizes.parameters else f", of which {sizes.trained:,} are trained"
    say(f"{sizes.parameters:,} parameters{trained}; the loss of the first batch is {sizes.first_loss:.4g}")
    if sizes.taken_over:
        names = ", ".join(sizes.taken_over[:8])
        say(f"{len(sizes.taken_over)} arrays are initialized from a checkpoint: {names}")
    parts = ", ".join(f"{part} {size / 2**20:,.1f}" for part, size in sizes.memory.items())
    say(f"{sum(sizes.memory.values()) / 2**20:,.1f} MiB of memory, without Python itself: {parts}")


def _parse_overrides(settings: list[str]) -> dict[str, str]:
    pairs = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            msg = f"--set {setting}: expected PATH=VALUE, for example training.epochs=3"
            raise typer.BadParameter(msg)
        pairs[path.strip()] = value.strip()
    return pairs


def _signal_number(name: str | None) -> int | None:
    """Return the number of a signal by its name, with or without SIG."""
    if name is None:
        return None
    known = {number.name.removeprefix("SIG"): int(number) for number in signal.Signals}
    number = known.get(name.upper().removeprefix("SIG"))
    if number is None or number in (*ending_signals(), *(known.get(fixed) for fixed in ("KILL", "STOP", "CHLD"))):
        msg = f"expected the name of a signal that is free, such as USR1 or USR2, got {name!r:.40}"
        raise typer.BadParameter(msg, param_hint="--checkpoint-signal")
    return number


@contextmanager
def _errors_as_json(enabled: bool) -> Iterator[None]:
    """Also print an error that ends the run as a line of JSON for programs."""
    try:
        yield
    except SpecnetError as error:
        if enabled:
            print(dumps({"event": "error", "message": str(error)}), flush=True)
        raise


@contextmanager
def _stop_on_signals(ending: Ending | None, checkpoint_signal: int | None) -> Iterator[Stop]:
    """Let the run finish its step on SIGINT, SIGTERM or SIGHUP; a second signal exits immediately.

    The last checkpoint stays complete in both cases. On `checkpoint_signal` the run writes a checkpoint and goes on.
    Processes that share a run have an `ending`: they agree on the step, and are ended if the last one takes too long.
    """
    stop = Stop()

    def handle(number: int, _frame: object) -> None:
        if stop.signal and ending is None:
            os._exit(128 + number)  # an exception could be raised, and lost, inside a library
        stop.signal = number

    def save(_number: int, _frame: object) -> None:
        stop.saving = True

    handlers: dict[int, Callable[[int, object], None]] = dict.fromkeys(ending_signals(), handle)
    if checkpoint_signal is not None:
        handlers[checkpoint_signal] = save
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with nullcontext() if ending is None else ending.patient(stop.is_ending):
            yield stop
    finally:
        if ending is None:
            for number, before in previous.items():
                signal.signal(number, before)


def replay(
    begin: Annotated[str, typer.Argument(metavar="A", help="A checkpoint of a run.")],
    end: Annotated[str, typer.Argument(metavar="B", help="A later checkpoint of the same run.")],
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="The document. [default: experiment.json in the folder of A]")
    ] = None,
    json: Json = False,
) -> None:
    """Verify that a run is reproducible: train from A to the step of B and compare every bit. Writes nothing.

    Exit codes: 0 identical, 1 different, 2 different, but B was written with another machine or library version.

    Example: specnet replay runs/digits/best.h5 runs/digits/last.h5
    """
    from specnet.training.runs.replay import replay as run_replay

    comparison = run_replay(begin, end, experiment)
    if json:
        print_json({**dataclasses.asdict(comparison), "same": comparison.same})
    else:
        first, last = comparison.first_step + 1, comparison.last_step
        steps = f"steps {first} to {last}" if last >= first else "no step"
        result = f"{len(comparison.different)} differ" if comparison.different else "all are identical, bit for bit"
        say(f"{steps} trained again, {len(comparison.compared)} arrays compared: {result}")
        for name in comparison.different:
            say(f"  {name}")
    for difference in comparison.machine:
        note(f"not comparable: {difference}")
    if comparison.different:
        raise typer.Exit(2 if comparison.machine else 1)
