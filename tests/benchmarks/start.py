"""A cold process that imports specnet, loads a checkpoint and predicts, beside the bare imports of three packages.

    python tests/benchmarks/start.py [--rounds 15]

Processes run in turn; medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import specnet

FLOOR = "import numpy, h5py, pydantic"
CONTENDERS = {
    "import numpy": "import numpy",
    "import numpy, h5py, pydantic (the floor)": FLOOR,
    "specnet: import, load, predict one row": "import specnet; specnet.load({path!r}).predict([[0.5] * 784])",
    "import torch": "import torch",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.h5")
        layers = [{"type": "affine", "units": 256}, {"type": "relu"}, {"type": "affine", "units": 10}]
        specnet.save(path, specnet.build(specnet.ModelSpec(input_shape=(784,), layers=layers)))
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, code in CONTENDERS.items():
                began = time.perf_counter()
                made = subprocess.run([sys.executable, "-c", code.format(path=path)], capture_output=True, check=False)
                if made.returncode == 0:
                    times.setdefault(name, []).append((time.perf_counter() - began) * 1000)
    floor = statistics.median(times[next(name for name, code in CONTENDERS.items() if code == FLOOR)])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:42} {median:7.1f} ms  {median / floor:5.2f} x the floor")


if __name__ == "__main__":
    main()
