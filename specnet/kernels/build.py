"""Compiles _compiled.c when the package is installed; without a C compiler or Python's headers, numpy is used."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("specnet") / "kernels"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
LIBRARY = "_compiled" + (sysconfig.get_config_var("EXT_SUFFIX") if FREE_THREADED else ".abi3.so")
"""One library for every CPython from 3.11 on; a free-threaded one needs its own."""
FLAGS = (
    *("-O3", "-std=gnu11", "-fPIC", "-pthread", "-fopenmp-simd"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
LINKED = ("-shared", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared",)
LIBRARIES = ("-lm", "-ldl") if sys.platform == "linux" else ("-lm",)


class KernelsHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is only installed while building
    """Compiles the library into the package's folder, and makes the wheel specific to this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel, or the link of an editable installation, is created."""
        folder = Path(self.root) / FOLDER
        compiled = folder / f"{LIBRARY}.{os.getpid()}"
        source, headers = str(folder / "_compiled.c"), f"-I{sysconfig.get_path('include')}"
        compiler, more = (
            shlex.split(os.environ.get(name, default)) for name, default in (("CC", "cc"), ("CFLAGS", ""))
        )
        command = [*compiler, *FLAGS, *more, *LINKED, headers, "-o", str(compiled), source, *LIBRARIES]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=600)  # noqa: S603 - the user's compiler
            compiled.replace(folder / LIBRARY)
        except (OSError, subprocess.SubprocessError) as error:
            compiled.unlink(missing_ok=True)
            (folder / LIBRARY).unlink(missing_ok=True)  # it may be from another machine
            self.app.display_warning(f"specnet: the kernels were not built ({error}); numpy is used instead")
            return
        build_data["artifacts"].append(f"/{FOLDER.as_posix()}/{LIBRARY}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        version = f"cp{sys.version_info[0]}{sys.version_info[1]}"
        build_data["tag"] = f"{version}-{version}t-{platform}" if FREE_THREADED else f"cp311-abi3-{platform}"
