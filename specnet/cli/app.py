"""The `specnet` command: its subcommands, and what becomes of an error."""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from specnet.errors import SpecnetError
from specnet.mpi.launcher import is_first
from specnet.version import __version__

COMMANDS = {
    "init": ("init", "init"),
    "validate": ("documents", "validate"),
    "summary": ("documents", "summary"),
    "train": ("train", "train"),
    "sweep": ("sweep", "sweep"),
    "replay": ("train", "replay"),
    "predict": ("predict", "predict"),
    "inspect": ("inspect", "inspect"),
    "diff": ("inspect", "diff"),
    "trace": ("trace", "trace"),
    "report": ("inspect", "report"),
    "gradcheck": ("documents", "gradcheck"),
    "import": ("convert", "import_"),
    "export": ("convert", "export"),
    "schema": ("documents", "schema"),
}
"""Subcommand -> (module, function). A module is imported when its command runs, and imports what it needs then."""


_OPTIONS = {"help_option_names": ["-h", "--help"]}


def command_of(name: str) -> Any:
    """Import a subcommand and return it, ready to be called with its arguments."""
    module, function = COMMANDS[name]
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name, context_settings=_OPTIONS)(getattr(import_module(f"specnet.cli.{module}"), function))
    return typer.main.get_command(single)


class Commands(TyperGroup):
    """The group of all subcommands, which are imported when they are asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of all subcommands."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """Return one subcommand, None for an unknown name."""
        return command_of(cmd_name) if cmd_name in COMMANDS else None


app = typer.Typer(
    cls=Commands,
    name="specnet",
    help="Neural networks as two files people can read: a JSON document and an HDF5 checkpoint.",
    no_args_is_help=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_OPTIONS,
)

_FIRST_STEPS = """\
specnet {version}: neural networks as a JSON document and an HDF5 checkpoint

  specnet init --data F --target T write a model and an experiment document for a data file
  specnet validate DOC...          check documents; every problem with line and column
  specnet summary DOC|CKPT         list the layers, their shapes and parameters
  specnet train EXPERIMENT         train as the document says, write checkpoints
  specnet sweep EXPERIMENT         train every combination of --set PATH=A,B, rank them
  specnet replay A B               train from one checkpoint to another, compare every bit
  specnet predict CKPT --data FILE predict for the rows of a file
  specnet inspect CKPT             show statistics of every parameter, and warnings
  specnet diff A B                 compare two documents or checkpoints
  specnet trace DOC|CKPT --input X run one forward and backward, show every array
  specnet report CKPT|DIR... -o F  write a page with curves, histograms, pictures
  specnet gradcheck DOC            compare every gradient with a numerical one
  specnet import FILE --out CKPT   read .keras, .h5, .onnx, .safetensors, .npz, Caffe's snapshots
  specnet export CKPT --out FILE   write .onnx, .keras, .safetensors or .npz, read it back, compare
  specnet schema model             print the JSON Schema, for editors

`specnet COMMAND --help` says more.\
"""


def _show_version(wanted: bool) -> None:
    if wanted:
        from specnet.kernels import backend

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
            if sys.argv[1:] and sys.argv[1] in COMMANDS:  # without the group, whose options take typer 0.1 s to check
                command_of(sys.argv[1])(sys.argv[2:], prog_name=f"specnet {sys.argv[1]}")
            app()
        finally:
            sys.stdout.flush()
    except SpecnetError as error:
        from specnet.cli.output import report_errors
        from specnet.cli.processes import GRACE

        if error.collective and not is_first():
            time.sleep(GRACE)  # some launchers end all processes when one ends: the first one must report before
        else:
            report_errors(error)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe has gone; nobody is left to report to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # of standard output: files have errors of their own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"specnet: cannot print: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
