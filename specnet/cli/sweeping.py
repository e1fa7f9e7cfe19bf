"""sweep."""

from __future__ import annotations

import dataclasses
import signal
import statistics
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from specnet.cli.documents import Json
from specnet.cli.output import note, print_json, print_table
from specnet.cli.processes import end_on_signals
from specnet.mpi import is_launched, launched_executor, launched_world
from specnet.training.metrics import greater_is_better
from specnet.training.sweep import SEEDS, TABLE, Outcome, Sweep, plan_sweep, run_sweep, share_sweep


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
) -> None:
    """Train every combination of some settings, each in a folder of its own, and rank them; again, it goes on.

    Example: specnet sweep digits.experiment.json --set training.optimizer.learning_rate=0.1,0.01 --seeds 3
    """
    settings: dict[str, list[str]] = {}
    for setting in set_ or ():
        path, values = _values(setting)
        if path in settings:
            msg = f"{path} is set twice; give all its values at once"
            raise typer.BadParameter(msg, param_hint="--set")
        settings[path] = values
    planned: list[Sweep] = []

    def plan() -> Sweep:
        planned.append(plan_sweep(experiment, settings, seeds=seeds, out=out))
        total = len(planned[0].trials)
        if not quiet:
            note(f"{total} runs into {planned[0].folder}, ranked by {planned[0].monitor}")
        return planned[0]

    def tell(outcome: Outcome) -> None:
        if not quiet:
            done = f"{len(planned[0].outcomes)}/{len(planned[0].trials)} {outcome.trial.name}"
            note(f"{done}: {outcome.error or f'{planned[0].monitor} {outcome.value:.4g} in epoch {outcome.epoch}'}")

    if is_launched():
        ranked = _under_mpi(plan, tell)
        if ranked is None:  # a worker
            return
    else:
        ranked = _here(plan(), jobs, tell)
    made = planned[0]
    if json:
        print_json({"monitor": made.monitor, "runs": [_as_json(outcome) for outcome in ranked]})
    else:
        _show(made, ranked)
    note(f"{made.folder / TABLE} lists all runs; `specnet report {made.folder}` shows the best")
    if all(outcome.value is None for outcome in ranked):
        raise typer.Exit(1)


def _here(planned: Sweep, jobs: int | None, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """Run in processes of this machine; a signal ends them after a step of theirs, with a checkpoint."""

    def stop(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        return run_sweep(planned, jobs=jobs, tell=tell)
    except SystemExit:
        note(f"stopped; the same command goes on with what is missing in {planned.folder}")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _under_mpi(plan: Callable[[], Sweep], tell: Callable[[Outcome], None]) -> list[Outcome] | None:
    """Let the processes of the launcher take the runs; the first one hands them out. Give None in the others."""
    end_on_signals(launched_world(), "stopped; the same command goes on with what is missing")
    with launched_executor() as executor:
        if executor is None:
            return None
        return share_sweep(plan(), executor, tell=tell)


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
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in ranked:
        groups.setdefault(tuple(outcome.trial.overrides.get(path, "") for path in made.paths), []).append(outcome)
    several = any(set(outcome.trial.overrides) & set(SEEDS) - set(made.paths) for outcome in ranked)
    means = {key: _mean(outcomes) for key, outcomes in groups.items()}
    rows: list[list[str]] = []
    for key in sorted(groups, key=lambda key: _place(made, groups[key], means[key])):
        values = [outcome.value for outcome in groups[key] if outcome.value is not None]
        mean = means[key]
        cells = [str(len(rows) + 1), *key, "" if mean is None else f"{mean:.4g}"]
        if several:
            cells += [f"{statistics.stdev(values):.2g}" if len(values) > 1 else "", str(len(values))]
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


def _mean(outcomes: list[Outcome]) -> float | None:
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    return statistics.fmean(values) if values else None


def _place(made: Sweep, outcomes: list[Outcome], value: float | None) -> tuple[bool, bool, float]:
    """Order combinations: those of which a run failed behind the others, as the rest says less."""
    sign = -1.0 if greater_is_better(made.monitor) else 1.0
    failed = any(outcome.value is None for outcome in outcomes)
    return value is None, failed, 0.0 if value is None else sign * value
