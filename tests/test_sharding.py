"""Accelerate, FSDP2 and checkpoints in parts: as one process, on any number of ranks, and damage that is named."""
import os
import shutil
import signal

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from mmtutor import sharding
from mmtutor.course.jobs import JobFailed, launch
from mmtutor.processes import Team, weight_of
from mmtutor.sharding import held, here, load_sharded, save_sharded, shard
from mmtutor.transformer import Encoder

ALONE = Team()


def parts(seed: int = 0, dim: int = 12):
    torch.manual_seed(seed)
    model = nn.Sequential(Encoder(2, dim, 2), nn.Linear(dim, 3)).double()
    x, y = torch.randn(7, 4, 12).double(), torch.randn(7, 4, 3).double()
    return model, x, y


def steps(model, optimiser, x, y, us: Team, count: int) -> list[float]:
    rows, losses = torch.arange(len(x)).tensor_split(us.size)[us.rank], []
    for _ in range(count):
        optimiser.zero_grad()
        loss = F.mse_loss(model(x[rows]), y[rows]) * us.size * len(rows) / len(x)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimiser.step()
        losses.append(sum(us.each(loss.item())) / us.size)
    return losses


def whole(model) -> torch.Tensor:
    full = lambda p: p.full_tensor() if hasattr(p, "full_tensor") else p
    return torch.cat([full(p).detach().flatten() for p in model.parameters()])


def run(us: Team, folder: str, count: int, save: bool = True):
    model, x, y = parts(seed=us.rank if us.size == 1 else 0)
    shard(model, list(model[0].layers), us)
    optimiser = torch.optim.AdamW(model.parameters(), 0.01)
    found = load_sharded(folder, model, optimiser, us)
    losses = steps(model, optimiser, x, y, us, count)
    if save:
        save_sharded(folder, (found or {"step": 0})["step"] + count, model, optimiser, us, {"word": "kept"})
    return found, losses, whole(model), held(model, optimiser)


def work(folder: str, count: int, save: bool):
    return run(Team(dist.get_rank(), dist.get_world_size()), folder, count, save)


@pytest.fixture(scope="module")
def four_steps():
    model, x, y = parts()
    optimiser = torch.optim.AdamW(model.parameters(), 0.01)
    losses = steps(model, optimiser, x, y, ALONE, 4)
    return losses, whole(model), held(model, optimiser)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "Two steps on two ranks, and what they left on the disk."
    folder = tmp_path_factory.mktemp("sharded") / "run"
    return folder, launch(work, str(folder), 2, True, ranks=2, seconds=90)


def test_two_ranks_hold_half_each_and_lose_the_same(two, four_steps):
    losses, _, everything = four_steps
    for found, ours, _, bytes_here in two[1]:
        assert found is None and max(abs(a - b) for a, b in zip(ours, losses)) < 1e-12
        assert all(0.4 < bytes_here[k] / everything[k] < 0.6 for k in everything)
    sums = {k: sum(r[3][k] for r in two[1]) for k in everything}
    assert sums == everything, "nothing is held twice"


def test_one_rank_goes_on_where_two_stopped(two, four_steps, tmp_path):
    folder = shutil.copytree(two[0], tmp_path / "run")
    found, _, weights, _ = run(ALONE, str(folder), 2)
    assert found == {"step": 2, "ranks": 2, "facts": {"word": "kept"}, "notes": []}
    assert (weights - four_steps[1]).abs().max() < 1e-10


def test_three_ranks_go_on_where_two_stopped(two, four_steps, tmp_path):
    folder = shutil.copytree(two[0], tmp_path / "run")
    found = launch(work, str(folder), 2, False, ranks=3, seconds=90)
    for before, losses, weights, _ in found:
        assert before["step"] == 2 and max(abs(a - b) for a, b in zip(losses, four_steps[0][2:])) < 1e-12
        assert (weights - four_steps[1]).abs().max() < 1e-10


# ---- a rank is killed


def dies(folder: str, rank: int, moment: str):
    "One step, saved; one more, and in its save one of two ranks is killed."
    us = Team(dist.get_rank(), 2)
    model, x, y = parts()
    shard(model, list(model[0].layers), us)
    optimiser = torch.optim.AdamW(model.parameters(), 0.01)
    steps(model, optimiser, x, y, us, 1)
    save_sharded(folder, 1, model, optimiser, us)
    steps(model, optimiser, x, y, us, 1)
    die, save = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL), sharding.dcp.save
    if us.rank == rank and moment == "before its part":
        sharding.dcp.save = die
    elif us.rank == rank and moment == "after its part":
        sharding.dcp.save = lambda *a, **b: (save(*a, **b), die())
    elif us.rank == rank:
        sharding.atomically = die
    save_sharded(folder, 2, model, optimiser, us)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return launch(work, str(tmp_path_factory.mktemp("unbroken")), 4, False, seconds=90)


@pytest.mark.slow
@pytest.mark.reliability
@pytest.mark.parametrize("rank, moment", [(1, "before its part"), (1, "after its part"), (0, "before state.json")])
def test_killed_inside_a_save_two_ranks_go_on_with_the_same_bits(tmp_path, unbroken, rank, moment):
    with pytest.raises(JobFailed, match=rf"^launch: rank {rank} was killed \(SIGKILL\)$"):
        launch(dies, str(tmp_path), rank, moment, seconds=60)
    assert (tmp_path / "step-00000002").is_dir() and not (tmp_path / "step-00000002" / "state.json").exists()
    found = launch(work, str(tmp_path), 3, True, seconds=90)
    for (before, _, weights, _), (_, _, expected, _) in zip(found, unbroken, strict=True):
        assert before["step"] == 1 and before["notes"] == [] and torch.equal(weights, expected)
    assert sorted(p.parent.name for p in tmp_path.rglob("state.json")) == ["step-00000001", "step-00000004"]


# ---- on the disk


@pytest.fixture
def saved(tmp_path):
    model, x, y = parts()
    optimiser = torch.optim.AdamW(model.parameters(), 0.01)
    for number in (1, 2, 3):
        steps(model, optimiser, x, y, ALONE, 1)
        save_sharded(tmp_path, number, model, optimiser, ALONE)
    return tmp_path, model, optimiser


def test_a_half_written_newer_one_does_not_push_out_the_whole_one(saved):
    "keep=1: killed while step 3 was saved, continued with a save at another step."
    folder, model, optimiser = saved
    (folder / "step-00000003" / "state.json").unlink()
    save_sharded(folder, 2, model, optimiser, ALONE, keep=1)
    assert [p.name for p in folder.iterdir()] == ["step-00000002"]
    assert load_sharded(folder, model, optimiser, ALONE)["step"] == 2


def test_the_newest_few_stay(saved):
    assert sorted(p.name for p in saved[0].iterdir()) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("name", ["state.json", ".metadata", "__0_0.distcp"])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(saved, name):
    folder, model, optimiser = saved
    path = folder / "step-00000003" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = load_sharded(folder, model, optimiser, ALONE)
    assert found["step"] == 2 and len(found["notes"]) == 1
    assert found["notes"][0].startswith(f"sharded checkpoint step-00000003 is damaged: {name}")


def test_an_unfinished_one_is_passed_over_and_all_damaged_is_an_error(saved):
    folder, model, optimiser = saved
    (folder / "step-00000003" / "state.json").unlink()
    assert load_sharded(folder, model, optimiser, ALONE)["step"] == 2
    (folder / "step-00000002" / "__0_0.distcp").unlink()
    with pytest.raises(ValueError, match="no usable checkpoint: .*step-00000002 is damaged: __0_0.distcp .missing"):
        load_sharded(folder, model, optimiser, ALONE)
    assert load_sharded(folder / "nowhere", model, optimiser, ALONE) is None


def test_a_failed_write_leaves_no_valid_checkpoint(saved, monkeypatch):
    folder, model, optimiser = saved
    import mmtutor.sharding as module

    def full(*_, **__):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(module.dcp, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_sharded(folder, 4, model, optimiser, ALONE)
    assert load_sharded(folder, model, optimiser, ALONE)["step"] == 3


@pytest.mark.bad_input
def test_another_model_is_refused_and_so_is_a_foreign_block(saved):
    folder, model, _ = saved
    other, *_ = parts(dim=16)
    before = whole(other)
    with pytest.raises(ValueError, match=r"load_sharded: 0\.layers.* is \(12,.*\) in the checkpoint and \(16,"):
        load_sharded(folder, other, torch.optim.AdamW(other.parameters()), ALONE)
    assert torch.equal(before, whole(other))
    with pytest.raises(ValueError, match="shard: a block is no part of the model"):
        shard(model, [nn.Linear(2, 2)], ALONE)
    for step, keep in ((-1, 2), (4, 0)):
        with pytest.raises(ValueError, match=f"save_sharded: step {step}, of which {keep} stay"):
            save_sharded(folder, step, model, saved[2], ALONE, keep=keep)
    assert here(before) is before


# ---- Accelerate


def accelerated():
    "Two steps on ragged ranks, accumulated in two ragged parts; the weights and the number of all-reduces."
    from accelerate import Accelerator
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    accelerator, counted = Accelerator(cpu=True, gradient_accumulation_steps=2), []
    model, x, y = parts()
    model, optimiser = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 0.01))
    model.register_comm_hook(None, lambda state, bucket: counted.append(1) or allreduce_hook(state, bucket))
    mine = torch.arange(7).split([5, 2])[accelerator.process_index]
    for _ in range(2):
        weight = weight_of(len(mine))
        for rows in mine.split([len(mine) - 1, 1]):
            with accelerator.accumulate(model):
                accelerator.backward(F.mse_loss(model(x[rows]), y[rows]) * 2 * weight * len(rows) / len(mine))
                optimiser.step()
                optimiser.zero_grad()
    return whole(model), len(counted)


def test_accelerate_with_weights_is_one_process():
    model, x, y = parts()
    optimiser = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(2):
        F.mse_loss(model(x), y).backward()
        optimiser.step()
        optimiser.zero_grad()
    for weights, reduces in launch(accelerated, seconds=90):
        assert (weights - whole(model)).abs().max() < 1e-10 and reduces == 2, "one exchange a step"
