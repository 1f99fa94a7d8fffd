"""The loop on any number of ranks: equal to one process, killed and continued, the capstone under torchrun."""
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor import scaling
from mmtutor.course import checkpoints, records
from mmtutor.course.jobs import JobFailed, launch, torchrun
from mmtutor.finetune import finetune
from mmtutor.optimiser import FinetuneConfig, NotFinite
from mmtutor.processes import Team, team
from mmtutor.scaling import add_up, efficiency, finetune_distributed, fit_ring, ring_seconds, seed_for

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import scaling as bench  # noqa: E402

bad_input = pytest.mark.bad_input
ALONE = Team()
CONFIG = {"epochs": 2, "batch_size": 3, "accumulate": 4, "learning_rate": 0.01, "clip": 0.3}


def data(kind=torch.float64) -> torch.Tensor:
    return torch.randn(20, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(kind)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0, seed: int = 0, kind=torch.float64):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last, self.drop = nn.Linear(6, 16), nn.Linear(16, 2), nn.Dropout(dropout)
        self.rare, self.never = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        self.to(kind)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.first(x))))


def loss_fn(model, batch, generator):
    "A mean over samples; `rare` is used for some samples only, `never` for none; draws noise with dropout."
    said = model(batch)
    noise = torch.randn(said.shape, generator=generator, dtype=said.dtype) if model.drop.p else 0
    each = (said + noise - batch[:, :2]).square().mean(1)
    few = batch[:, 0] > 1.2
    seldom = few.to(each) * model.rare.square().sum() if few.any() else 0.0
    return (each + seldom).mean(), {"largest": each.max().item()}


def vector(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(us: Team, dropout: float = 0.0, seed: int = 0, **more):
    model = Net(dropout, seed)
    options = {k: more.pop(k) for k in ("folder", "stop_after", "validate") if k in more}
    history = finetune_distributed(model, loss_fn, data(), FinetuneConfig(**{**CONFIG, **more}), us, progress=False,
                                   **options)
    return list(history.losses), vector(model), [e["parts"] for e in history], history.ranks


def refused(call) -> str:
    try:
        call()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


# ---- what the ranks do, everything in one job


def validated(us: Team):
    "Scores that are best after the first epoch; only rank 0 is asked."
    asked = []
    scores = iter([3.0, 1.0])

    def validate(model):
        asked.append(not model.training)
        return {"score": next(scores)}
    return [train(us, validate=validate)[1], asked]


def unlike(us: Team):
    rank = us.rank
    bad = data()
    bad[13, 4] = torch.nan
    with_norm = nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2)).double()
    simple = lambda model, batch, generator: (model(batch).square().mean(), {})
    call = lambda model=None, samples=None, **more: lambda: finetune_distributed(
        model or Net(), loss_fn, data() if samples is None else samples, FinetuneConfig(**{**CONFIG, **more}), us,
        progress=False)
    return {"nan": refused(call(samples=bad)),
            "data": refused(call(samples=data()[:20 - rank])),
            "config": refused(call(learning_rate=0.1 * (rank + 1))),
            "model": refused(call(model=Net() if rank == 0 else nn.Linear(6, 2).double())),
            "norm": refused(lambda: finetune_distributed(with_norm, simple, data(), FinetuneConfig(), us))}


def work(folder: str) -> dict:
    us = Team(dist.get_rank(), dist.get_world_size())
    tensors = [torch.full((3,), us.rank + 1.0), torch.ones(2, 2, dtype=torch.float64), torch.ones(1)]
    found = {"sum": [add_up(tensors, 8), *tensors], "alike": train(us, seed=us.rank), "dropout": train(us, 0.5)}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found["alone in the step"] = train(us, accumulate=1, batch_size=8)
    found["warned"] = [str(w.message) for w in heard if "finetune_distributed" in str(w.message)]
    if us.size == 2:
        found |= unlike(us) | {"validated": validated(us)}
        apart = Path(folder) / f"rank-{us.rank}"
        if us.rank == 0:
            train(ALONE, folder=apart, stop_after=1)
        us.wait()
        found["apart"] = refused(lambda: train(us, folder=apart))
    return found


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return {ranks: launch(work, str(tmp_path_factory.mktemp("apart")), ranks=ranks, seconds=100) for ranks in (2, 3)}


def close(a, b, to: float) -> bool:
    return max(abs(x - y) for x, y in zip(a[0], b[0], strict=True)) < to and (a[1] - b[1]).abs().max().item() < to


@pytest.mark.parametrize("ranks", [2, 3])
def test_losses_and_weights_are_those_of_finetune(jobs, ranks):
    "Other weights on the ranks at first, ragged micro-batches, clipping, parameters that few or none use."
    model = Net()
    history = finetune(model, loss_fn, data(), FinetuneConfig(**CONFIG), progress=False)
    assert torch.equal(model.never, torch.ones(2, dtype=torch.float64)) and not torch.equal(model.rare, model.never)
    for found in jobs[ranks]:
        assert close(found["alike"], (history.losses, vector(model)), 1e-12)
        for ours, theirs in zip(found["alike"][2], history, strict=True):
            assert ours["largest"] == pytest.approx(theirs["parts"]["largest"], abs=1e-12)
        assert found["alike"][3] == [[0, ranks]]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("kind, more", [("dropout", {"dropout": 0.5}),
                                        ("alone in the step", {"accumulate": 1, "batch_size": 8})])
def test_random_numbers_and_idle_ranks_change_nothing(jobs, ranks, kind, more):
    reference = train(ALONE, **more)
    assert all(close(found[kind], reference, 1e-12) for found in jobs[ranks])


def test_idle_ranks_are_told_once(jobs):
    first, *others = (found["warned"] for found in jobs[3])
    assert others == [[], []] and len(first) == 1 and "3 ranks, and 1 micro-batch(es) in a step" in first[0]


def test_ranks_drop_different_units():
    "Micro-batches of one step, and steps, have masks of their own; initial weights have not."
    masks = []

    def watch(model, batch, generator):
        masks.append((model.drop(torch.ones(1, 64, dtype=torch.float64)) > 0, torch.rand(3, generator=generator)))
        return loss_fn(model, batch, generator)
    finetune_distributed(Net(0.5), watch, data(), FinetuneConfig(**CONFIG), ALONE, progress=False)
    assert len(masks) == 14
    for k in (0, 1):
        assert len({tuple(m[k].flatten().tolist()) for m in masks}) == len(masks)


def test_adding_up_in_buckets(jobs):
    for ranks, found in jobs.items():
        for one in found:
            count, a, b, c = one["sum"]
            assert count == 3 and a.tolist() == [sum(range(ranks + 1))] * 3
            assert b.tolist() == [[ranks] * 2] * 2 and c.tolist() == [ranks] and b.dtype == torch.float64


def test_rank_0_validates_and_all_keep_the_best(jobs):
    (ours, asked), (theirs, unasked) = (found["validated"] for found in jobs[2])
    assert asked == [True, True] and unasked == [] and torch.equal(ours, theirs)
    assert (ours - train(ALONE, stop_after=2)[1]).abs().max() < 1e-12, "the weights after the first epoch"


@bad_input
def test_what_is_wrong_is_said_on_every_rank(jobs):
    for found in jobs[2]:
        assert found["nan"].startswith("NotFinite: finetune: the loss is nan at step") and "13" in found["nan"]
        assert "rank 1 has another number of samples than rank 0" in found["data"]
        assert "rank 1 has another configuration" in found["config"] and "another parameters" in found["model"]
        assert "1 is batch norm in training mode" in found["norm"] and "own statistics" in found["norm"]
        assert "the ranks found checkpoints of steps [1, 0], expected the same" in found["apart"]


@bad_input
def test_alone_bad_input_speaks_too():
    with pytest.raises(ValueError, match="finetune_distributed: the training data are empty"):
        finetune_distributed(Net(), loss_fn, data()[:0], FinetuneConfig(), ALONE)
    run = lambda model, loss: finetune_distributed(model, loss, data(), FinetuneConfig(), ALONE, progress=False)
    with pytest.raises(ValueError, match="loss_fn returned .*expected one number with a gradient"):
        run(Net(), lambda m, b, g: (torch.ones(3), {}))
    with pytest.raises(ValueError, match="expected a finite number under 'score'"):
        train(ALONE, validate=lambda model: {"score": float("nan")})
    model = Net()
    before = vector(model)
    with pytest.raises(NotFinite, match="norm of the gradient"):
        run(model, lambda m, b, g: ((m(b).sum() * 0).sqrt().mean(), {}))
    assert torch.equal(before, vector(model)), "the weights are those before the step"


# ---- stopped, killed


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 3))
def test_stopped_at_any_step_it_ends_with_the_same_bits(stop):
    import tempfile
    whole = train(ALONE, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        train(ALONE, 0.5, folder=folder, stop_after=stop)
        losses, weights, parts, ranks = train(ALONE, 0.5, folder=folder)
    assert losses == whole[0] and torch.equal(weights, whole[1]) and parts == whole[2] and ranks == [[0, 1]]


def killed(folder: str):
    "Rank 1 of two is killed in the third step."
    us, calls = Team(dist.get_rank(), 2), []

    def deadly(model, batch, generator):
        calls.append(1)
        if us.rank == 1 and len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss_fn(model, batch, generator)
    finetune_distributed(Net(0.5), deadly, data(), FinetuneConfig(**CONFIG, checkpoint_every=1), us, folder=folder,
                         progress=False)


def test_a_killed_rank_ends_the_job_and_one_rank_goes_on(tmp_path):
    with pytest.raises(JobFailed, match=r"^launch: rank 1 was killed \(SIGKILL\)$"):
        launch(killed, str(tmp_path), seconds=60)
    losses, weights, _, ranks = train(ALONE, 0.5, folder=tmp_path, checkpoint_every=1)
    assert ranks[0] == [0, 2] and ranks[1][1] == 1 and 1 <= ranks[1][0] <= 2
    assert close((losses, weights), train(ALONE, 0.5), 1e-12)


# ---- a rank is lost: what the other one says, what stays on the disk, and the same bits afterwards


def steady(us: Team, folder: str, lost: int = -1, how: str = "", at: int = 0) -> list:
    "Ten steps, a checkpoint after each; rank `lost` is killed or falls silent at its `at`-th loss or written file."
    calls, write = [], checkpoints.save_file

    def now() -> bool:
        calls.append(1)
        return us.rank == lost and len(calls) == at

    def loss(model, batch, generator):
        if how != "in a save" and now():
            os.kill(os.getpid(), signal.SIGSTOP if how == "silent" else signal.SIGKILL)
        return loss_fn(model, batch, generator)

    def save_file(tensors, path):
        if how == "in a save" and now():
            Path(path).write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
        write(tensors, path)
    checkpoints.save_file = save_file
    model = Net(0.5)
    config = FinetuneConfig(**{**CONFIG, "epochs": 5}, checkpoint_every=1)
    history = finetune_distributed(model, loss, data(), config, us, folder=folder, progress=False)
    return [list(history.losses), vector(model), history.step]


def launched(folder: str) -> list:
    return steady(Team(dist.get_rank(), dist.get_world_size()), folder)


def unaided(folder: str, seconds: str, lost: str, how: str, at: str) -> None:
    "The same with nobody who ends the others: what torchrun would do is left to the ranks."
    with team(float(seconds)) as us:
        steady(us, folder, int(lost), how, int(at))


def two_alone(*words) -> list[subprocess.Popen]:
    "`unaided` in two processes that have no agent above them."
    code = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "import test_scaling as t; t.torch.set_num_threads(1); t.unaided(*sys.argv[1:])")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stderr=subprocess.PIPE, text=True,
                             env=os.environ | place | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in (0, 1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return launch(launched, str(tmp_path_factory.mktemp("whole")), seconds=90)


@pytest.mark.slow
@pytest.mark.reliability
@pytest.mark.parametrize("lost, how, at", [
    (1, "killed", 2), (1, "killed", 8), (0, "killed", 11), (0, "in a save", 8), (1, "silent", 5)])
def test_the_rank_that_is_left_says_so_and_the_run_ends_with_the_same_bits(tmp_path, whole, lost, how, at):
    "It ends by itself; every checkpoint on the disk can be read; two new ranks go on from the newest."
    ranks = two_alone(tmp_path, 30 if how == "silent" else 60, lost, how, at)
    try:
        _, said = ranks[1 - lost].communicate(timeout=120)
        assert (ranks[lost].poll() is None) == (how == "silent")
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[1 - lost].returncode == 1, said
    assert f"RankLost: rank {1 - lost} of 2: another rank is gone or silent (" in said.splitlines()[-1]
    assert said.rstrip().endswith("Start the same command again: it goes on from the last checkpoint.")
    done = [checkpoints.read_checkpoint(path)[0]["history"]["step"] for path in sorted(tmp_path.iterdir())
            if (path / "state.json").exists()]
    assert done == sorted(done) and len(done) <= 2 and (not done or done[-1] < 10)
    assert done or at == 2, "the run was lost before its first step was done"
    found = launch(launched, str(tmp_path), seconds=90)
    for (losses, weights, step), (before, expected, last) in zip(found, whole, strict=True):
        assert losses == before and torch.equal(weights, expected) and step == last == 10


# ---- the capstone


def together(folder: str, deadly: bool) -> dict:
    "The quick profile without its cost measurements; ranks other than 0 must write nothing."
    from mmtutor import capstone  # here, for the other jobs need not wait for it
    us = Team(dist.get_rank(), dist.get_world_size())
    one = dict.fromkeys(("seconds per epoch", "peak MiB", "samples/s", "TFLOP a step", "MFU"), 1.0)
    capstone.costs = lambda profile: {"cached": one, "recomputed": one}
    if us.rank:
        def refuse(*_, **__):
            raise AssertionError("rank 1 writes")
        capstone.record = capstone.write_report = capstone.atomically = scaling.save_checkpoint = refuse
        capstone.MultimodalModel.save = refuse
    original, calls = capstone.loss_function, []

    def dying(*args):
        inner = original(*args)

        def loss(*batch):
            calls.append(1)
            if deadly and us.rank == 1 and len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(*batch)
        return loss
    capstone.loss_function = dying
    found = capstone.run_together("quick", us, folder=folder)
    return {"test": found.get("test", {}), "calls": len(calls)}


@pytest.mark.slow
def test_the_capstone_on_two_ranks_killed_and_continued_is_that_of_one(tmp_path, built):
    folder = tmp_path / "two"
    with pytest.raises(JobFailed, match=r"rank 1 was killed \(SIGKILL\)"):
        launch(together, str(folder), True, seconds=200)
    assert not list(folder.rglob("result.json")) and len(list(folder.rglob("together/step-*/state.json"))) == 1
    (one,) = launch(together, str(tmp_path / "one"), False, ranks=1, seconds=200)
    first, second = launch(together, str(folder), False, seconds=200)
    assert second["test"] == {} and one["calls"] == 8 and first["calls"] == 3, "one step was done before the kill"
    for kind, figures in one["test"].items():
        for key, figure in figures.items():
            assert first["test"][kind][key]["mean"] == pytest.approx(figure["mean"], abs=1e-6), (kind, key)
    for path in (tmp_path / "one").rglob("result.json"):
        ours, theirs = (json.loads((base / path.relative_to(tmp_path / "one")).read_text())
                        for base in (folder, tmp_path / "one"))
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-6)
    made = json.loads((folder / "capstone-quick.json").read_text())
    assert made["command"] == "torchrun --nproc_per_node 2 -m mmtutor.capstone --profile quick"
    assert not list(folder.rglob("together")) and (folder / "report.html").exists()


def test_the_command_says_what_is_wrong(capsys, monkeypatch, tmp_path):
    from mmtutor import capstone
    monkeypatch.delenv("RANK", raising=False)
    assert capstone.main(["--profile", "fulll", "--folder", str(tmp_path)]) == 1
    assert "mmtutor.capstone: run: no profile 'fulll'; there are frozen," in capsys.readouterr().err
    with pytest.raises(JobFailed, match="(?s)^torchrun: rank . ended with code 1.*no profile 'fulll'"):
        torchrun(["-m", "mmtutor.capstone", "--profile", "fulll", "--folder", str(tmp_path)], seconds=60)


# ---- seeds and expected scaling


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=4), st.lists(st.integers(0, 10**9), min_size=1, max_size=4))
def test_seeds_belong_to_their_numbers(a, b):
    assert (seed_for(*a) == seed_for(*b)) == (a == b) and 0 <= seed_for(*a) < 2**63


@given(st.floats(1e-6, 1e-2), st.floats(1e6, 1e11))
def test_the_line_is_found_again(latency, bandwidth):
    sizes = [1e3, 1e5, 1e7, 1e9]
    found = fit_ring(sizes, [ring_seconds(x, 2, latency, bandwidth) for x in sizes])
    assert found == pytest.approx((latency, bandwidth), rel=1e-3)


def test_ring_seconds_and_efficiency_by_hand():
    assert ring_seconds(8e9, 4, 0.5, 1e9) == 2 * 3 * (0.5 + 2) and ring_seconds(8e9, 1, 0.5, 1e9) == 0
    assert efficiency(3.0, 1.0, 4) == 0.75 and efficiency(4.0, 1.0, 4, strong=True) == 0.5


@bad_input
def test_odd_measurements_are_refused():
    for odd in ((-1, 2, 0, 1), (1, 0, 0, 1), (1, 2, float("nan"), 1), (1, 2, 0, 0)):
        with pytest.raises(ValueError, match="ring_seconds: size"):
            ring_seconds(*odd)
    for sizes, seconds in (([1e3], [1.0]), ([1e3, 1e3], [1.0, 1.0]), ([1e3, 1e4], [1.0]), ([1e3, 1e4], [0.0, 1.0]),
                           ([1e3, float("nan")], [1.0, 1.0])):
        with pytest.raises(ValueError, match="fit_ring: .* expected two different sizes or more"):
            fit_ring(sizes, seconds)
    for odd in ((0.0, 0.1, 2), (1.0, -0.1, 2), (1.0, 0.1, 0), (float("nan"), 0.1, 2)):
        with pytest.raises(ValueError, match="efficiency: .* s of work"):
            efficiency(*odd)


def test_the_benchmark_measures_and_computes():
    turn = launch(bench.measure, {"tiny": [1, 8, 2]}, [4096, 65536], 2, seconds=60)[0]
    parameters, step, exchange = turn["models"]["tiny"]
    assert parameters > 100 and step > 0 and exchange > 0 and len(turn["sizes"]) == 2
    found = bench.figures([turn], [4096, 65536])
    line = found["models"]["tiny"]
    assert line["weak efficiency"]["1"] == 1 == line["strong efficiency"]["1"]
    assert list(line["weak efficiency"]) == [str(n) for n in bench.RANKS]
    assert all(line["strong efficiency"][k] <= line["weak efficiency"][k] for k in line["weak efficiency"])


def test_the_record_is_complete():
    found = records.read("scaling")["figures"]
    assert found["models"].keys() == bench.MODELS.keys() and found["latency ms"] >= 0 < found["bandwidth GB/s"]
    for line in found["models"].values():
        assert line["step ms"]["n"] == 3 and all(0 < v <= 1 for v in line["weak efficiency"].values())
