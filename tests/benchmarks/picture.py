"""Draw docs/performance.svg from the JSON files that the benchmarks write; needs matplotlib.

for b in step images predict epoch start; do python tests/benchmarks/$b.py --json $b.json; done
python tests/benchmarks/picture.py docs/performance.svg step.json images.json predict.json epoch.json start.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

PEERS = {
    "torch": "#d95f02",
    "torch, fused": "#d95f02",
    "torch, DataLoader": "#d95f02",
    "torch, tensors": "#d95f02",
    "jax": "#7570b3",
    "onnxruntime": "#1b9e77",
    "keras": "#a6761d",
    "scikit-learn": "#e6ab02",
    "thinc": "#e7298a",
    "textbook": "#666666",
}
GREY, FURTHEST = "#6b7280", 40


def main() -> None:
    """Draw a row per case with a dot per contender, at the contender's time relative to specnet's."""
    target, *sources = sys.argv[1:]
    cases = {
        case: measurements for path in sources for case, measurements in json.loads(Path(path).read_text()).items()
    }
    mpl.rcParams.update({"svg.hashsalt": "specnet", "font.size": 9, "svg.fonttype": "path"})
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(cases) + 1.4), layout="constrained")
    drawn: dict[str, str] = {}
    for line, (_, measurements) in enumerate(cases.items()):
        ours = measurements["specnet"]["time"]
        axes.axhline(line, color="#e5e7eb", linewidth=0.8, zorder=0)
        axes.scatter(measurements["floor"]["time"] / ours, line, marker="|", s=160, color=GREY, zorder=2)
        for name, color in PEERS.items():
            if name in measurements:
                ratio = measurements[name]["time"] / ours
                label = name.split(",")[0]
                marker = "o" if ratio <= FURTHEST else ">"
                axes.scatter(min(ratio, FURTHEST), line, color=color, s=36, marker=marker, zorder=3, alpha=0.85)
                drawn[label] = color
    axes.axvline(1, color="#111827", linewidth=1.2)
    axes.set_xscale("log")
    ticks = (0.25, 0.5, 1, 2, 5, 10, 20, FURTHEST)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks[:-1]] + [f"{FURTHEST} and more"])
    axes.minorticks_off()
    axes.set_yticks(range(len(cases)), list(cases))
    axes.invert_yaxis()
    axes.set_xlabel("time relative to specnet with its kernels (line at 1); to the right: slower.  |  is the floor")
    for name, color in drawn.items():
        axes.scatter([], [], color=color, s=36, label=name)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.12), ncols=len(drawn), frameon=False, columnspacing=1)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
