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
LIBRARY = "_compiled.abi3.so"  # for every CPython from 3.11 on
FLAGS = ("-O3", "-std=gnu99", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
LINKED = ("-shared", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared",)


class KernelsHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is only installed while building
    """Compiles the library into the package's folder, and makes the wheel specific to this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel, or the link of an editable installation, is created."""
        folder = Path(self.root) / FOLDER
        compiled = folder / f"{LIBRARY}.{os.getpid()}"
        source, headers = str(folder / "_compiled.c"), f"-I{sysconfig.get_path('include')}"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, *FLAGS, *LINKED, headers, "-o", str(compiled), source, "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603 - the user's compiler
            compiled.replace(folder / LIBRARY)
        except (OSError, subprocess.SubprocessError) as error:
            compiled.unlink(missing_ok=True)
            (folder / LIBRARY).unlink(missing_ok=True)  # it may be from another machine
            self.app.display_warning(f"specnet: the kernels were not built ({error}); numpy is used instead")
            return
        build_data["artifacts"].append(f"/{FOLDER.as_posix()}/{LIBRARY}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"
