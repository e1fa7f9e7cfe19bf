"""The command sweep."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from specnet.cli.options import Json, Mpi
from specnet.cli.output import note, print_json, print_table
from specnet.cli.processes import Ending, Stop, ending_signals

if TYPE_CHECKING:
    from specnet.mpi.world import World
    from specnet.training.loop import Event
    from specnet.training.sweep import Outcome, Sweep

_STOPPED = "stopped; the same command continues with the missing runs"
_STOP = Stop()
"""Ends the runs of this process; under MPI, another process assigns them."""


def sweep(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment document.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=A,B", help="Values to try, e.g. training.optimizer.learning_rate=1,2."),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Number of runs of each combination, each with another seed.")
    ] = 1,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Number of parallel runs. [default: one per core]")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="The folder. [default: runs/<name>-sweep]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
    json: Json = False,
    mpi: Mpi = None,
) -> None:
    """Train every combination of settings, each in a separate folder, and rank the runs. Rerun it to resume.

    Example: specnet sweep digits.experiment.json --set training.optimizer.learning_rate=0.1,0.01 --seeds 3
    """
    from specnet.mpi import launched_world
    from specnet.mpi.world import SINGLE
    from specnet.training.sweep import TABLE, plan_sweep

    settings: dict[str, list[str]] = {}
    for setting in set_ or ():
        path, values = _parse_values(setting)
        if path in settings:
            msg = f"{path} is set twice; list all its values in one --set"
            raise typer.BadParameter(msg, param_hint="--set")
        settings[path] = values

    def plan() -> Sweep:
        planned = plan_sweep(experiment, settings, seeds=seeds, out=out)
        if not quiet:
            note(f"{len(planned.trials)} runs in {planned.folder}, ranked by {planned.monitor}")
        return planned

    world = launched_world(wanted=mpi)
    planned = _run_locally(plan(), jobs, quiet=quiet) if world is SINGLE else _run_under_mpi(world, plan, quiet=quiet)
    if planned is None:  # this process is a worker
        return
    ranked = planned.ranked()
    if json:
        print_json({"monitor": planned.monitor, "runs": [_as_json(outcome) for outcome in ranked]})
    else:
        _show(planned, ranked)
    note(f"{planned.folder / TABLE} lists all runs; `specnet report {planned.folder}` shows the best")
    if all(outcome.value is None for outcome in ranked):
        raise typer.Exit(1)


def _run_locally(planned: Sweep, jobs: int | None, *, quiet: bool) -> Sweep:
    """Run in child processes on this machine. On a signal, each finishes its step and writes a checkpoint."""
    from specnet.training.sweep import run_sweep

    def stop(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, stop) for number in ending_signals()}
    try:
        run_sweep(planned, jobs=jobs, tell=_progress_printer(planned, quiet=quiet))
    except SystemExit:
        note(f"{_STOPPED} in {planned.folder}")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return planned


def _run_under_mpi(world: World, plan: Callable[[], Sweep], *, quiet: bool) -> Sweep | None:
    """Run in the processes of the launcher; the first process assigns the runs. Return None in the other processes.

    Launchers forward a signal to all processes: the first assigns no more runs, the others stop with a checkpoint.
    """
    from specnet.mpi import launched_executor
    from specnet.training.sweep import share_sweep

    ending = Ending(world, _STOPPED)

    def stop(number: int, _frame: object) -> None:
        is_repeated, _STOP.signal = bool(_STOP.signal), number
        if world.rank == 0 and not is_repeated:
            sys.exit(128 + number)

    for number in ending_signals():
        signal.signal(number, stop)
    seconds = 8.0 if world.rank == 0 else 6.0  # the first process waits for the others
    grace = ending.patient(_STOP.is_ending, seconds=seconds)
    with grace, launched_executor() as executor:
        if executor is None:
            return None
        try:
            planned = plan()
            share_sweep(planned, executor, listeners=[_forward_to_stop], tell=_progress_printer(planned, quiet=quiet))
        except SystemExit:
            note(_STOPPED)
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        return planned


def _forward_to_stop(event: Event) -> None:
    """Call _STOP of the process that runs this; a pickled function refers to that process's module."""
    _STOP(event)


def _progress_printer(planned: Sweep, *, quiet: bool) -> Callable[[Outcome], None]:
    def print_progress(outcome: Outcome) -> None:
        if not quiet:
            done = f"{len(planned.outcomes)}/{len(planned.trials)} {outcome.trial.name}"
            note(f"{done}: {outcome.error or f'{planned.monitor} {outcome.value:.4g} in epoch {outcome.epoch}'}")

    return print_progress


def _parse_values(setting: str) -> tuple[str, list[str]]:
    """Split PATH=A,B at the commas outside brackets, braces and quotes."""
    path, equals, text = setting.partition("=")
    if not (equals and path.strip() and text.strip()):
        msg = f"expected PATH=A,B, for example training.batch_size=16,32, got {setting!r:.80}"
        raise typer.BadParameter(msg, param_hint="--set")
    values, depth, quoted, escaped = [""], 0, False, False
    for character in text:
        quoted ^= character == '"' and not escaped
        escaped = quoted and character == "\\" and not escaped
        depth += 0 if quoted else (character in "[{") - (character in "]}")
        if character == "," and not depth and not quoted:
            values.append("")
        else:
            values[-1] += character
    return path.strip(), list(dict.fromkeys(value.strip() for value in values))


def _as_json(outcome: Outcome) -> dict[str, object]:
    fields = dataclasses.asdict(outcome)
    del fields["trial"]
    return {"run": outcome.trial.name, "settings": dict(outcome.trial.overrides), **fields}


def _show(planned: Sweep, ranked: list[Outcome]) -> None:
    """Print the ranking of the combinations; with several seeds, by the mean of their runs."""
    from statistics import fmean, stdev

    from specnet.training.sweep import SEEDS

    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in ranked:
        groups.setdefault(tuple(outcome.trial.overrides.get(path, "") for path in planned.paths), []).append(outcome)
    has_seeds = any(set(outcome.trial.overrides) & set(SEEDS) - set(planned.paths) for outcome in ranked)
    values = {key: [o.value for o in outcomes if o.value is not None] for key, outcomes in groups.items()}
    means = {key: fmean(results) if results else None for key, results in values.items()}

    def sort_key(key: tuple[str, ...]) -> tuple[bool, bool, float]:
        """Rank combinations with failed runs last, because fewer runs are less conclusive."""
        is_missing, value = planned.place(means[key])
        return is_missing, len(values[key]) < len(groups[key]), value

    rows: list[list[str]] = []
    for key in sorted(groups, key=sort_key):
        mean, results = means[key], values[key]
        cells = [str(len(rows) + 1), *key, "" if mean is None else f"{mean:.4g}"]
        if has_seeds:
            cells += [f"{stdev(results):.2g}" if len(results) > 1 else "", str(len(results))]
        else:
            cells.append(str(groups[key][0].epoch or ""))
        rows.append([*cells, next((outcome.error for outcome in groups[key] if outcome.error), "")])
    last_columns = ["sd", "runs", "Failed"] if has_seeds else ["epoch", "Failed"]
    columns = ["Rank", *_short_names(planned.paths), planned.monitor, *last_columns]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(columns, rows, numbers=[0])


def _short_names(paths: tuple[str, ...]) -> list[str]:
    """Return the last parts of the paths if they are unique, else the whole paths."""
    names = [path.rpartition(".")[2] for path in paths]
    return names if len(set(names)) == len(names) else list(paths)
