"""The commands validate, summary, gradcheck and schema."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from specnet.cli.options import Json
from specnet.cli.output import note, print_annotations, print_json, print_table, report_errors, say
from specnet.errors import CheckpointCorruptError, Problem, SpecError, SpecnetError, printable
from specnet.files.paths import is_same_file, user_path
from specnet.files.regular import open_regular

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
        Literal["text", "github"], typer.Option("--format", help="github: annotations for the lines of a pull request.")
    ] = "text",
    print_: Annotated[bool, typer.Option("--print", help="Print the normalized documents.")] = False,
) -> None:
    """Check documents, and report every problem with line and column. Check every dataset of checkpoints.

    Example: specnet validate digits.model.json digits.experiment.json
    """
    if json and form == "github":
        msg = "--json prints JSON, --format github annotations; choose one"
        raise typer.BadParameter(msg)
    errors: list[SpecnetError] = []
    results: list[dict[str, Any]] = []
    for path in documents:
        problems: tuple[Problem, ...] = ()
        details: dict[str, Any] = {}
        try:
            if is_hdf5(path):
                text = _check_checkpoint(path, details, show=not json)
            else:
                spec = _read(path, check_data=True)
                details = {"document": spec.model_dump(mode="json")} if print_ else {}
                text = spec.to_json() if print_ else printable(f"{path}: {_description(spec, path)}") + "\n"
        except SpecnetError as error:
            errors.append(error)
            problems = error.problems if isinstance(error, SpecError) else (Problem("", str(error), "unreadable"),)
        else:
            if not json:
                typer.echo(text, nl=False)
        result = {"file": path, "valid": not problems, "problems": [dataclasses.asdict(p) for p in problems]}
        results.append(result | details)
    if json:
        print_json(results)
    elif form == "github":
        print_annotations(*errors)
    else:
        report_errors(*errors)
    if errors:
        raise typer.Exit(1)


def _check_checkpoint(path: str, details: dict[str, Any], *, show: bool) -> str:
    """Check a checkpoint, print a line for each dataset if `show`, and add the same results to `details` for JSON."""
    from specnet.checkpoint import check

    checks = check(path)
    details["datasets"] = [dataset._asdict() for dataset in checks]
    for dataset in checks if show else ():
        state = "ok" if dataset.intact else "DAMAGED"
        say(f"{state:8}{dataset.path}  {dataset.dtype} {dataset.shape}  sha256 {dataset.sha256}")
    damaged = [dataset.path for dataset in checks if not dataset.intact]
    if damaged:
        msg = f"{path}: the bytes of {', '.join(damaged)} do not match their sha256; the file is damaged"
        raise CheckpointCorruptError(msg)
    return f"{path}: an undamaged checkpoint with {len(checks)} datasets\n"


def _read(path: str, *, check_data: bool = False) -> ModelSpec | ExperimentSpec:
    from specnet.document.base import read_document
    from specnet.document.json_text import parse_json
    from specnet.spec import ModelSpec

    parsed = parse_json(read_document(path), path)
    if not _is_experiment(parsed.value):
        return ModelSpec.from_parsed(parsed)
    from specnet.training.experiment import load_experiment

    return load_experiment(path, check_data=check_data)[0]


def _description(spec: ModelSpec | ExperimentSpec, path: str) -> str:
    from specnet.spec import ModelSpec

    if not isinstance(spec, ModelSpec):
        from specnet.training.loading import missing_files

        missing = missing_files(spec, user_path(path).parent)
        data = f"data not checked, missing files: {', '.join(missing)}" if missing else "its data fit the model"
        return f"a valid experiment with {_model_text(spec.built_model)}; {data}"
    return f"a valid model, {_model_text(spec)}"


def _model_of(spec: ModelSpec | ExperimentSpec) -> ModelSpec:
    """Return the model document of a model or experiment."""
    from specnet.spec import ModelSpec

    return spec if isinstance(spec, ModelSpec) else spec.built_model


def _is_experiment(value: Any) -> bool:
    return isinstance(value, dict) and (
        str(value.get("format", "")).startswith("specnet-experiment") or "training" in value or "data" in value
    )


def _model_text(spec: ModelSpec) -> str:
    layers = f"{len(spec.layers)} layer{'s' if len(spec.layers) > 1 else ''}"
    return f'"{spec.name}": {layers}, {spec.parameter_count:,} parameters'


def summary(
    path: Annotated[str, typer.Argument(metavar="DOC|CKPT", help="A document or a checkpoint.")],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Draw the network to a .svg, .png or .mmd (Mermaid) file.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the layers of a model with output shapes, parameters and multiply-adds, or draw a diagram.

    Multiply-adds are the multiplications by a weight, each with its addition, in the forward pass of one input. Affine
    layers and convolutions are counted, including products with padding; layers without such products count as 0.

    Example: specnet summary runs/digits/best.h5
    """
    from specnet.arrays.conversion import batch_of
    from specnet.spec.layer_table import layer_rows

    spec = spec_of(path)
    if out is not None:
        from specnet.inspection import save_diagram

        if is_same_file(out, path):
            msg = f"{out}: is the model itself; choose another file for the diagram"
            raise SpecnetError(msg)
        save_diagram(spec, out)
        note(f"{out}: {sum(1 for _ in spec.walk())} layers")
        return
    layers = layer_rows(spec.walk())
    item_bytes = 4 if spec.dtype == "float32" else 8
    totals = {
        "parameters": spec.parameter_count,
        "bytes": spec.parameter_count * item_bytes,
        "dtype": spec.dtype,
        "multiply_adds": spec.multiply_adds,
    }
    if json:
        model = {"name": spec.name, "identity": spec.identity, "input_shape": spec.input_shape}
        layer_entries = [
            {"layer": row.name, "type": row.type, "output_shape": row.output_shape, **_counts(row)} for row in layers
        ]
        print_json({**model, "layers": layer_entries, **totals})
        return
    table = [["(input)", "", batch_of(spec.input_shape), "", ""]]
    for row in layers:
        counts = ["" if count is None else f"{count:,}" for count in _counts(row).values()]
        table.append(["  " * row.depth + row.name, row.type, batch_of(row.output_shape), *counts])
    print_table(["Layer", "Type", "Output shape", "Parameters", "Multiply-adds"], table, numbers=[3, 4])
    size = f"{totals['bytes']:,} bytes of {spec.dtype}, {totals['multiply_adds']:,} multiply-adds per input"
    say("", f'"{spec.name}": {spec.parameter_count:,} parameters, {size}, identity {spec.identity[:12]}')


def _counts(row: LayerRow) -> dict[str, int | None]:
    """Return parameters and multiply-adds of a layer; None for a composite, whose layers are listed separately."""
    counts = {"parameters": row.parameters, "multiply_adds": row.multiply_adds}
    return dict.fromkeys(counts) if row.is_composite else dict(counts)


def spec_of(path: str) -> ModelSpec:
    """Read the model document from a document, an experiment or a checkpoint. Raises SpecError, CheckpointError."""
    if is_hdf5(path):
        from specnet.checkpoint import load

        return load(path, mmap=True).spec
    return _model_of(_read(path))


def is_hdf5(path: str) -> bool:
    """Return whether the suffix or the first bytes are those of an HDF5 file."""
    if Path(path).suffix.lower() in (".h5", ".hdf5"):
        return True
    try:
        with open_regular(path) as file:
            return file.read(4) == b"\x89HDF"
    except (OSError, ValueError):
        return False


def gradcheck(
    path: Annotated[str, typer.Argument(metavar="DOC", help="A model or experiment document.")],
    batch: Annotated[int, typer.Option("--batch", min=1, help="Number of rows of the random input.")] = 4,
    at_most: Annotated[int, typer.Option("--at-most", min=1, help="Number of elements to check in each array.")] = 50,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Largest relative error that passes.")] = 1e-5,
    json: Json = False,
) -> None:
    """Compare every gradient of the backward pass with a numerical gradient, in float64, on random inputs.

    Example: specnet gradcheck digits.model.json
    """
    import numpy as np

    from specnet.testing.gradients import build_sample, check_gradients, sample_inputs

    spec = spec_of(path)
    model = build_sample(type(spec).model_validate({**spec.model_dump(mode="json"), "dtype": "float64"}))
    x = sample_inputs(model, batch, seed=1)
    dy = np.random.default_rng(2).normal(size=(batch, *model.output_shape))
    predicting, training = (
        check_gradients(model, x, dy, training=mode, at_most=at_most, tolerance=tolerance) for mode in (False, True)
    )
    rows = []
    for check, training_check in zip(predicting, training, strict=True):
        passed = max(check.error, training_check.error) <= tolerance
        rows.append({**check._asdict(), "error_in_training": training_check.error, "passed": passed})
    failed = [str(row["name"]) for row in rows if not row["passed"]]
    if json:
        print_json({"gradients": rows, "passed": not failed})
    else:
        columns = ["Gradient of", "Shape", "Checked", "Error", "Error in training", ""]
        table = [
            [r["name"], str(r["shape"]), str(r["checked"]), f"{r['error']:.1e}", f"{r['error_in_training']:.1e}",
             "ok" if r["passed"] else "WRONG"]
            for r in rows
        ]  # fmt: skip
        print_table(columns, table, numbers=[2, 3, 4])
        correct = len(rows) - len(failed)
        say("", f"{correct} of {len(rows)} gradients have a relative error of at most {tolerance:g}")
    if failed:
        msg = f"{path}: wrong gradients, with a relative error above {tolerance:g}: {', '.join(failed)}"
        raise SpecnetError(msg)


def schema(
    kind: Annotated[Literal["model", "experiment"], typer.Argument(help="The kind of document.")],
    with_plugins: Annotated[
        bool, typer.Option("--with-plugins", help="Include the layers of installed plugins.")
    ] = False,
) -> None:
    """Print the JSON Schema of a document, for editors and other programs.

    Example: specnet schema model > model.schema.json
    """
    from specnet.schema import schema_text
    from specnet.spec.registry import load_plugins

    for failure in load_plugins() if with_plugins else ():
        note(f"skipped: {failure}")
    typer.echo(schema_text(kind), nl=False)
