"""validate, summary, gradcheck, schema."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from specnet.cli.options import Json
from specnet.cli.output import note, print_annotations, print_json, print_table, report_errors
from specnet.errors import CheckpointCorruptError, Problem, SpecError, SpecnetError
from specnet.files.paths import is_same_file, user_path

if TYPE_CHECKING:
    from specnet.spec import ModelSpec
    from specnet.spec.layer_table import LayerRow
    from specnet.training.spec.experiment_spec import ExperimentSpec


def validate(
    documents: Annotated[
        list[str], typer.Argument(metavar="DOC|CKPT...", help="Model or experiment documents, or checkpoints.")
    ],
    json: Json = False,
    form: Annotated[
        Literal["text", "github"], typer.Option("--format", help="github: annotations on the lines of a pull request.")
    ] = "text",
    print_: Annotated[bool, typer.Option("--print", help="Print the normalized documents.")] = False,
) -> None:
    """Check documents; every fault is told with line and column. Check checkpoints, dataset by dataset.

    Example: specnet validate digits.model.json digits.experiment.json
    """
    if json and form == "github":
        msg = "--json prints JSON, --format github annotations; choose one"
        raise typer.BadParameter(msg)
    errors: list[SpecnetError] = []
    results: list[dict[str, Any]] = []
    for path in documents:
        problems: tuple[Problem, ...] = ()
        more: dict[str, Any] = {}
        try:
            if is_hdf5(path):
                text = _check_file(path, more, show=not json)
            else:
                spec = _read(path, check_data=True)
                more = {"document": spec.model_dump(mode="json")} if print_ else {}
                text = spec.to_json() if print_ else f"{path}: {_what_it_is(spec, path)}\n"
        except SpecnetError as error:
            errors.append(error)
            problems = error.problems if isinstance(error, SpecError) else (Problem("", str(error), "unreadable"),)
        else:
            if not json:
                typer.echo(text, nl=False)
        said = {"file": path, "valid": not problems, "problems": [dataclasses.asdict(p) for p in problems]}
        results.append(said | more)
    if json:
        print_json(results)
    elif form == "github":
        print_annotations(*errors)
    else:
        report_errors(*errors)
    if errors:
        raise typer.Exit(1)


def _check_file(path: str, more: dict[str, Any], *, show: bool) -> str:
    """Check a checkpoint; show a line for each dataset, and put the same into `more` for programs."""
    from specnet.checkpoint import check

    checks = check(path)
    more["datasets"] = [found._asdict() for found in checks]
    for found in checks if show else ():
        state = "ok" if found.intact else "DAMAGED"
        typer.echo(f"{state:8}{found.path}  {found.dtype} {found.shape}  sha256 {found.sha256}")
    damaged = [found.path for found in checks if not found.intact]
    if damaged:
        msg = f"{path}: the bytes of {', '.join(damaged)} do not match their sha256; the file is damaged"
        raise CheckpointCorruptError(msg)
    return f"{path}: a whole checkpoint of {len(checks)} datasets\n"


def _read(path: str, *, check_data: bool = False) -> ModelSpec | ExperimentSpec:
    if _is_experiment(path):
        from specnet.training.experiment import load_experiment

        return load_experiment(path, check_data=check_data)[0]
    from specnet.spec import load_spec

    return load_spec(path)


def _what_it_is(spec: ModelSpec | ExperimentSpec, path: str) -> str:
    from specnet.spec import ModelSpec

    if not isinstance(spec, ModelSpec):
        from specnet.training.loading import missing_files

        missing = missing_files(spec, user_path(path).parent)
        data = f"not checked, as they are not there: {', '.join(missing)}" if missing else "its data fit"
        return f"a valid experiment with {_model_text(spec.built_model)}; {data}"
    return f"a valid model, {_model_text(spec)}"


def _model_of(spec: ModelSpec | ExperimentSpec) -> ModelSpec:
    """Return the model's document."""
    from specnet.spec import ModelSpec

    return spec if isinstance(spec, ModelSpec) else spec.built_model


def _is_experiment(path: str) -> bool:
    from specnet.document.base import read_document
    from specnet.document.json_text import parse_json

    value = parse_json(read_document(path), path).value
    return isinstance(value, dict) and (
        str(value.get("format", "")).startswith("specnet-experiment") or "training" in value or "data" in value
    )


def _model_text(spec: ModelSpec) -> str:
    layers = f"{len(spec.layers)} layer{'s' if len(spec.layers) > 1 else ''}"
    return f'"{spec.name}": {layers}, {spec.parameter_count:,} parameters'


def summary(
    path: Annotated[str, typer.Argument(metavar="DOC|CKPT", help="A document or a checkpoint.")],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Draw the network: net.svg, net.png, or net.mmd for Mermaid.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a model's layers with their output shapes and numbers of parameters, or draw them.

    Example: specnet summary runs/digits/best.h5
    """
    from specnet.arrays.conversion import batch_of
    from specnet.spec.layer_table import layer_rows

    spec = spec_of(path)
    if out is not None:
        from specnet.inspection import save_diagram

        if is_same_file(out, path):
            msg = f"{out}: is the model itself; draw it into another file"
            raise SpecnetError(msg)
        save_diagram(spec, out)
        note(f"{out}: {sum(1 for _ in spec.walk())} layers")
        return
    layers = layer_rows(spec.walk())
    item = 4 if spec.dtype == "float32" else 8
    totals = {"parameters": spec.parameter_count, "bytes": spec.parameter_count * item, "dtype": spec.dtype}
    if json:
        model = {"name": spec.name, "identity": spec.identity, "input_shape": spec.input_shape}
        told = [
            {"layer": row.name, "type": row.type, "output_shape": row.output_shape, "parameters": _own(row)}
            for row in layers
        ]
        print_json({**model, "layers": told, **totals})
        return
    table = [["(input)", "", batch_of(spec.input_shape), ""]]
    for row in layers:
        own = _own(row)
        count = "" if own is None else f"{own:,}"
        table.append(["  " * row.depth + row.name, row.type, batch_of(row.output_shape), count])
    print_table(["Layer", "Type", "Output shape", "Parameters"], table, numbers=[3])
    size = f"{totals['bytes']:,} bytes of {spec.dtype}"
    typer.echo(f'\n"{spec.name}": {spec.parameter_count:,} parameters, {size}, identity {spec.identity[:12]}')


def _own(row: LayerRow) -> int | None:
    """Give a layer's parameters; None for a composite, whose layers follow with theirs."""
    return None if row.is_composite else row.parameters


def spec_of(path: str) -> ModelSpec:
    """Read the model of a document, an experiment or a checkpoint. Raises SpecError, CheckpointError."""
    if is_hdf5(path):
        from specnet.checkpoint import load

        return load(path, mmap=True).spec
    return _model_of(_read(path))


def is_hdf5(path: str) -> bool:
    """Tell by the name and by the first bytes."""
    if Path(path).suffix.lower() in (".h5", ".hdf5"):
        return True
    try:
        with user_path(path).open("rb") as file:
            return file.read(4) == b"\x89HDF"
    except (OSError, ValueError):
        return False


def gradcheck(
    path: Annotated[str, typer.Argument(metavar="DOC", help="A model or experiment document.")],
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows of the random input.")] = 4,
    at_most: Annotated[int, typer.Option("--at-most", min=1, help="Elements checked of each array.")] = 50,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Largest relative error that passes.")] = 1e-5,
    json: Json = False,
) -> None:
    """Hold every gradient that backward gives against a numerical one, in float64, on random inputs.

    Example: specnet gradcheck digits.model.json
    """
    import numpy as np

    from specnet.testing.gradients import build_sample, check_gradients, sample_inputs

    spec = spec_of(path)
    model = build_sample(type(spec).model_validate({**spec.model_dump(mode="json"), "dtype": "float64"}))
    x = sample_inputs(model, batch, seed=1)
    dy = np.random.default_rng(2).normal(size=(batch, *model.output_shape))
    plain, training = (
        check_gradients(model, x, dy, training=mode, at_most=at_most, tolerance=tolerance) for mode in (False, True)
    )
    rows = []
    for found, trained in zip(plain, training, strict=True):
        passed = max(found.error, trained.error) <= tolerance
        rows.append({**found._asdict(), "error_in_training": trained.error, "passed": passed})
    wrong = [str(row["name"]) for row in rows if not row["passed"]]
    if json:
        print_json({"gradients": rows, "passed": not wrong})
    else:
        columns = ["Gradient of", "Shape", "Checked", "Error", "Error in training", ""]
        table = [
            [r["name"], str(r["shape"]), str(r["checked"]), f"{r['error']:.1e}", f"{r['error_in_training']:.1e}",
             "ok" if r["passed"] else "WRONG"]
            for r in rows
        ]  # fmt: skip
        print_table(columns, table, numbers=[2, 3, 4])
        typer.echo(f"\n{len(rows) - len(wrong)} of {len(rows)} gradients are right to {tolerance:g} of their size")
    if wrong:
        msg = f"{path}: wrong gradients, off by more than {tolerance:g} of their size: {', '.join(wrong)}"
        raise SpecnetError(msg)


def schema(
    kind: Annotated[Literal["model", "experiment"], typer.Argument(help="Which document.")],
    with_plugins: Annotated[
        bool, typer.Option("--with-plugins", help="With the layers that installed packages offer.")
    ] = False,
) -> None:
    """Print the JSON Schema of a document, for editors and other programs.

    Example: specnet schema model > model.schema.json
    """
    from specnet.schema import schema_text
    from specnet.spec.registry import load_plugins

    for failure in load_plugins() if with_plugins else ():
        note(f"left out: {failure}")
    typer.echo(schema_text(kind), nl=False)
