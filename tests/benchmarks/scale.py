"""How a step scales over MPI processes, of one BLAS thread each: step, all-reduce, overlap; beside torch's DDP.

python tests/benchmarks/scale.py [--json FILE] measures with 1, 2 and 4 processes of this machine, fits a model to the
figures of 1 and 2, holds it against those of 4, and extends it to 1,024. It needs the extra `mpi`, and takes torch.

A round launches four processes, each on a core (two to a core where there are two or three), and measures its figures
one after the other, while processes that have no part in one sleep. What is shown is the least of all rounds, of every
figure, as what else the machine does only adds to it; and a virtual machine's cores come nearer to each other and move
apart (an all-reduce then takes three times as long), which rounds of one figure alone would mix up with what it is.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from specnet.mpi.launcher import THREADS

NETWORKS = {
    "64-32-10, batch 32": ((64, 32, 10), 32),
    "784-256-128-10, batch 128": ((784, 256, 128, 10), 128),
    "784-256-128-10, batch 1024": ((784, 256, 128, 10), 1024),
    "1024-2048-2048-1000, batch 256": ((1024, 2048, 2048, 1000), 256),
}
SIZES = (1, 64, 1024, 16_384, 131_072, 1_048_576, 8_388_608)
PARTS = (2, 4, 8, 16, 64, 256, 1024)
WINDOWS, SECONDS = 3, 0.05
"""A figure is the least of so many means in each round, each over so long or three steps."""
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
CROWD = math.ceil(4 / len(CORES))
"""How many of four processes share a core."""
GROUPS = {"1": (0,), "2": (0, 1), "2 on one core": (0, len(CORES)), "4": (0, 1, 2, 3)}
"""The processes of a figure by rank; rank r is on core r modulo the cores."""
if CROWD == 1:
    del GROUPS["2 on one core"]
FABRICS = {"Ethernet, 10 Gbit/s": (30e-6, 1.1e9), "fast, 200 Gbit/s": (2e-6, 22e9)}
"""Latency of a message in seconds, and bytes a second of one process; typical figures, not measured here."""


def network(widths):
    import specnet

    layers = []
    for width in widths[1:-1]:
        layers += [{"type": "affine", "units": width}, {"type": "relu"}]
    layers.append({"type": "affine", "units": widths[-1]})
    return specnet.build(specnet.ModelSpec(input_shape=(widths[0],), layers=layers))


def stepper(widths, batch, world):
    """Make a step of a run on this process's part of a batch."""
    from specnet.mpi.batch_shares import BatchShare
    from specnet.training.losses import SoftmaxCrossEntropy
    from specnet.training.optimizers import Adam
    from specnet.training.spec.training_spec import TrainingSpec
    from specnet.training.step import Step

    model = network(widths)
    settings = TrainingSpec.model_validate(
        {"loss": "softmax_cross_entropy", "optimizer": "adam", "epochs": 1, "batch_size": batch}
    )
    share = BatchShare(world, batch) if world.size > 1 else None
    model.draws.world = world
    step = Step(model, SoftmaxCrossEntropy(), Adam(model), settings, 1, share=share)
    first, stop = world.share(batch)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, widths[0])).astype("f4")[first:stop]
    y = rng.integers(0, widths[-1], batch)[first:stop]
    outputs = np.empty((stop - first, widths[-1]), "f4")
    return lambda: step(0, x, y, None, outputs, batch)


def part(widths, rows, _world):
    """Make a step on so many rows that each process takes for itself."""
    from specnet.mpi.world import SINGLE

    return stepper(widths, rows, SINGLE)


def reducer(numbers, world):
    return partial(world.sum, np.zeros(numbers, "f4"))


def overlapped(widths, rows, world):
    """Make an all-reduce of the gradients that is begun before a step, and ends behind it."""
    vector, alone = np.zeros(size_of(widths), "f4"), part(widths, rows, world)

    def both():
        request = world.comm.Iallreduce(world.mpi.IN_PLACE, vector)
        alone()
        request.Wait()

    return both


def figures():
    """List what is measured, what is compared side by side: its group, its place in the result, and how to make it."""
    for size in SIZES:
        for group in list(GROUPS)[1:]:
            yield group, ("allreduce", str(size)), partial(reducer, size)
    for name, (widths, batch) in NETWORKS.items():
        for parts in PARTS:
            if batch // parts:
                yield "1", ("parts", name, str(batch // parts)), partial(part, widths, batch // parts)
        for group in GROUPS:
            yield group, ("steps", name), partial(stepper, widths, batch)
        for group in ("2", "4"):
            rows = batch // len(GROUPS[group])
            yield group, ("overlap", name, "alone"), partial(part, widths, rows)
            yield group, ("overlap", name, "all-reduce"), partial(reducer, size_of(widths))
            yield group, ("overlap", name, "at once"), partial(overlapped, widths, rows)


def worker():
    """Measure one round in four processes; the first one prints it."""
    from specnet.mpi import MpiWorld, launched_world

    everyone = launched_world(wanted=True)
    pin(everyone.rank)
    groups = {}
    for group, ranks in GROUPS.items():
        groups[group] = MpiWorld(everyone.comm.Split(everyone.rank in ranks, everyone.rank))
    found = {}
    for group, (*places, last), make in figures():
        ready = everyone.comm.Ibarrier()
        while not ready.Test():
            time.sleep(0.001)
        if everyone.rank in GROUPS[group]:
            at = found.setdefault(group, {})
            for place in places:
                at = at.setdefault(place, {})
            at[last] = collectively(groups[group].comm, make(groups[group]))
    if everyone.rank == 0:
        print(json.dumps(found))


def timed(barrier, work, repeats):
    """Seconds of what all processes do so often, from when all are there."""
    barrier()
    begun = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - begun) / repeats


def collectively(comm, work):
    """Seconds of what all processes of a group do, as often in each."""
    timed(comm.Barrier, work, 3)
    repeats = max(int(SECONDS / comm.bcast(timed(comm.Barrier, work, 3))), 3)
    return min(timed(comm.Barrier, work, repeats) for _ in range(WINDOWS))


def pin(rank):
    """Keep a process on its core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {CORES[rank % len(CORES)]})


def ddp_worker(rank, size, port):
    """The same networks with torch's DistributedDataParallel over gloo, Adam fused."""
    import torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)  # and on no core of its own, as gloo has threads beside it
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
        repeats = {"64": 100, "784": 50, "1024": 3}[name.split("-")[0]]
        found[name] = min(timed(torch.distributed.barrier, step, repeats) for _ in range(WINDOWS))
    if rank == 0:
        print(json.dumps(found))
    torch.distributed.destroy_process_group()


def launched():
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = [mpiexec, "-n", "4", sys.executable, __file__, "--worker"]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
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


def least(rounds):
    """Take the least of each figure over rounds."""
    first = rounds[0]
    if isinstance(first, dict):
        return {key: least([found[key] for found in rounds]) for key in first}
    return min(rounds)


def measure(rounds):
    """Measure in turn, so that what the machine does otherwise falls on all alike."""
    found = []
    for _ in range(rounds):
        found.append(launched())
        if has_torch():
            found[-1]["ddp"] = ddp(2)
    return found


def size_of(widths):
    return sum(a * b + b for a, b in itertools.pairwise(widths))


def reduction(processes, numbers, latency, rate):
    """Seconds of an all-reduce by halving and doubling: log2 rounds, 2 (P - 1) / P of the numbers over the wire."""
    return math.log2(processes) * latency + 2 * (processes - 1) / processes * numbers * rate


def share_of_step(parts, whole, batch, rows):
    """Seconds of a step on so many rows alone, between the sizes that were measured."""
    sizes = sorted((int(size), time) for size, time in {**parts, str(batch): whole}.items())
    return float(np.interp(rows, [size for size, _ in sizes], [time for _, time in sizes]))


def predicted(found):
    """Predict the steps of 4 processes from the figures of 1 and 2.

    On top of the work alone comes what two on two cores spend on each other: a round of the all-reduce, and waiting for
    memory. Where four share two cores, so comes what two on one core do, and the round between the cores is made by
    each of a core's processes; with a core for each, a second round, of half the numbers.
    """
    rows = {}
    for name, (_, batch) in NETWORKS.items():
        alone, steps = found["1"]["parts"][name], {group: found[group]["steps"][name] for group in GROUPS}
        half, quarter = alone[str(batch // 2)], alone[str(batch // 4)]
        across, latency = found["2"]["overlap"][name]["all-reduce"], found["2"]["allreduce"]["1"]
        rows[name] = CROWD * quarter + steps["2"] - half
        if CROWD == 1:
            rows[name] += (latency + across) / 2
        else:
            rows[name] += steps["2 on one core"] - CROWD * half + (CROWD - 1) * across
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


def show(rounds):
    """Print all of it as Markdown tables."""
    found = least(rounds)
    print(f"| step, µs | {' | '.join(GROUPS)} | torch DDP, 2 |\n|---|{'---|' * (len(GROUPS) + 1)}")
    for name in NETWORKS:
        cells = [f"{found[key]['steps'][name] * 1e6:,.0f}" for key in GROUPS]
        print(f"| {name} | {' | '.join(cells)} | {found.get('ddp', {}).get(name, math.nan) * 1e6:,.0f} |")
    several = list(GROUPS)[1:]
    print(f"\n| all-reduce of numbers, µs | {' | '.join(several)} |\n|---|{'---|' * len(several)}")
    for size in SIZES:
        cells = [f"{found[key]['allreduce'][str(size)] * 1e6:,.1f}" for key in several]
        print(f"| {size:,} | {' | '.join(cells)} |")
    for group in ("2", "4"):
        print(f"\n| overlap with {group}, µs | alone | all-reduce | one after the other | at once |\n|{'---|' * 5}")
        for name, figure in found[group]["overlap"].items():
            alone, wire, both = (figure[key] * 1e6 for key in ("alone", "all-reduce", "at once"))
            print(f"| {name} | {alone:,.0f} | {wire:,.0f} | {alone + wire:,.0f} | {both:,.0f} |")
    print("\n| 4 processes, µs | predicted | measured | off |\n|---|---|---|---|")
    for name, told in predicted(found).items():
        measured = found["4"]["steps"][name]
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
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", help="write the figures here; read them from here where the file is there already")
    given = parser.parse_args()
    if given.worker:
        worker()
    elif given.ddp:
        ddp_worker(*given.ddp)
    elif given.json and Path(given.json).exists():
        show(json.loads(Path(given.json).read_text()))
    else:
        found = measure(given.rounds)
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=1))
        show(found)


if __name__ == "__main__":
    main()
