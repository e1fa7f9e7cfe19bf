"""Run specnet commands as processes: cold ones with --full, else forked from a process that has imported the package.

A fork is a process of its own, with its own working folder, environment, standard streams and exit status; it starts in
a tenth of the time that a new interpreter takes.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FORKS = hasattr(os, "fork") and sys.platform != "darwin"
"""Whether commands are forked; conftest.py turns this off for --full."""

SERVER = """
import json, os, signal, sys, traceback
import h5py, numpy, pydantic, rich.progress, rich.table
import specnet.cli, specnet.cli.app, specnet.inspection, specnet.interop, specnet.schema, specnet.testing
import specnet.prediction.streaming, specnet.training.sweep
import specnet.training.runs.replay, specnet.training.runs.scaffold
from specnet.spec.registry import layer_types

layer_types()

def command(job):
    signal.alarm(120)  # a command that hangs fails its test
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    for descriptor, name in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
    sys.argv = ["specnet", *job["arguments"]]
    code = 0
    try:
        specnet.cli.main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        command(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

_server: subprocess.Popen | None = None


def run_specnet(*arguments, cwd=None, env=None):
    """Run a specnet command; return its exit status, standard output and standard error."""
    arguments = [*map(str, arguments)]
    if not FORKS:
        command = [sys.executable, "-m", "specnet", *arguments]
        process = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
        return process.returncode, process.stdout, process.stderr
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        job = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "env": dict(env or os.environ)}
        server = _running_server()
        server.stdin.write(json.dumps({**job, "out": str(out), "err": str(err)}) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return code, out.read_text(), err.read_text()


def _running_server():
    global _server  # noqa: PLW0603 - one for all tests of a worker
    if _server is None or _server.poll() is not None:
        command = [sys.executable, "-c", SERVER]
        _server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(_server.kill)
    return _server
