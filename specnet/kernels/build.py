"""Builds kernels.c when the package is installed; without a C compiler, or where it fails, numpy does the work."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("specnet") / "kernels"
LIBRARY = "kernels.so"
FLAGS = ("-O3", "-std=gnu99", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")


class KernelsHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is there while building only
    """Compiles the library into the package's folder, and makes the wheel one of this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run before the wheel, or the link of an editable installation, is made."""
        folder = Path(self.root) / FOLDER
        made = folder / f"{LIBRARY}.{os.getpid()}"
        command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, "-o", str(made), str(folder / "kernels.c"), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603 - the user's own compiler
            made.replace(folder / LIBRARY)
        except (OSError, subprocess.SubprocessError) as error:
            made.unlink(missing_ok=True)
            (folder / LIBRARY).unlink(missing_ok=True)  # one of another machine
            self.app.display_warning(f"specnet: the kernels were not built ({error}); numpy does without them")
            return
        build_data["artifacts"].append(f"/{FOLDER.as_posix()}/{LIBRARY}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
