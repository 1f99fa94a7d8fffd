"""One good call of each public function of chapter 18, on one rank: processes, scaling, sharding."""
import functools
import tempfile
from contextlib import contextmanager

import torch
import torch.distributed as dist
from fuzzed import good
from torch import nn

from mmtutor.optimiser import FinetuneConfig
from mmtutor.processes import (
    Averaged,
    RankLost,
    Team,
    across_ranks,
    gather_rows,
    in_buckets,
    ring_all_reduce,
    team,
    weight_of,
)
from mmtutor.scaling import add_up, efficiency, finetune_distributed, fit_ring, ring_seconds, seed_all, seed_for
from mmtutor.sharding import held, here, load_sharded, save_sharded, shard

CONFIG = FinetuneConfig(epochs=2, batch_size=2, accumulate=2, clip=0.5, warmup=0.2, patience=1)
SPACE = tempfile.TemporaryDirectory()


def a_loss(model, batch, noise):
    "Takes any batch: what a loss function does with odd ones is its own affair."
    return model.weight.sum() * batch.double().sum(), {}


@contextmanager
def one_rank():
    "A process group of this process alone."
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def grouped(function):
    @functools.wraps(function)
    def used(**given):
        with one_rank():
            return function(**given)
    return used


# --- processes ---

@good("processes.RankLost")
def _():
    return lambda: RankLost("rank 1 is gone"), {}


@good("processes.Team")
def _():
    def used(**given):
        us = Team(**given)
        with us.first():
            us.wait()
        return us.each(us.rank), us.said(us.size)
    return used, dict(rank=0, size=1, device=torch.device("cpu"))


@good("processes.team")
def _():
    def used(seconds):
        with team(seconds) as us:
            return us.size
    return used, dict(seconds=60.0)


@good("processes.ring_all_reduce")
def _():
    return ring_all_reduce, dict(values=[torch.randn(7), torch.randn(7), torch.randn(7)])


@good("processes.weight_of")
def _():
    return weight_of, dict(count=3)


@good("processes.in_buckets")
def _():
    return in_buckets, dict(tensors=[torch.randn(3), torch.randn(2, 2), torch.arange(3)], size=24)


@good("processes.Averaged")
def _():
    def used(bucket):
        with one_rank():
            layer = nn.Linear(3, 2)
            averaged = Averaged(layer, bucket)
            with averaged.no_sync():
                layer(torch.randn(4, 3)).sum().backward()
            layer(torch.randn(4, 3)).sum().backward()
            averaged.finish()
            return averaged.reduces, [p.grad for p in layer.parameters()]
    return used, dict(bucket=20)


@good("processes.gather_rows", takes=("return",))  # what it was given, whatever that is, on one rank
def _():
    return gather_rows, dict(rows=torch.randn(3, 2))


@good("processes.across_ranks")
def _():
    loss_fn = lambda *sides: sum(side.double().sum() for side in sides)
    return lambda sides: across_ranks(loss_fn)(*sides), dict(sides=[torch.randn(3, 2), torch.randn(3)])


# --- scaling ---

@good("scaling.seed_for")
def _():
    return lambda numbers: seed_for(*numbers), dict(numbers=(0, 5, 2))


@good("scaling.seed_all")
def _():
    return seed_all, dict(seed=3)


@good("scaling.add_up", changes=("tensors",))
def _():
    return grouped(lambda tensors, bucket: (add_up(tensors, bucket), tensors)), dict(
        tensors=[torch.randn(3), torch.randn(2, 2)], bucket=20)


@good("scaling.finetune_distributed", changes=("model",))
def _():
    return finetune_distributed, dict(model=nn.Linear(2, 2), loss_fn=a_loss, train=torch.randn(5, 2), config=CONFIG,
                                      us=Team(), validate=lambda model: {"score": 1.0}, progress=False, stop_after=2)


@good("scaling.ring_seconds")
def _():
    return ring_seconds, dict(size=1e6, ranks=4, latency=1e-4, bandwidth=1e9)


@good("scaling.fit_ring")
def _():
    return fit_ring, dict(sizes=[1e3, 1e5, 1e6], seconds=[1e-4, 2e-4, 1e-3])


@good("scaling.efficiency")
def _():
    return efficiency, dict(step=0.5, exchange=0.1, ranks=2, strong=True)


# --- sharding ---

def _parts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


@good("sharding.shard")
def _():
    model = _parts()[0]
    return shard, dict(model=model, blocks=[model[0], model[1]], us=Team())


@good("sharding.here")
def _():
    return here, dict(x=torch.randn(3, 2))


@good("sharding.held")
def _():
    return lambda: held(*_parts()), {}


@good("sharding.save_sharded")
def _():
    model, optimizer = _parts()
    folder = tempfile.mkdtemp(dir=SPACE.name)
    return functools.partial(save_sharded, folder), dict(step=4, model=model, optimizer=optimizer, us=Team(),
                                                         facts={"word": "kept", "number": 2}, keep=1)


@functools.cache
def _saved() -> str:
    save_sharded(folder := tempfile.mkdtemp(dir=SPACE.name), 4, *_parts(), Team())
    return folder


@good("sharding.load_sharded")
def _():
    model, optimizer = _parts()
    return functools.partial(load_sharded, _saved()), dict(model=model, optimizer=optimizer, us=Team())
