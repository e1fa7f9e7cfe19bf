"""How a step scales over MPI processes, of one BLAS thread each: step, all-reduce, overlap; beside torch's DDP.

python tests/benchmarks/scale.py [--json FILE] measures with 1, 2 and 4 processes of this machine, fits a model to the
figures of 1 and 2, holds it against those of 4, and extends it to 1,024. It needs the extra `mpi`, and takes torch.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from specnet.training.machine import THREADS, cores

NETWORKS = {
    "64-32-10, batch 32": ((64, 32, 10), 32),
    "784-256-128-10, batch 128": ((784, 256, 128, 10), 128),
    "784-256-128-10, batch 1024": ((784, 256, 128, 10), 1024),
    "1024-2048-2048-1000, batch 256": ((1024, 2048, 2048, 1000), 256),
}
SIZES = (1, 64, 1024, 16_384, 131_072, 1_048_576, 8_388_608)
ROUNDS = 5
FABRICS = {"Ethernet, 10 Gbit/s": (30e-6, 1.1e9), "fast, 200 Gbit/s": (2e-6, 22e9)}
"""Latency of a message in seconds, and bytes a second of one process; typical figures, not measured here."""


def seconds(work):
    """Median of rounds, each long enough to be measured."""
    work()
    begun = time.perf_counter()
    work()
    repeats = max(int(0.1 / max(time.perf_counter() - begun, 1e-7)), 3)
    found = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(repeats):
            work()
        found.append((time.perf_counter() - begun) / repeats)
    return statistics.median(found)


def network(widths):
    import specnet

    layers = []
    for width in widths[1:-1]:
        layers += [{"type": "affine", "units": width}, {"type": "relu"}]
    layers.append({"type": "affine", "units": widths[-1]})
    return specnet.build(specnet.ModelSpec(input_shape=(widths[0],), layers=layers))


def stepper(widths, batch, world):
    """Make a step of a run on this process's part of a batch."""
    from specnet.training.losses import SoftmaxCrossEntropy
    from specnet.training.optimizers import Adam
    from specnet.training.sharing import Share
    from specnet.training.step import Step
    from specnet.training.trainingspec import TrainingSpec

    model = network(widths)
    settings = TrainingSpec.model_validate(
        {"loss": "softmax_cross_entropy", "optimizer": "adam", "epochs": 1, "batch_size": batch}
    )
    share = Share(world, batch) if world.size > 1 else None
    model.draws.world = world
    step = Step(model, SoftmaxCrossEntropy(), Adam(model), settings, 1, share=share)
    first, stop = world.share(batch)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, widths[0])).astype("f4")[first:stop]
    y = rng.integers(0, widths[-1], batch)[first:stop]
    outputs = np.empty((stop - first, widths[-1]), "f4")
    return lambda: step(0, x, y, None, outputs, batch), model


def worker():
    """Measure in each process; the first one prints."""
    from specnet.mpi import launched_world
    from specnet.world import ALONE

    world = launched_world(wanted=True)
    barrier, found = world.comm.Barrier, {"processes": world.size, "steps": {}, "allreduce": {}, "overlap": {}}

    def together(work):  # as many repeats in each process
        work()
        repeats = max(world.comm.bcast(int(0.1 / max(timed(work), 1e-7))), 3)
        times = []
        for _ in range(ROUNDS):
            barrier()
            begun = time.perf_counter()
            for _ in range(repeats):
                work()
            times.append(time.perf_counter() - begun)
        return statistics.median(times) / repeats

    def timed(work):
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    for size in SIZES:
        array = np.ones(size, "f4")
        found["allreduce"][str(size)] = together(lambda array=array: world.sum(array))
    for name, (widths, batch) in NETWORKS.items():
        step, model = stepper(widths, batch, world)
        found["steps"][name] = together(step)
        if world.size == 1:
            for parts in (2, 4, 8, 16, 64, 256, 1024):
                if batch // parts:
                    own, _ = stepper(widths, batch // parts, ALONE)
                    found.setdefault("parts", {}).setdefault(name, {})[str(batch // parts)] = seconds(own)
        else:
            vector = model.store.gradient_vector
            alone, _ = stepper(widths, max(batch // world.size, 1), ALONE)

            def overlapped(vector=vector, alone=alone):
                request = world.comm.Iallreduce(world.mpi.IN_PLACE, vector)
                alone()
                request.Wait()

            apart = together(alone), together(lambda vector=vector: world.sum(vector))
            found["overlap"][name] = (*apart, together(overlapped))
    if world.rank == 0:
        print(json.dumps(found))


def ddp_worker(rank, size, port):
    """The same networks with torch's DistributedDataParallel over gloo, Adam fused."""
    import torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
    found = {}
    for name, (widths, batch) in NETWORKS.items():
        layers = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        model = DistributedDataParallel(nn.Sequential(*layers[:-1]))
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        x, y = torch.randn(batch // size, widths[0]), torch.randint(0, widths[-1], (batch // size,))
        loss = nn.CrossEntropyLoss()

        def step(model=model, optimizer=optimizer, x=x, y=y, loss=loss):
            optimizer.zero_grad(set_to_none=True)
            loss(model(x), y).backward()
            optimizer.step()

        for _ in range(20):
            step()
        repeats = {"64": 1000, "784": 200, "1024": 10}[name.split("-")[0]]
        times = []
        for _ in range(ROUNDS):
            torch.distributed.barrier()
            begun = time.perf_counter()
            for _ in range(repeats):
                step()
            times.append((time.perf_counter() - begun) / repeats)
        found[name] = statistics.median(times)
    if rank == 0:
        print(json.dumps(found))
    torch.distributed.destroy_process_group()


def launched(count, *, one_core=False):
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    pinned = ["taskset", "-c", "0"] if one_core else []
    command = [*pinned, mpiexec, "-n", str(count), sys.executable, __file__, "--worker"]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    made = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(made.stdout.splitlines()[-1])


def ddp(count):
    environment = os.environ | dict.fromkeys(THREADS, "1")
    command = [sys.executable, __file__, "--ddp"]
    processes = [
        subprocess.Popen([*command, str(rank), str(count), "29611"], stdout=subprocess.PIPE, text=True, env=environment)
        for rank in range(count)
    ]
    outputs = [process.communicate()[0] for process in processes]
    return json.loads(outputs[0].splitlines()[-1])


def has_torch():
    return subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False).returncode == 0


def median(rounds):
    """Take the median of each figure over rounds of the same form."""
    first = rounds[0]
    if isinstance(first, dict):
        return {key: median([found[key] for found in rounds]) for key in first}
    if isinstance(first, list):
        return [median(list(values)) for values in zip(*rounds, strict=True)]
    return statistics.median(rounds)


def measure(rounds):
    """Measure in turn, so that what the machine does otherwise falls on all alike."""
    found = {"1": [], "2": [], "2 on one core": [], "4": [], "ddp": []}
    for _ in range(rounds):
        for key in ("1", "2", "4"):
            found[key].append(launched(int(key)))
        found["2 on one core"].append(launched(2, one_core=True))
        if has_torch():
            found["ddp"].append(ddp(2))
    return {key: median(values) for key, values in found.items() if values}


def size_of(widths):
    return sum(a * b + b for a, b in itertools.pairwise(widths))


def fitted(allreduce):
    """Fit the all-reduce of two: t = latency + numbers * rate, by least squares of the relative differences."""
    sizes = np.array([int(size) for size in allreduce])
    times = np.array(list(allreduce.values()))
    design = np.stack([np.ones(len(sizes)), sizes], 1) / times[:, np.newaxis]
    latency, rate = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)[0]
    return max(latency, 0.0), rate


def reduction(processes, numbers, latency, rate):
    """Seconds of an all-reduce by halving and doubling: log2 rounds, 2 (P - 1) / P of the numbers over the wire."""
    return math.log2(processes) * latency + 2 * (processes - 1) / processes * numbers * rate


def share_of_step(parts, whole, batch, rows):
    """Seconds of a step on so many rows alone, between the sizes that were measured."""
    sizes = sorted((int(size), time) for size, time in {**parts, str(batch): whole}.items())
    return float(np.interp(rows, [size for size, _ in sizes], [time for _, time in sizes]))


def predicted(found):
    """Predict 4 processes on the cores of this machine from 1 and 2: the figures, and the model's settings."""
    crowd = max(4 // cores(), 1)  # processes a core
    pair = found["2 on one core"] if crowd > 1 else found["2"]
    latency, rate = fitted(pair["allreduce"])
    rows = {}
    for name, (widths, batch) in NETWORKS.items():
        parts, whole = found["1"]["parts"][name], found["1"]["steps"][name]
        two, four = (share_of_step(parts, whole, batch, batch / count) for count in (2, 4))
        together = max(pair["steps"][name] - crowd * two, 0.0)  # what two spend on each other
        numbers = size_of(widths)
        growth = reduction(4, numbers, latency, rate) / reduction(2, numbers, latency, rate)
        rows[name] = (crowd * four + together * growth, found["4"]["steps"][name])
    return rows


def extended(found):
    """Predict steps with a core for each process, over two networks of machines: seconds by fabric, name, processes."""
    tables = {}
    for fabric, (latency, bandwidth) in FABRICS.items():
        for name, (widths, batch) in NETWORKS.items():
            parts, whole = found["1"]["parts"][name], found["1"]["steps"][name]
            for count in (1, 8, 32, 128, 1024):
                compute = share_of_step(parts, whole, batch, max(batch / count, 1))
                wire = 0.0 if count == 1 else reduction(count, size_of(widths), latency, 4 / bandwidth)
                tables.setdefault(fabric, {}).setdefault(name, {})[count] = compute + wire
    return tables


def show(found):
    """Print all of it as Markdown tables."""
    counts = [key for key in ("1", "2", "2 on one core", "4") if key in found]
    print(f"| step, µs | {' | '.join(counts)} | torch DDP, 2 |\n|---|{'---|' * (len(counts) + 1)}")
    for name in NETWORKS:
        cells = [f"{found[key]['steps'][name] * 1e6:,.0f}" for key in counts]
        print(f"| {name} | {' | '.join(cells)} | {found.get('ddp', {}).get(name, math.nan) * 1e6:,.0f} |")
    print(f"\n| all-reduce of numbers, µs | {' | '.join(counts[1:])} |\n|---|{'---|' * (len(counts) - 1)}")
    for size in SIZES:
        cells = [f"{found[key]['allreduce'][str(size)] * 1e6:,.1f}" for key in counts[1:]]
        print(f"| {size:,} | {' | '.join(cells)} |")
    print("\n| overlap with 2, µs | alone | all-reduce | one after the other | at once |\n|---|---|---|---|---|")
    for name, (alone, wire, both) in found["2"]["overlap"].items():
        print(f"| {name} | {alone * 1e6:,.0f} | {wire * 1e6:,.0f} | {(alone + wire) * 1e6:,.0f} | {both * 1e6:,.0f} |")
    print("\n| 4 processes, µs | predicted | measured | off |\n|---|---|---|---|")
    for name, (told, measured) in predicted(found).items():
        print(f"| {name} | {told * 1e6:,.0f} | {measured * 1e6:,.0f} | {told / measured - 1:+.0%} |")
    for fabric, table in extended(found).items():
        counts = list(next(iter(table.values())))
        print(f"\n| {fabric}: step, µs | {' | '.join(map(str, counts))} |\n|---|{'---|' * len(counts)}")
        for name, times in table.items():
            print(f"| {name} | {' | '.join(f'{time * 1e6:,.0f}' for time in times.values())} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--ddp", nargs=3, type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the figures here; read them from here where the file is there already")
    given = parser.parse_args()
    if given.worker:
        worker()
    elif given.ddp:
        ddp_worker(*given.ddp)
    elif given.json and Path(given.json).exists():
        show(json.loads(Path(given.json).read_text()))
    else:
        found = json.loads(json.dumps(measure(given.rounds)))
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=1))
        show(found)


if __name__ == "__main__":
    main()
