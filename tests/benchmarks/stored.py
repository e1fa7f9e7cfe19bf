"""Time of training on rows streamed from a file, compared with rows in memory and with only reading the file.

    python tests/benchmarks/stored.py [--rows 250000] [--rounds 3]

784-128-10 at batch 256; the file is in the page cache if it fits there. Prints seconds per epoch, and separately the
time before the first epoch, which includes the first scan of the file. Each case runs in its own process, in turn;
medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WIDTH = 784
CHILD = """
import json, sys, time
import specnet
document, times = json.load(open("e.json")), []
document["data"]["train"]["in_memory"] = sys.argv[1] == "memory"

def watch(event):
    if event.kind in ("start", "epoch"):
        times.append(time.perf_counter())

begin = time.perf_counter()
specnet.train(document, out="run-" + sys.argv[1], force=True, listeners=[watch])
(peak,) = [int(line.split()[1]) / 1e3 for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps([times[0] - begin, (times[-1] - times[0]) / (len(times) - 1), peak]))
"""
READ = """
import json, time
begin = time.perf_counter()
with open("x.npy", "rb", buffering=0) as file:
    buffer = bytearray(2**24)
    while file.readinto(buffer):
        pass
print(json.dumps([0, time.perf_counter() - begin, 0]))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        x = np.lib.format.open_memmap(folder / "x.npy", "w+", "f4", (options.rows, WIDTH))
        for start in range(0, options.rows, 10_000):
            part = x[start : start + 10_000]
            part[...] = np.random.default_rng(start).random(part.shape, np.float32)
        x.flush()
        np.save(folder / "y.npy", np.arange(options.rows) % 10)
        layers = [{"type": "affine", "units": 128}, {"type": "relu"}, {"type": "affine", "units": 10}]
        document = {
            "model": {"input_shape": [WIDTH], "layers": layers},
            "data": {"train": {"inputs": "x.npy", "targets": "y.npy"}},
            "training": {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 256},
        }
        (folder / "e.json").write_text(json.dumps(document))
        cases = {"in memory": [CHILD, "memory"], "streamed": [CHILD, "file"], "read only": [READ]}
        results: dict[str, list[list[float]]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case, (code, *arguments) in cases.items():
                command = [sys.executable, "-c", code, *arguments]
                process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
                results[case].append(json.loads(process.stdout))
    print(f"{options.rows * WIDTH * 4 / 1e9:.1f} GB")
    for case, values in results.items():
        first, epoch, peak = (statistics.median(column) for column in zip(*values, strict=True))
        details = f", {first:.2f} s before the first epoch, peak memory {peak:.0f} MB" if peak else ""
        print(f"{case:12} {epoch:6.2f} s per epoch{details}")


if __name__ == "__main__":
    main()
