"""Several processes: jobs that fail in plain words, the ring, weights, DDP by hand, gathered rows, GradCache."""
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor import processes
from mmtutor.accumulation import GradCache
from mmtutor.course import jobs
from mmtutor.course.jobs import JobFailed, launch, torchrun
from mmtutor.objectives import contrastive_loss
from mmtutor.processes import Averaged, RankLost, Team, across_ranks, gather_rows, ring_all_reduce, team, weight_of

bad_input = pytest.mark.bad_input
ROWS = (7, 4)  # of the ranks


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(11, 5, generator=draw).double(), torch.randn(11, 3, generator=draw).double()


def pairs(rank: int | None = None):
    "Towers, temperature, and the pairs of a rank, or all of them."
    torch.manual_seed(5)
    a, b, scale = net(1), nn.Linear(6, 3).double(), nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    x, y = torch.randn(11, 5).double(), torch.randn(11, 6).double()
    rows = slice(None) if rank is None else slice(*((0, ROWS[0]), (ROWS[0], 11))[rank])
    return a, b, scale, x[rows], y[rows]


def flat(parameters) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in parameters])


def said(call, *args) -> str:
    try:
        call(*args)
    except ValueError as error:
        return str(error)
    return "no error"


# ---- what two processes do; everything in one job


def work() -> dict:
    rank, found = dist.get_rank(), {}
    us = Team(rank, 2)
    found["team"] = [us.each(rank * 10), us.said("from 0" if rank == 0 else None)]
    order = []
    with us.first():
        order.append(time.monotonic())
    found["first"] = us.each(order[0])
    found["weight"] = [weight_of(n) for n in (3 - 2 * rank, rank)]
    found["refused"] = [said(weight_of, 0), said(weight_of, 1 - 3 * rank), said(
        gather_rows, torch.zeros(2, 3 + rank)), said(
        gather_rows, torch.zeros(2, dtype=(torch.float32, torch.float64)[rank]))]
    x, y = samples()
    mine = slice(0, ROWS[0]) if rank == 0 else slice(ROWS[0], 11)
    for name, bucket in (("one bucket", 10**6), ("a bucket each", 1)):
        model = net(rank)
        averaged = Averaged(model, bucket)
        weight, parts = weight_of(ROWS[rank]), torch.arange(11)[mine].tensor_split(2)
        for number, rows in enumerate(parts):
            averaged.sync = number == 1
            (F.mse_loss(model(x[rows]), y[rows]) * weight * len(rows) / ROWS[rank]).backward()
        averaged.finish()
        found[name] = [flat(model.parameters()), averaged.reduces]
    model, unused = net(0), nn.Linear(2, 2).double()
    averaged = Averaged(nn.ModuleList([model, unused]), 1)
    for p in unused.parameters() if rank == 0 else ():  # only rank 0 has a gradient there
        p.sum().backward()
    averaged.finish()
    found["unused"] = [p.grad for p in unused.parameters()]
    a, b, scale, x, y = pairs(rank)
    parameters = [*a.parameters(), *b.parameters(), scale]
    loss = across_ranks(lambda u, v: contrastive_loss(u, v, scale))
    for way in ("gathered", "cached"):
        for p in parameters:
            p.grad = None
        if way == "gathered":
            value = loss(a(x), b(y))
            value.backward()
        else:
            sizes = [len(x) - 2, 2]
            cache = GradCache(lambda part: (a(part[0]), b(part[1])), loss)
            value = cache.backward(list(zip(x.split(sizes), y.split(sizes))))
        gradient = flat(parameters)
        dist.all_reduce(gradient)
        found[way] = [value.detach(), gradient / 2]
    return found


@pytest.fixture(scope="module")
def two():
    return launch(work, ranks=2, seconds=90)


def test_team_talks_in_order(two):
    assert two[0]["team"] == two[1]["team"] == [[0, 10], "from 0"]
    assert all(r["first"][0] < r["first"][1] for r in two), "rank 0 is first"


def test_weights_make_the_mean_of_gradients_exact(two):
    assert [r["weight"] for r in two] == [[1.5, 0.0], [0.5, 2.0]]


@pytest.mark.parametrize("name, reduces", [("one bucket", 1), ("a bucket each", 4)])
def test_by_hand_is_one_process(two, name, reduces):
    model, (x, y) = net(0), samples()
    F.mse_loss(model(x), y).backward()
    for gradient, count in (r[name] for r in two):
        assert count == reduces and (gradient - flat(model.parameters())).abs().max() < 1e-12


def test_a_parameter_that_one_rank_did_not_use(two):
    for r in two:
        assert all(torch.equal(g, torch.full_like(g, 0.5)) for g in r["unused"])


@pytest.mark.parametrize("way", ["gathered", "cached"])
def test_contrast_over_ranks_is_that_of_one_process(two, way):
    "Also for GradCache, with ragged ranks and parts; float64, to 1e-10."
    a, b, scale, x, y = pairs()
    whole = contrastive_loss(a(x), b(y), scale)
    whole.backward()
    for value, gradient in (r[way] for r in two):
        assert (value - whole).abs() < 1e-12
        assert (gradient - flat([*a.parameters(), *b.parameters(), scale])).abs().max() < 1e-10


@bad_input
def test_bad_input_is_named_on_both_ranks(two):
    for r in two:
        nothing, negative, shapes, types = r["refused"]
        assert "0 things here and 0 on all ranks together" in nothing and "none negative" in negative
        assert "gather_rows: the ranks have rows of" in shapes and "(3,)" in shapes and "(4,)" in shapes
        assert "torch.float32" in types and "torch.float64" in types


# ---- alone


def test_alone_everything_is_the_identity(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with team() as us:
        assert (us.rank, us.size) == (0, 1) and us.each(3) == [3] and us.said("x") == "x"
        with us.first():
            us.wait()
    rows = torch.randn(3, 2)
    assert gather_rows(rows) is rows and weight_of(5) == 1
    with pytest.raises(ValueError, match="-1 things here"):
        weight_of(-1)


def test_a_lost_rank_is_told_from_other_errors(monkeypatch):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(processes.dist, "init_process_group", lambda *a, **k: None)
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)
    for text in ("[../gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1", "Timed out waiting 5000ms"):
        with pytest.raises(RankLost, match=r"rank 0 of 2: another rank is gone or silent \(.*\). Start the same"):
            with team():
                raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="^shapes do not match$"), team():
        raise RuntimeError("shapes do not match")


# ---- the ring


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(0, 20), st.integers(0, 10**6))
def test_the_ring_gives_the_sum_and_sends_less_than_twice(ranks, numbers, seed):
    draw = torch.Generator().manual_seed(seed)
    values = [torch.randint(-9, 9, (numbers,), generator=draw).double() for _ in range(ranks)]
    before = [v.clone() for v in values]
    found, sent = ring_all_reduce(values)
    assert all(torch.equal(f, sum(values)) for f in found)
    assert sum(sent) == 2 * (ranks - 1) * numbers and max(sent) - min(sent) <= 2
    assert all(torch.equal(a, b) for a, b in zip(values, before)), "what was put in is as it was"


@bad_input
def test_a_team_has_its_rank_and_a_process_group():
    for rank, size in ((1, 1), (-1, 1), (0, 0), (0, 2)):
        with pytest.raises(ValueError, match=f"Team: rank {rank} of {size}, expected 0 to"):
            Team(rank, size)
    for seconds in (0, float("nan")):
        with pytest.raises(ValueError, match="team: got .* seconds to wait"), team(seconds):
            pass


@bad_input
def test_the_ring_wants_equal_vectors():
    for values in ([], [torch.zeros(3), torch.zeros(4)], [torch.zeros(2, 2)]):
        with pytest.raises(ValueError, match="ring_all_reduce: shapes .* expected one axis"):
            ring_all_reduce(values)


# ---- jobs


def fails(how: str):
    if dist.get_rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("sample 7 is damaged")
    dist.barrier()


def sleeps(folder: str):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(100)


def test_an_error_comes_with_its_rank():
    with pytest.raises(JobFailed, match="^launch: rank 1 of 2 failed: ValueError: sample 7 is damaged\nTraceback"):
        launch(fails, "error", seconds=60)


def test_a_killed_rank_ends_the_job_with_its_signal():
    with pytest.raises(JobFailed, match=r"^launch: rank 1 was killed \(SIGKILL\)$"):
        launch(fails, "killed", seconds=60)


def test_a_job_that_hangs_is_ended_and_nothing_is_left(tmp_path):
    with pytest.raises(JobFailed, match="^launch: not done after 9 s; all 1 ranks were stopped$"):
        launch(sleeps, str(tmp_path), ranks=1, seconds=9)
    time.sleep(0.2)
    for path in tmp_path.iterdir():
        assert not psutil.pid_exists(int(path.name)) or psutil.Process(int(path.name)).status() == "zombie"


def test_reports_of_torchrun_are_read():
    line = "  rank      : {} (local_rank: 0)\n  exitcode  : {} (pid: 1)\n"
    assert jobs._reason(line.format(0, 1) + line.format(3, -9)) == "rank 3 was killed (SIGKILL)"
    assert jobs._reason(line.format(0, -15) + line.format(1, 2)) == "rank 1 ended with code 2"
    assert "before its processes ran" in jobs._reason("no such file")


@bad_input
def test_at_least_one_rank():
    with pytest.raises(ValueError, match="torchrun: 0 ranks, expected 1 or more"):
        torchrun(["-m", "this"], ranks=0)


def test_functions_are_found_by_name_by_file_and_as_text():
    by_file = {"name": "net", "text": None, "module": "some_test", "file": __file__}
    assert jobs.find_work(by_file)(0)[0].weight.shape == (8, 5)
    assert sys.modules.pop("some_test").__file__ == __file__
    assert jobs.find_work({**by_file, "module": "mmtutor.processes", "name": "weight_of"}) is weight_of
    assert jobs.find_work({**by_file, "name": "f", "text": "def f(x):\n    return F.relu(x), dist, nn, Tensor"})(
        torch.tensor(-1.0))[0] == 0
