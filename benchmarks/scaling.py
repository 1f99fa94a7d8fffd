"""What more ranks would bring: a step and an all-reduce measured on two processes, the rest computed.

Three Transformer encoders. On two ranks at once: seconds of a training step without any exchange, and of the all-reduce
of its gradients (`add_up`); and all-reduces from 4 KB to 64 MB, through which `fit_ring` lays its line. Each turn is a
job of its own. The efficiency on 1 to 64 ranks follows from `ring_seconds`: computed, not run. On a machine with two
GPUs or more the ranks take one each and NCCL; not run so far. Also the load before, per core: a busy machine is slow.
Writes results/scaling.json.
Run: python benchmarks/scaling.py    (on a quiet machine: two processes need two cores)
"""
import os
import statistics
import time

import torch
import torch.distributed as dist
from torch import nn

from mmtutor.course import records
from mmtutor.course.jobs import launch
from mmtutor.processes import Team
from mmtutor.scaling import add_up, efficiency, fit_ring, ring_seconds
from mmtutor.transformer import Encoder

MODELS = {"small": (2, 64, 4), "medium": (4, 256, 4), "large": (6, 512, 8)}  # layers, width, heads
BATCH, TOKENS = 16, 32
SIZES = [2**12, 2**15, 2**18, 2**21, 2**24, 2**26]  # bytes
RANKS = [1, 2, 4, 8, 16, 32, 64]
TURNS = (0, 1, 2)


def timed(work, us: Team, repeats: int) -> float:
    "Median seconds of a call, after two to warm up; all ranks begin together."
    wait = torch.cuda.synchronize if us.device.type == "cuda" else lambda: None
    taken = []
    for _ in range(repeats + 2):
        us.wait()
        begun = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[2:])


def measure(models: dict, sizes: list, repeats: int) -> dict:
    "On each rank of a job: name → (parameters, seconds of a step, of its all-reduce), and seconds by size."
    gpu = dist.get_backend() == "nccl"
    us = Team(dist.get_rank(), dist.get_world_size(), torch.device("cuda" if gpu else "cpu"))
    found = {}
    for name, (depth, dim, heads) in models.items():
        torch.manual_seed(us.rank)
        model = Encoder(depth, dim, heads).to(us.device)
        x = torch.randn(BATCH, TOKENS, dim, device=us.device)
        optimiser = torch.optim.AdamW(model.parameters(), 1e-4)

        def step(model=model, x=x, optimiser=optimiser):
            optimiser.zero_grad()
            nn.functional.mse_loss(model(x), x).backward()
            optimiser.step()
        seconds = timed(step, us, repeats)
        gradients = [torch.randn_like(p) for p in model.parameters()]
        found[name] = [sum(g.numel() for g in gradients), seconds, timed(lambda g=gradients: add_up(g), us, repeats)]
    by_size = []
    for size in sizes:
        x = torch.zeros(size // 4, device=us.device)
        by_size.append(timed(lambda x=x: dist.all_reduce(x), us, repeats))
    return {"models": found, "sizes": by_size}


def figures(turns: list[dict], sizes: list) -> dict:
    "The record from the turns' measurements (of rank 0)."
    medians = [statistics.median(turn["sizes"][i] for turn in turns) for i in range(len(sizes))]
    latency, bandwidth = fit_ring(sizes, medians)
    lines = {}
    for name, (parameters, *_) in turns[0]["models"].items():
        steps, exchanges = ([1000 * turn["models"][name][i] for turn in turns] for i in (1, 2))
        step = statistics.median(steps) / 1000
        expected = {n: ring_seconds(4 * parameters, n, latency, bandwidth) for n in RANKS}
        lines[name] = {"parameters": parameters, "step ms": records.spread(steps),
                       "exchange ms": records.spread(exchanges)}
        for kind in ("weak", "strong"):
            lines[name][f"{kind} efficiency"] = {
                str(n): round(efficiency(step, t, n, strong=kind == "strong"), 4) for n, t in expected.items()}
    return {"latency ms": round(1000 * latency, 4), "bandwidth GB/s": round(bandwidth / 1e9, 4), "models": lines,
            "all-reduce ms by bytes": {str(size): round(1000 * t, 4) for size, t in zip(sizes, medians)}}


if __name__ == "__main__":
    begun, load = records.commit(), os.getloadavg()[0] / os.cpu_count()
    turns = [launch(measure, MODELS, SIZES, 9, seconds=300)[0] for _ in TURNS]
    found = figures(turns, SIZES) | {"load per core before": round(load, 2)}
    print(found)
    print(records.record("scaling", "python benchmarks/scaling.py", TURNS, found, begun=begun))
