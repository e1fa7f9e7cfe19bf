"""The start-up time of commands, compared with the bare imports of the libraries they need.

    python tests/benchmarks/commands.py [--rounds 10] [--json FILE]

Times whole processes, in turn; prints medians, and the ratio to the bare imports. Bytecode and files are in the page
cache. The limits are 1.25 for --version and 1.5 for --help, relative to `import typer`, and 1.6 for validating a small
document, relative to `import numpy, pydantic, typer`. The exit status is 1 if a ratio is above its limit.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import specnet

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "examples/digits/digits.model.json"
CASES = {
    "specnet --version": (["--version"], "import typer", 1.25),
    "specnet train --help": (["train", "--help"], "import typer", 1.5),
    "specnet validate": (["validate", str(DOCUMENT)], "import numpy, pydantic, typer", 1.6),
}


def seconds(command: list[str]) -> float:
    """Return the wall time of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(Path(specnet.__file__).parent, quiet=1)
    results = {}
    for name, (arguments, imports, limit) in CASES.items():
        ours, bare = [], []
        for _ in range(options.rounds):
            ours.append(seconds([Path(sys.executable).with_name("specnet"), *arguments]))
            bare.append(seconds([sys.executable, "-c", imports]))
        result = {"seconds": statistics.median(ours), "imports": statistics.median(bare), "limit": limit}
        result["ratio"] = result["seconds"] / result["imports"]
        results[name] = result
        print(
            f"{name:22}{1000 * result['seconds']:6.0f} ms, {imports}: {1000 * result['imports']:.0f} ms, "
            f"ratio {result['ratio']:.2f} (limit {limit})"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    return int(any(result["ratio"] > result["limit"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
