"""The `specnet` command: its verbs, and what becomes of an error."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from specnet.cli import convert as foreign
from specnet.cli import documents
from specnet.cli import init as starting
from specnet.cli import inspect as looking
from specnet.cli import predict as prediction
from specnet.cli import sweep as sweeping
from specnet.cli import train as training
from specnet.cli.output import report_errors
from specnet.cli.processes import GRACE
from specnet.errors import SpecnetError
from specnet.mpi.launcher import is_first
from specnet.version import __version__

app = typer.Typer(
    name="specnet",
    help="Neural networks as two files people can read: a JSON document and an HDF5 checkpoint.",
    no_args_is_help=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_VERBS = (
    documents.validate,
    documents.summary,
    training.train,
    training.replay,
    sweeping.sweep,
    prediction.predict,
    starting.init,
    looking.inspect,
    looking.diff,
    looking.trace,
    looking.report,
    documents.gradcheck,
    documents.schema,
)


for verb in _VERBS:
    app.command()(verb)


app.command("import")(foreign.import_)


app.command()(foreign.export)


_FIRST_STEPS = """\
specnet {version}: neural networks as a JSON document and an HDF5 checkpoint

  specnet init --data F --target T a model and an experiment document for a data file
  specnet validate DOC...          check documents; every fault with line and column
  specnet summary DOC|CKPT         the layers, their shapes and parameters
  specnet train EXPERIMENT         train as the document says, write checkpoints
  specnet sweep EXPERIMENT         train with every combination of --set PATH=A,B, rank them
  specnet replay A B               train from one checkpoint to another, compare every bit
  specnet predict CKPT --data FILE predict for the rows of a file
  specnet inspect CKPT             every parameter in numbers, and what looks wrong
  specnet diff A B                 how two documents or checkpoints differ
  specnet trace DOC|CKPT --input X one forward and backward, every array on the way
  specnet report CKPT|DIR... -o F  a page with curves, histograms, pictures
  specnet gradcheck DOC            every gradient against a numerical one
  specnet import FILE --out CKPT   .keras, .h5, .onnx, .safetensors, .npz, Caffe's snapshots
  specnet export CKPT --out FILE   .onnx, .keras, .safetensors or .npz, read back, compared
  specnet schema model             the JSON Schema, for editors

`specnet COMMAND --help` says more.\
"""


def _show_version(wanted: bool) -> None:
    if wanted:
        from specnet.kernels import backend  # noqa: PLC0415 - needed here only

        typer.echo(f"specnet {__version__} ({backend()} kernels)")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(_FIRST_STEPS.format(version=__version__))


def run() -> None:
    """Run the command; exit with 0 done, 1 wrong input, 2 wrong usage."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SpecnetError as error:
        if error.collective and not is_first():
            time.sleep(GRACE)  # some launchers end all where one ends, before the first has told it
        else:
            report_errors(error)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe has gone; nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # of standard output: files have errors of their own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"specnet: cannot print: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
