"""How a step scales over MPI processes, of one BLAS thread each: step, all-reduce, overlap; beside torch's DDP.

python tests/benchmarks/scale.py [--json FILE] measures with 1, 2 and 4 processes of this machine, fits a model to the
figures of 1 and 2, holds it against those of 4, and extends it to 1,024. It needs the extra `mpi`; torch if it is there.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

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
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def seconds(work, barrier=lambda: None):
    """Median of rounds, each long enough to be measured, all processes together."""
    work()
    begun = time.perf_counter()
    work()
    repeats = max(int(0.1 / max(time.perf_counter() - begun, 1e-7)), 3)
    found = []
    for _ in range(ROUNDS):
        barrier()
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
        found["allreduce"][size] = together(lambda array=array: world.sum(array))
    for name, (widths, batch) in NETWORKS.items():
        step, model = stepper(widths, batch, world)
        found["steps"][name] = together(step)
        if world.size == 1:
            for parts in (2, 4, 8, 16, 64, 256, 1024):
                if batch // parts:
                    own, _ = stepper(widths, batch // parts, ALONE)
                    found.setdefault("parts", {}).setdefault(name, {})[batch // parts] = seconds(own)
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
        for a, b in zip(widths[:-1], widths[1:], strict=True):
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


def launched(count):
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = [mpiexec, "-n", str(count), sys.executable, __file__, "--worker"]
    made = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | dict.fromkeys(THREADS, "1")
    )
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--ddp", nargs=3, type=int)
    parser.add_argument("--json")
    given = parser.parse_args()
    if given.worker:
        worker()
    elif given.ddp:
        ddp_worker(*given.ddp)
    else:
        found = {str(count): launched(count) for count in (1, 2, 4)}
        found["ddp"] = ddp(2) if has_torch() else {}
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=1))
        else:
            print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
