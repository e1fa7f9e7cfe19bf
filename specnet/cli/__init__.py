"""The command line, a thin layer over the package. Only this package imports typer and rich.

May import every other package. `main` is the entry point; `app` contains the table of subcommands.
"""

import atexit
import gc
import os
import signal
import sys
from typing import NoReturn

from specnet.cli import streams
from specnet.mpi.launcher import is_launched, share_cores


def main() -> None:
    """Run the `specnet` command. On SIGINT it exits with 130, even during its imports.

    Under an MPI launcher, SIGINT kills the process until MPI is initialized: the launcher then ends the other
    processes, which would otherwise wait for this one.
    """
    streams.prepare()
    signal.signal(signal.SIGINT, signal.SIG_DFL if is_launched() else _exit_on_interrupt)
    share_cores()
    # Imports create 200,000 lasting objects; scanning them takes a tenth of the start-up time.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)  # or the interpreter searches all of them for cycles once more when it ends
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # Pydantic would search all installed packages for them
    from specnet.cli.app import run

    run()


def _exit_on_interrupt(_signal: int, _frame: object) -> NoReturn:
    sys.exit(130)
