"""sweep."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from specnet.cli.options import Json, Mpi
from specnet.cli.output import note, print_json, print_table
from specnet.cli.processes import Ending, Stop

if TYPE_CHECKING:
    from specnet.mpi.world import World
    from specnet.training.loop import Event
    from specnet.training.sweep import Outcome, Sweep

_STOPPED = "stopped; the same command goes on with what is missing"


_STOP = Stop()
"""Ends this process's runs, which another one hands to it."""


def sweep(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment document.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=A,B", help="Values to try, training.optimizer.learning_rate=1,2."),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs of each combination, with seeds of their own.")
    ] = 1,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time. [default: one a core]")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="The folder. [default: runs/<name>-sweep]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
    json: Json = False,
    mpi: Mpi = None,
) -> None:
    """Train every combination of some settings, each in a folder of its own, and rank them; again, it goes on.

    Example: specnet sweep digits.experiment.json --set training.optimizer.learning_rate=0.1,0.01 --seeds 3
    """
    from specnet.mpi import launched_world
    from specnet.mpi.world import SINGLE
    from specnet.training.sweep import TABLE, plan_sweep

    settings: dict[str, list[str]] = {}
    for setting in set_ or ():
        path, values = _values(setting)
        if path in settings:
            msg = f"{path} is set twice; give all its values at once"
            raise typer.BadParameter(msg, param_hint="--set")
        settings[path] = values

    def plan() -> Sweep:
        made = plan_sweep(experiment, settings, seeds=seeds, out=out)
        if not quiet:
            note(f"{len(made.trials)} runs into {made.folder}, ranked by {made.monitor}")
        return made

    world = launched_world(wanted=mpi)
    made = _here(plan(), jobs, quiet=quiet) if world is SINGLE else _under_mpi(world, plan, quiet=quiet)
    if made is None:  # a worker
        return
    ranked = made.ranked()
    if json:
        print_json({"monitor": made.monitor, "runs": [_as_json(outcome) for outcome in ranked]})
    else:
        _show(made, ranked)
    note(f"{made.folder / TABLE} lists all runs; `specnet report {made.folder}` shows the best")
    if all(outcome.value is None for outcome in ranked):
        raise typer.Exit(1)


def _here(made: Sweep, jobs: int | None, *, quiet: bool) -> Sweep:
    """Run in processes of this machine; a signal ends them after a step of theirs, with a checkpoint."""
    from specnet.training.sweep import run_sweep

    def stop(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        run_sweep(made, jobs=jobs, tell=_teller(made, quiet=quiet))
    except SystemExit:
        note(f"{_STOPPED} in {made.folder}")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return made


def _under_mpi(world: World, plan: Callable[[], Sweep], *, quiet: bool) -> Sweep | None:
    """Let the processes of the launcher take the runs; the first one hands them out. Give None in the others.

    Launchers pass a signal on to all: the first hands out no more, the others end their runs with a checkpoint.
    """
    from specnet.mpi import launched_executor
    from specnet.training.sweep import share_sweep

    ending = Ending(world, _STOPPED)

    def stop(number: int, _frame: object) -> None:
        again, _STOP.signal = bool(_STOP.signal), number
        if world.rank == 0 and not again:
            sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    patience = ending.patient(_STOP.is_ending, seconds=8.0 if world.rank == 0 else 6.0)  # the first waits for all
    with patience, launched_executor() as executor:
        if executor is None:
            return None
        try:
            made = plan()
            share_sweep(made, executor, listeners=[_heed], tell=_teller(made, quiet=quiet))
        except SystemExit:
            note(_STOPPED)
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        return made


def _heed(event: Event) -> None:
    """Ask _STOP, whichever process this has been sent to."""
    _STOP(event)


def _teller(made: Sweep, *, quiet: bool) -> Callable[[Outcome], None]:
    def tell(outcome: Outcome) -> None:
        if not quiet:
            done = f"{len(made.outcomes)}/{len(made.trials)} {outcome.trial.name}"
            note(f"{done}: {outcome.error or f'{made.monitor} {outcome.value:.4g} in epoch {outcome.epoch}'}")

    return tell


def _values(setting: str) -> tuple[str, list[str]]:
    """Cut PATH=A,B at the commas that stand in no brackets, braces or quotes."""
    path, equals, text = setting.partition("=")
    if not (equals and path.strip() and text.strip()):
        msg = f"expected PATH=A,B, training.batch_size=16,32 say, got {setting!r:.80}"
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
    said = dataclasses.asdict(outcome)
    del said["trial"]
    return {"run": outcome.trial.name, "settings": dict(outcome.trial.overrides), **said}


def _show(made: Sweep, ranked: list[Outcome]) -> None:
    """Print the ranking; of several seeds, by their mean."""
    from statistics import fmean, stdev

    from specnet.training.sweep import SEEDS

    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in ranked:
        groups.setdefault(tuple(outcome.trial.overrides.get(path, "") for path in made.paths), []).append(outcome)
    several = any(set(outcome.trial.overrides) & set(SEEDS) - set(made.paths) for outcome in ranked)
    values = {key: [o.value for o in outcomes if o.value is not None] for key, outcomes in groups.items()}
    means = {key: fmean(found) if found else None for key, found in values.items()}

    def place(key: tuple[str, ...]) -> tuple[bool, bool, float]:
        """Put combinations of which a run failed behind the others, as the rest says less."""
        none, value = made.place(means[key])
        return none, len(values[key]) < len(groups[key]), value

    rows: list[list[str]] = []
    for key in sorted(groups, key=place):
        mean, found = means[key], values[key]
        cells = [str(len(rows) + 1), *key, "" if mean is None else f"{mean:.4g}"]
        if several:
            cells += [f"{stdev(found):.2g}" if len(found) > 1 else "", str(len(found))]
        else:
            cells.append(str(groups[key][0].epoch or ""))
        rows.append([*cells, next((outcome.error for outcome in groups[key] if outcome.error), "")])
    columns = ["Rank", *_short(made.paths), made.monitor, *(["sd", "runs"] if several else ["epoch"]), "Failed"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(columns, rows, numbers=[0])


def _short(paths: tuple[str, ...]) -> list[str]:
    """Give the last parts of paths, where these differ."""
    names = [path.rpartition(".")[2] for path in paths]
    return names if len(set(names)) == len(names) else list(paths)
