"""How a training step scales over MPI processes with one BLAS thread each, compared with torch's DDP.

python tests/benchmarks/scale.py [--json FILE] measures a step, an all-reduce, and both at once with 1, 2 and 4
processes on this machine. It predicts the steps of 4 processes from the figures of 1 and 2, compares the predictions
with the measurements, and extrapolates to 1,024 processes. It needs the extra `mpi`, and uses torch if it is installed.
With --check, it measures nothing, and compares the formula for a core per process with figures of 16 cores.

A round launches four processes, each on its own core (two per core if there are two or three cores), and measures its
figures one after the other; processes that take no part in a figure sleep. The minimum over all rounds is printed, as
other load only adds time. Every round measures all figures, because the distance between a virtual machine's cores
changes (an all-reduce then takes three times as long); rounds of one figure would mix this change into it.
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
"""A figure of one round is the minimum of WINDOWS means, each over SECONDS seconds, but at least three calls."""
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
CROWD = math.ceil(4 / len(CORES))
"""How many of the four processes share a core, at most."""
GROUPS = {"1": (0,), "2": (0, 1), "2 on one core": (0, len(CORES)), "4": (0, 1, 2, 3)}
"""The ranks that take part in a figure; rank r runs on core r modulo the number of cores."""
if CROWD == 1:
    del GROUPS["2 on one core"]
FABRICS = {"Ethernet, 10 Gbit/s": (30e-6, 1.1e9), "fast, 200 Gbit/s": (2e-6, 22e9)}
"""Latency of a message in seconds, and bandwidth of a process in bytes per second; typical, not measured here."""
SIXTEEN = {
    "1024-2048-2048-1000, batch 256": (150, 94, 93, 103, 125),
    "1024-2048-2048-1000, batch 2048": (723, 510, 337, 251, 210),
    "784-256-128-10, batch 1024": (14.1, 6.7, 4.6, 3.5, 3.1),
}
"""Milliseconds of a step of 1, 2, 4, 8 and 16 processes on 16 cores (Intel Xeon with AVX-512, numpy 2.5), with one BLAS
thread each, when MPI's all-reduce still summed the gradients."""


def network(widths):
    import specnet

    layers = []
    for width in widths[1:-1]:
        layers += [{"type": "affine", "units": width}, {"type": "relu"}]
    layers.append({"type": "affine", "units": widths[-1]})
    return specnet.build(specnet.ModelSpec(input_shape=(widths[0],), layers=layers))


def shared_step(widths, batch, world):
    """Return a function that performs one training step on this process's rows of a batch."""
    from specnet.mpi.batch_shares import BatchShare
    from specnet.training.losses import SoftmaxCrossEntropy
    from specnet.training.optimizers import Adam
    from specnet.training.spec.training_spec import TrainingSpec
    from specnet.training.step import Step

    model = network(widths)
    if world.size > 1:
        model.move_gradients(world.shared_zeros(model.parameter_count + 1, model.dtype))
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


def single_step(widths, rows, _world):
    """Return a function that performs one step on `rows` rows, without communication between processes."""
    from specnet.mpi.world import SINGLE

    return shared_step(widths, rows, SINGLE)


def all_reduce_of(numbers, world):
    return partial(world.sum, world.shared_zeros(numbers, "f4"))


def overlapped(widths, rows, world):
    """Return a function that starts an all-reduce of the gradients, performs a step, and waits for the all-reduce."""
    gradients, step = np.zeros(parameter_count(widths), "f4"), single_step(widths, rows, world)

    def step_and_reduce():
        request = world.comm.Iallreduce(world.mpi.IN_PLACE, gradients)
        step()
        request.Wait()

    return step_and_reduce


def figures():
    """Yield all figures in order, those to be compared next to each other: group, keys in the result, work factory."""
    for size in SIZES:
        for group in list(GROUPS)[1:]:
            yield group, ("allreduce", str(size)), partial(all_reduce_of, size)
    for name, (widths, batch) in NETWORKS.items():
        for parts in PARTS:
            if batch // parts:
                yield "1", ("parts", name, str(batch // parts)), partial(single_step, widths, batch // parts)
        for group in GROUPS:
            yield group, ("steps", name), partial(shared_step, widths, batch)
        for group in ("2", "4"):
            rows = batch // len(GROUPS[group])
            yield group, ("overlap", name, "alone"), partial(single_step, widths, rows)
            yield group, ("overlap", name, "all-reduce"), partial(all_reduce_of, parameter_count(widths))
            yield group, ("overlap", name, "at once"), partial(overlapped, widths, rows)


def worker():
    """Measure one round in each of four processes; the first process prints the figures as JSON."""
    from specnet.mpi import MpiWorld, launched_world

    world = launched_world(wanted=True)
    pin(world.rank)
    groups = {}
    for group, ranks in GROUPS.items():
        groups[group] = MpiWorld(world.comm.Split(world.rank in ranks, world.rank))
    results = {}
    for group, (*parents, last), make in figures():
        ready = world.comm.Ibarrier()
        while not ready.Test():
            time.sleep(0.001)
        if world.rank in GROUPS[group]:
            node = results.setdefault(group, {})
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = seconds_per_call(groups[group].comm, make(groups[group]))
    if world.rank == 0:
        print(json.dumps(results))


def timed(barrier, work, repeats):
    """Return the seconds per call of `work`, called `repeats` times in all processes after a barrier."""
    barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def seconds_per_call(comm, work):
    """Return the seconds per call of `work` in all processes of a group, which all make the same number of calls."""
    timed(comm.Barrier, work, 3)
    repeats = max(int(SECONDS / comm.bcast(timed(comm.Barrier, work, 3))), 3)
    return min(timed(comm.Barrier, work, repeats) for _ in range(WINDOWS))


def pin(rank):
    """Pin a process to its core, if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {CORES[rank % len(CORES)]})


def ddp_worker(rank, size, port):
    """Time the same networks with torch's DistributedDataParallel over gloo and fused Adam; rank 0 prints them."""
    import torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)  # but not pinned to a core, because gloo runs additional threads
    torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
    results = {}
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
        results[name] = min(timed(torch.distributed.barrier, step, repeats) for _ in range(WINDOWS))
    if rank == 0:
        print(json.dumps(results))
    torch.distributed.destroy_process_group()


def run_mpi_round():
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = [mpiexec, "-n", "4", sys.executable, __file__, "--worker"]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(process.stdout.splitlines()[-1])


def run_ddp(count):
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


def minimum(rounds):
    """Return the minimum of each figure over the rounds."""
    first = rounds[0]
    if isinstance(first, dict):
        return {key: minimum([figures_of_round[key] for figures_of_round in rounds]) for key in first}
    return min(rounds)


def measure(rounds):
    """Measure several rounds, specnet and torch in turn, so that other load on the machine affects both alike."""
    results = []
    for _ in range(rounds):
        results.append(run_mpi_round())
        if has_torch():
            results[-1]["ddp"] = run_ddp(2)
    return results


def parameter_count(widths):
    return sum(a * b + b for a, b in itertools.pairwise(widths))


def reduction(processes, numbers, latency, rate):
    """Return the seconds of an all-reduce by halving and doubling: log2(P) rounds, 2 (P - 1) / P of the numbers."""
    return math.log2(processes) * latency + 2 * (processes - 1) / processes * numbers * rate


def interpolated_step(parts, full_batch, batch, rows):
    """Return the seconds of a step on `rows` rows without communication, interpolated between measured sizes."""
    sizes = sorted((int(size), seconds) for size, seconds in {**parts, str(batch): full_batch}.items())
    return float(np.interp(rows, [size for size, _ in sizes], [seconds for _, seconds in sizes]))


def predict_four(results):
    """Predict the seconds of a step of 4 processes from the figures of 1 and 2.

    Each doubling of the processes adds what it added to the first one beyond the work: the reduction, and waiting for
    each other and for memory. With a core for each process, both doublings add what the second core did:
    T(P) = C(batch / P) + waiting * log2(P). If processes share cores, the second doubling adds what the second process
    on a core did.
    """
    predictions = {}
    for name, (_, batch) in NETWORKS.items():
        alone, steps = results["1"]["parts"][name], {group: results[group]["steps"][name] for group in GROUPS}
        half, quarter = alone[str(batch // 2)], alone[str(batch // 4)]
        first = steps["2"] - half
        second = first if CROWD == 1 else steps["2 on one core"] - CROWD * half
        predictions[name] = CROWD * quarter + first + second
    return predictions


def fitted(measured, points):
    """Fit T(P) = work / P + waiting * log2(P) to the first `points` of the figures of 1, 2, 4, ... processes.

    Returns the prediction for all of them, and `waiting`. The fit minimizes the sum of the squared relative errors.
    """
    doublings = np.arange(len(measured))
    terms = np.stack([0.5**doublings, doublings], axis=1)
    relative = terms / np.array(measured)[:, np.newaxis]
    coefficients = np.linalg.lstsq(relative[:points], np.ones(points), rcond=None)[0]
    return terms @ coefficients, coefficients[1]


def show_check():
    """Print how far the formula for a core per process is off on 16 cores, fitted to all figures or to some of them."""
    print(f"| 16 cores: step, ms | {' | '.join(str(2**k) for k in range(5))} | waiting |\n|{'---|' * 7}")
    for name, measured in SIXTEEN.items():
        print(f"| {name} | {' | '.join(map(str, measured))} | |")
        for points, which in ((5, "all"), (3, "1, 2 and 4")):
            predicted, waiting = fitted(measured, points)
            cells = [f"{p:.3g} ({p / m - 1:+.0%})" for p, m in zip(predicted, measured, strict=True)]
            print(f"| fitted to {which} | {' | '.join(cells)} | {waiting:.2g} |")


def extrapolate(results):
    """Predict steps of processes with a core each: seconds by fabric, network and number of processes."""
    tables = {}
    for fabric, (latency, bandwidth) in FABRICS.items():
        for name, (widths, batch) in NETWORKS.items():
            parts, full_batch = results["1"]["parts"][name], results["1"]["steps"][name]
            for count in (1, 8, 32, 128, 1024):
                compute = interpolated_step(parts, full_batch, batch, max(batch / count, 1))
                wire = 0.0 if count == 1 else reduction(count, parameter_count(widths), latency, 4 / bandwidth)
                tables.setdefault(fabric, {}).setdefault(name, {})[count] = compute + wire
    return tables


def show(rounds):
    """Print the minimum of all rounds, and the predictions, as Markdown tables."""
    results = minimum(rounds)
    print(f"| step, µs | {' | '.join(GROUPS)} | torch DDP, 2 |\n|---|{'---|' * (len(GROUPS) + 1)}")
    for name in NETWORKS:
        cells = [f"{results[key]['steps'][name] * 1e6:,.0f}" for key in GROUPS]
        print(f"| {name} | {' | '.join(cells)} | {results.get('ddp', {}).get(name, math.nan) * 1e6:,.0f} |")
    several = list(GROUPS)[1:]
    print(f"\n| all-reduce by vector length, µs | {' | '.join(several)} |\n|---|{'---|' * len(several)}")
    for size in SIZES:
        cells = [f"{results[key]['allreduce'][str(size)] * 1e6:,.1f}" for key in several]
        print(f"| {size:,} | {' | '.join(cells)} |")
    for group in ("2", "4"):
        print(f"\n| overlap with {group}, µs | alone | all-reduce | one after the other | at once |\n|{'---|' * 5}")
        for name, figure in results[group]["overlap"].items():
            alone, wire, both = (figure[key] * 1e6 for key in ("alone", "all-reduce", "at once"))
            print(f"| {name} | {alone:,.0f} | {wire:,.0f} | {alone + wire:,.0f} | {both:,.0f} |")
    print("\n| 4 processes, µs | predicted | measured | error |\n|---|---|---|---|")
    for name, prediction in predict_four(results).items():
        measured = results["4"]["steps"][name]
        print(f"| {name} | {prediction * 1e6:,.0f} | {measured * 1e6:,.0f} | {prediction / measured - 1:+.0%} |")
    for fabric, table in extrapolate(results).items():
        counts = list(next(iter(table.values())))
        print(f"\n| {fabric}: step, µs | {' | '.join(map(str, counts))} |\n|---|{'---|' * len(counts)}")
        for name, times in table.items():
            print(f"| {name} | {' | '.join(f'{time * 1e6:,.0f}' for time in times.values())} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--ddp", nargs=3, type=int)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", help="write the figures to this file, or print them from it if it exists")
    options = parser.parse_args()
    if options.worker:
        worker()
    elif options.ddp:
        ddp_worker(*options.ddp)
    elif options.check:
        show_check()
    elif options.json and Path(options.json).exists():
        show(json.loads(Path(options.json).read_text()))
    else:
        results = measure(options.rounds)
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1))
        show(results)


if __name__ == "__main__":
    main()
