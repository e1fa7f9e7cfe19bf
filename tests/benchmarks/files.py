"""Time of saving and loading 100 MB of weights, compared with safetensors, which neither verifies nor syncs.

    python tests/benchmarks/files.py [--rounds 7] [--json FILE]

Each call is the first one in its own process, and the cases run in turn for several rounds; imports are not timed.
Prints medians, and ratios of safetensors' time to specnet's: above 1, specnet is faster. safetensors' save is followed
by an fsync, as specnet's is. The file is in the page cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PRELUDE = """
import os, sys, time
import numpy as np
folder = sys.argv[1]
def timed(call):
    begin = time.perf_counter()
    result = call()
    print(time.perf_counter() - begin)
    return result
"""
IMPORT_SPECNET = "import specnet.checkpoint.read, specnet.checkpoint.write, specnet.layers.affine, hashlib, threading\n"
IMPORT_SAFETENSORS = "from safetensors.numpy import load_file, save_file\n"
ARRAYS = "arrays = {f'l{i}.weight': np.random.default_rng(i).random((1280, 1280), np.float32) for i in range(16)}\n"
MODEL = """
layers = [{"type": "affine", "units": 1280, "bias": False, "weight_init": "zeros"}] * 16
model = specnet.build(specnet.ModelSpec(input_shape=[1280], layers=layers))
for i, value in enumerate(model.parameters.values()):
    value[...] = np.random.default_rng(i).random(value.shape, np.float32)
"""
SYNCED = """
def save_synced():
    save_file(arrays, f"{folder}/out.safetensors")
    with open(f"{folder}/out.safetensors", "rb") as file:
        os.fsync(file.fileno())
timed(save_synced)
"""
CASES = {
    "save, specnet": IMPORT_SPECNET
    + "import specnet\n"
    + MODEL
    + "timed(lambda: specnet.save(f'{folder}/out.h5', model))",
    "save and fsync, safetensors": IMPORT_SAFETENSORS + ARRAYS + SYNCED,
    "verified load, specnet": IMPORT_SPECNET + "import specnet\ntimed(lambda: specnet.load(f'{folder}/m.h5'))",
    "mapped and verified, specnet": IMPORT_SPECNET
    + "import specnet\ntimed(lambda: specnet.load(f'{folder}/m.h5', mmap=True, verify=True))",
    "mapped, specnet": IMPORT_SPECNET + "import specnet\ntimed(lambda: specnet.load(f'{folder}/m.h5', mmap=True))",
    "load, safetensors": IMPORT_SAFETENSORS + "timed(lambda: load_file(f'{folder}/m.safetensors'))",
    "floor: read the bytes": "timed(lambda: open(f'{folder}/m.h5', 'rb').read())",
    "floor: SHA-256 of the bytes": (
        "import hashlib\ndata = open(f'{folder}/m.h5', 'rb').read()\ntimed(lambda: hashlib.sha256(data).digest())"
    ),
}
GOALS = (
    ("verified load, specnet", "load, safetensors", 1.1),
    ("mapped and verified, specnet", "load, safetensors", 1.5),
    ("save, specnet", "save and fsync, safetensors", 0.9),
)


def run(case: str, folder: Path) -> float:
    """Return the seconds that one case takes in its own process."""
    command = [sys.executable, "-c", PRELUDE + CASES[case], str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"{case}: {process.stderr}")
    return float(process.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times: dict[str, list[float]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        for case, file_name in (("save, specnet", "out.h5"), ("save and fsync, safetensors", "out.safetensors")):
            run(case, folder)
            (folder / file_name).rename(folder / file_name.replace("out", "m"))
        for _ in range(options.rounds):
            for case, seconds in times.items():
                seconds.append(run(case, folder))
    medians = {case: statistics.median(seconds) for case, seconds in times.items()}
    for case, seconds in medians.items():
        print(f"{case:32} {seconds * 1e3:8.1f} ms   (best {min(times[case]) * 1e3:.1f})")
    for ours, theirs, goal in GOALS:
        print(f"{theirs} / {ours}: {medians[theirs] / medians[ours]:.2f} (goal {goal})")
    if options.json:
        options.json.write_text(json.dumps(medians, indent=2) + "\n")


if __name__ == "__main__":
    main()
