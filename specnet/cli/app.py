"""The `specnet` command: the table of subcommands, and error handling."""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from specnet.cli.streams import OutputError, discard, report
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
    "generate": ("predict", "generate"),
    "inspect": ("inspect", "inspect"),
    "diff": ("inspect", "diff"),
    "trace": ("trace", "trace"),
    "report": ("inspect", "report"),
    "gradcheck": ("documents", "gradcheck"),
    "import": ("convert", "import_"),
    "export": ("convert", "export"),
    "schema": ("documents", "schema"),
}
"""Subcommand -> (module, function). Each module is imported only when its command runs, which keeps start-up short."""


_OPTIONS = {"help_option_names": ["-h", "--help"]}


def command_of(name: str) -> Any:
    """Import a subcommand and return it as a callable command."""
    module, function = COMMANDS[name]
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name, context_settings=_OPTIONS)(getattr(import_module(f"specnet.cli.{module}"), function))
    return typer.main.get_command(single)


class Commands(TyperGroup):
    """The group of all subcommands; each is imported on first use."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of all subcommands."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """Return a subcommand, None for an unknown name."""
        return command_of(cmd_name) if cmd_name in COMMANDS else None


app = typer.Typer(
    cls=Commands,
    name="specnet",
    help="Neural networks as two readable files: a JSON document and an HDF5 checkpoint.",
    no_args_is_help=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_OPTIONS,
)

_FIRST_STEPS = """\
specnet {version}: neural networks as a JSON document and an HDF5 checkpoint

  specnet init --data F --target T write a model and an experiment document for a data file
  specnet validate DOC...          check documents; report every problem with line and column
  specnet summary DOC|CKPT         list the layers with shapes and parameter counts
  specnet train EXPERIMENT         train as the document describes, write checkpoints
  specnet sweep EXPERIMENT         train all combinations of --set PATH=A,B and rank them
  specnet replay A B               repeat training from A to B, compare every bit
  specnet predict CKPT --data FILE predict for the rows of a data file
  specnet generate CKPT            write lines of text, token after token
  specnet inspect CKPT             show statistics of every parameter, and warnings
  specnet diff A B                 compare two documents or checkpoints
  specnet trace DOC|CKPT --input X run one forward and backward pass, show every array
  specnet report CKPT|DIR... -o F  write an HTML page with curves, histograms, images
  specnet gradcheck DOC            compare every gradient with a numerical gradient
  specnet import FILE --out CKPT   read .keras, .h5, .onnx, .safetensors, .npz, Caffe snapshots
  specnet export CKPT --out FILE   write .onnx, .keras, .safetensors or .npz, and verify it
  specnet schema model             print the JSON Schema for editors

Run `specnet COMMAND --help` for details.\
"""


def _print_version() -> None:
    from specnet.kernels import backend

    print(f"specnet {__version__} ({backend()} kernels)")


def _show_version(wanted: bool) -> None:
    if wanted:
        _print_version()
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
    """Run the command. Exit codes: 0 success, 1 invalid input, 2 wrong usage."""
    try:
        try:
            first, arguments = next(iter(sys.argv[1:]), ""), sys.argv[2:]
            if first == "--version" and not arguments:  # the group, to build and to run, costs up to 0.1 s
                _print_version()
            elif first in COMMANDS:
                command_of(first)(arguments, prog_name=f"specnet {first}")
            else:
                app()
        finally:
            sys.stdout.flush()
    except SpecnetError as error:
        from specnet.cli.output import report_errors
        from specnet.cli.processes import GRACE

        if error.collective and not is_first():
            time.sleep(GRACE)  # some launchers kill all processes when one ends; let rank 0 report first
        else:
            report_errors(error)
        sys.exit(1)
    except OutputError as error:
        discard(sys.stdout)
        cause = error.__cause__
        if not isinstance(cause, BrokenPipeError):  # then the reader has closed the pipe, and wants no more
            report(f"cannot print: {getattr(cause, 'strerror', None) or cause}")
        sys.exit(1)
    except OSError as error:  # of a file that no reader expects to fail
        report(": ".join(filter(None, [_file_of(error), error.strerror or str(error)])))
        sys.exit(1)
    except MemoryError:
        report("there is not enough memory")
        sys.exit(1)


def _file_of(error: OSError) -> str:
    """Return the file that an error is about; the current folder, if that is gone, because it then fails unnamed."""
    if error.filename is not None:
        return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    try:
        os.getcwd()  # noqa: PTH109 - only whether it is there
    except OSError:
        return "the current folder"
    return ""
