"""The command line: a thin shell over the package. typer and rich are imported here and nowhere else.

Imports everything. `main` is the entry point; `app` has the table of subcommands.
"""

import gc
import os
import signal
import sys
from typing import NoReturn

from specnet.mpi.launcher import is_launched, share_cores


def main() -> None:
    """Run the `specnet` command; interrupted, it exits with 130 at any time, also while it imports what it needs.

    Under an MPI launcher it is killed until MPI has begun: the launcher then ends the others, which would wait for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL if is_launched() else _interrupted)
    share_cores()
    gc.set_threshold(
        100_000
    )  # imports make 200,000 objects that all stay: looking through them takes a tenth of a start
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # Pydantic would look for them in all installed packages
    from specnet.cli.app import run

    run()


def _interrupted(_signal: int, _frame: object) -> NoReturn:
    sys.exit(130)
