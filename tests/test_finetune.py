"""The loop against plain PyTorch; resuming to the bit; kills, damage, NaN."""
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mmtutor.course import checkpoints
from mmtutor.finetune import FinetuneConfig, ReadAhead, finetune
from mmtutor.optimiser import NotFinite, schedule

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from killed import Model, loss_fn, validate  # noqa: E402

QUIET = {"progress": False}
pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = FinetuneConfig(epochs=3, batch_size=4, accumulate=3, learning_rate=1e-2)


class Data:
    "Augments with Python's and NumPy's global generators, as many data sets do."
    def __init__(self, count=50, dtype=torch.float32):
        rng = torch.Generator().manual_seed(5)
        self.x = torch.randn(count, 6, generator=rng, dtype=dtype)
        self.y = (self.x[:, 0] > 0).long() + (self.x[:, 1] > 1).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        shift = 0.1 * random.gauss(0, 1) + 0.1 * np.random.normal()  # noqa: NPY002
        return self.x[rows] + shift, self.y[rows]


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def final_files(folder):
    path = max(folder.glob("step-*"))
    return checkpoints.read_checkpoint(path)


# --- one step ---

@given(st.integers(1, 23), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_accumulated_gradient_is_that_of_the_whole(count, size):
    "One window of any length, in micro-batches of any size, in float64."
    data = Data(count, torch.float64)
    grads = []
    for config in (FinetuneConfig(batch_size=count, clip=None),
                   FinetuneConfig(batch_size=size, accumulate=-(-count // size), clip=None)):
        torch.manual_seed(0)
        model = nn.Linear(6, 3).double()
        history = finetune(model, lambda m, b, g: (F.cross_entropy(m(data.x[b]), data.y[b]), {}), torch.arange(count),
                           config, **QUIET)
        assert history.step == 1
        grads.append((model.weight.grad, history.losses[0]))
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=0, atol=1e-14)
    assert grads[0][1] == pytest.approx(grads[1][1], abs=1e-6)


def test_equals_a_plain_loop_with_plain_groups():
    "Partial windows, clipping, decay, schedule: against 15 lines of torch in float64."
    data = Data(50, torch.float64)
    plain = lambda m, rows, g: (F.cross_entropy(m(data.x[rows]), data.y[rows]), {})
    config = replace(CONFIG, clip=0.5, weight_decay=0.3)
    ours, theirs = nn.Linear(6, 3).double(), nn.Linear(6, 3).double()
    theirs.load_state_dict(ours.state_dict())
    finetune(ours, plain, torch.arange(50), config, **QUIET)
    optimizer = torch.optim.AdamW([{"params": [theirs.weight], "weight_decay": 0.3},
                                   {"params": [theirs.bias], "weight_decay": 0.0}], lr=1e-2, betas=(0.9, 0.98))
    sampler = torch.Generator().manual_seed(0)
    windows = [w for _ in range(3) for w in torch.randperm(50, generator=sampler).split(12)]
    assert len(windows) == 15 and {len(w) for w in windows} == {12, 2}
    for step, window in enumerate(windows):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * schedule(step, 15, 0.1)
        optimizer.zero_grad()
        plain(theirs, window, None)[0].backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=0, atol=1e-12)


def test_history_means_are_over_samples():
    history = finetune(nn.Linear(1, 1), lambda m, b, g: (m.weight.sum() * 0 + b.mean(), {"twice": 2 * b.mean()}),
                       torch.arange(7.0), FinetuneConfig(batch_size=2, accumulate=2), **QUIET)
    assert history[0]["loss"] == pytest.approx(3.0) and history[0]["parts"]["twice"] == pytest.approx(6.0)
    assert history[0]["step"] == history.total == 2 and history.finished


# --- surroundings ---

def test_global_generators_are_left_alone_and_the_seed_decides():
    results = []
    for outside in (1, 2):
        torch.manual_seed(outside); random.seed(outside); np.random.seed(outside)  # noqa: NPY002
        model = Model()
        before = checkpoints.random_states()
        finetune(model, loss_fn, Data(), CONFIG, validate=validate, **QUIET)
        assert all(torch.equal(v, before[k]) for k, v in checkpoints.random_states().items())
        results.append(model)
    assert same(*results)


def test_validation_is_not_felt():
    "Same weights with and without a validation that draws random numbers; frozen modes come back."
    a, b = Model(), Model()
    finetune(a, loss_fn, Data(), replace(CONFIG, restore_best=False), **QUIET)
    seen = []
    finetune(b, loss_fn, Data(), replace(CONFIG, restore_best=False), **QUIET,
             validate=lambda m: seen.append((m.training, torch.is_grad_enabled())) or validate(m))
    assert same(a, b) and seen == [(False, False)] * 3
    assert not b.training


def test_best_weights_are_restored_if_asked():
    scores, states = iter([0.1, 0.9, 0.3]), []
    def score(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"score": next(scores)}
    model = Model()
    history = finetune(model, loss_fn, Data(), CONFIG, validate=score, **QUIET)
    assert history.best == 1 and all(torch.equal(v, states[1][k]) for k, v in model.state_dict().items())
    scores = iter([0.1, 0.9, 0.3])
    finetune(model := Model(), loss_fn, Data(), replace(CONFIG, restore_best=False), validate=score, **QUIET)
    assert torch.equal(model.head.weight, states[-1]["head.weight"])


def test_progress_bar_says_loss_rate_and_speed(capfd):
    finetune(Model(), loss_fn, Data(), replace(CONFIG, epochs=1))
    said = capfd.readouterr().err
    assert all(word in said for word in ("loss=", "lr=", "memory=", "MiB", "samples/s", "50/50")), said
    finetune(Model(), loss_fn, Data(), CONFIG, **QUIET)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("at", [3, None])
def test_watchers_see_every_step_and_change_nothing(tmp_path, at):
    "They draw random numbers; called with and without a stop, every step is seen once, an epoch's end with its epoch."
    seen, drawn = [], []
    def watcher(history):
        seen.append((history.step, len(history), len(history.losses), len(history.rates)))
        drawn.append((torch.rand(1), random.random(), np.random.rand()))  # noqa: NPY002
    whole, watched = Model(), Model()
    history = finetune(whole, loss_fn, Data(), CONFIG, validate=validate, **QUIET)
    if at:
        finetune(watched, loss_fn, Data(), CONFIG, validate=validate, watch=[watcher], folder=tmp_path, stop_after=at,
                 **QUIET)
    finetune(watched, loss_fn, Data(), CONFIG, validate=validate, watch=[watcher], folder=tmp_path, **QUIET)
    assert same(whole, watched)
    assert seen == [(step, step // 5, step, step) for step in range(1, history.total + 1)]
    assert history.rates == [1e-2 * schedule(step, 15, 0.1) for step in range(15)]


def test_a_watcher_that_fails_costs_nothing_that_was_saved(tmp_path):
    def failing(history):
        raise RuntimeError("the plot broke")
    with pytest.raises(RuntimeError, match="the plot broke"):
        finetune(Model(), loss_fn, Data(), replace(CONFIG, checkpoint_every=1), watch=[failing], folder=tmp_path,
                 **QUIET)
    assert final_files(tmp_path)[0]["history"]["step"] == 1


# --- early stopping ---

@given(st.integers(1, 10), st.lists(st.integers(0, 4), min_size=6, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_run_ends_after_so_many_epochs_without_a_better_score(patience, scores):
    calls = iter(scores)
    states = []
    def judge(model):
        states.append(model.weight.clone())
        return {"score": float(next(calls))}
    model = nn.Linear(2, 1)
    config = FinetuneConfig(epochs=6, patience=patience)
    history = finetune(model, lambda m, b, g: (m(b).mean(), {}), torch.ones(3, 2), config, validate=judge, **QUIET)
    best, end = 0, 0
    for end, score in enumerate(scores):
        best = end if score > scores[best] else best
        if end - best >= patience:
            break
    assert len(history) == end + 1 and history.best == best and history.finished
    assert torch.equal(model.weight, states[best])
    early = end - best >= patience
    assert history.stopped == (f"no better score in {patience} epochs; the best was that of epoch {best + 1}"
                               if early else None)


def test_early_stopping_is_the_same_after_a_stop_at_any_step(tmp_path):
    "Scores 1, 3, 2, 2 of the epochs, patience 2: four of six epochs, and the same bits wherever it was stopped."
    config = replace(CONFIG, epochs=6, patience=2)
    def judge(model):  # BatchNorm counts the micro-batches: 13 in an epoch
        return {"score": [1.0, 3.0, 2.0, 2.0][int(model.encoders["a"][1].num_batches_tracked) // 13 - 1]}
    whole = finetune(unbroken := Model(), loss_fn, Data(), config, validate=judge, folder=tmp_path / "whole", **QUIET)
    assert whole.step == 20 < whole.total == 30 and whole.finished and whole.best == 1
    for stop in range(1, 21):
        folder = tmp_path / str(stop)
        finetune(Model(), loss_fn, Data(), config, validate=judge, folder=folder, stop_after=stop, **QUIET)
        again = finetune(model := Model(seed=3), loss_fn, Data(), config, validate=judge, folder=folder, **QUIET)
        assert same(model, unbroken) and list(again) == list(whole) and again.stopped == whole.stopped
        assert final_files(folder)[0]["history"]["stopped"] == whole.stopped


def test_a_run_that_ended_early_is_not_taken_up_again(tmp_path):
    config = replace(CONFIG, patience=1)
    judge = lambda model: {"score": 0.0}
    first = finetune(model := Model(), loss_fn, Data(), config, validate=judge, folder=tmp_path, **QUIET)
    assert len(first) == 2 and "no better score in 1 epochs" in first.stopped
    never = lambda *_: pytest.fail("nothing is left to train")
    again = finetune(other := Model(seed=1), never, Data(), config, validate=never, folder=tmp_path, **QUIET)
    assert again.stopped == first.stopped and same(model, other)


@pytest.mark.bad_input
def test_patience_needs_a_score():
    with pytest.raises(ValueError, match="patience is 2 and there is no validate"):
        finetune(Model(), loss_fn, Data(), replace(CONFIG, patience=2), **QUIET)


# --- resuming ---

@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_resume_from_every_step_is_bit_equal(tmp_path, precision):
    "Weights, both AdamW means, every generator, the order, the history: all as in the run that was never stopped."
    config = replace(CONFIG, epochs=2, precision=precision)
    unbroken = Model()
    whole = finetune(unbroken, loss_fn, Data(), config, validate=validate, folder=tmp_path / "whole", **QUIET)
    facts, files = final_files(tmp_path / "whole")
    assert whole.total == 10 and any(k.startswith("adam.exp_avg_sq.") for k in files["state"])
    for stop in range(1, whole.total):
        folder = tmp_path / str(stop)
        first = finetune(Model(), loss_fn, Data(), config, validate=validate, folder=folder, stop_after=stop, **QUIET)
        assert first.step == stop and not first.finished
        torch.manual_seed(stop); random.seed(stop)
        model = Model(seed=9)
        again = finetune(model, loss_fn, Data(), config, validate=validate, folder=folder, **QUIET)
        assert same(model, unbroken) and list(again) == list(whole) and again.losses == whole.losses
        now, tensors = final_files(folder)
        assert {**now, "config": 0} == {**facts, "config": 0}
        assert tensors.keys() == files.keys()
        for name in files:
            assert tensors[name].keys() == files[name].keys()
            assert all(torch.equal(files[name][k], v) for k, v in tensors[name].items()), (stop, name)


class Items:
    "Samples one by one, changed by epoch and row alone."
    def __init__(self):
        self.data = Data()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        epoch, row = index
        return self.data.x[row] + np.float32(np.random.default_rng([epoch, row]).normal()), self.data.y[row]


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_mid_epoch_with_data_that_are_read_ahead(tmp_path, workers):
    "Dropout on, workers on; what a worker has read ahead when the run stops is read again."
    config = replace(CONFIG, epochs=2)
    whole = finetune(unbroken := Model(), loss_fn, ReadAhead(Items(), workers), config, validate=validate,
                     folder=tmp_path / "whole", **QUIET)
    facts, files = final_files(tmp_path / "whole")
    for stop in (1, 4, 5, 7):
        folder = tmp_path / str(stop)
        data = ReadAhead(Items(), workers)
        finetune(Model(), loss_fn, data, config, validate=validate, folder=folder, stop_after=stop, **QUIET)
        torch.manual_seed(stop)
        if stop != 4:  # the same workers go on, or others: their number is of no account either
            data = ReadAhead(Items(), 0 if workers else 2)
        model = Model(seed=9)
        again = finetune(model, loss_fn, data, config, validate=validate, folder=folder, **QUIET)
        assert same(model, unbroken) and again.losses == whole.losses
        now, tensors = final_files(folder)
        assert now == facts and all(torch.equal(v, tensors[name][k]) for name in files for k, v in files[name].items())


def test_the_loader_of_chapter_5_with_workers(tmp_path, monkeypatch):
    "mmtutor.loading reads and augments in two processes; the run is stopped in mid-epoch and continued."
    import datasets

    from mmtutor.loading import Samples, collate
    rows = datasets.Dataset.from_dict({"text": [f"word {i} of many"[:6 + i % 5] for i in range(20)],
                                       "kind": [i % 3 for i in range(20)]})
    shorten = lambda text, dice: text[:dice.integers(1, len(text) + 1)]
    data = lambda workers: ReadAhead(Samples(rows, labels=["kind"], augment={"text": shorten}), workers, collate)
    def loss(model, batch, generator):
        x = torch.tensor([[len(t), t.count("w"), 1.0] for t in batch.text])
        return F.cross_entropy(model(x), batch.labels["kind"]), {"letters": x[:, 0].mean()}
    def fresh(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.3), nn.Linear(16, 3))
    config = FinetuneConfig(epochs=2, batch_size=3, accumulate=2)
    whole = finetune(unbroken := fresh(0), loss, data(2), config, **QUIET)
    finetune(fresh(0), loss, data(2), config, folder=tmp_path, stop_after=2, **QUIET)
    again = finetune(model := fresh(1), loss, data(2), config, folder=tmp_path, **QUIET)
    assert same(model, unbroken) and again.losses == whole.losses and list(again) == list(whole)
    assert whole[0]["parts"]["letters"] != whole[1]["parts"]["letters"]  # each epoch is augmented anew
    assert finetune(fresh(0), loss, data(0), config, **QUIET).losses == whole.losses


def test_reading_ahead_leaves_the_global_generators_alone():
    before = checkpoints.random_states()
    rows = [torch.arange(4), torch.tensor([7, 1])]
    batches = list(ReadAhead(Items()).read_ahead(3, rows))
    assert all(torch.equal(v, before[k]) for k, v in checkpoints.random_states().items())
    assert [len(y) for _, y in batches] == [4, 2] and torch.equal(batches[1][1], Data().y[rows[1]])


def test_a_finished_run_is_not_repeated(tmp_path):
    model = Model()
    history = finetune(model, loss_fn, Data(), CONFIG, validate=validate, folder=tmp_path, **QUIET)
    again = Model(seed=3)
    never = lambda *_: pytest.fail("nothing is left to train")
    assert list(finetune(again, never, Data(), CONFIG, validate=never, folder=tmp_path, **QUIET)) == list(history)
    assert same(model, again)


def test_only_tensors_and_json_and_only_the_newest(tmp_path):
    finetune(Model(), loss_fn, Data(), replace(CONFIG, checkpoint_every=2, keep=3), folder=tmp_path, **QUIET)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{n:08d}" for n in (12, 14, 15)]
    names = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {"model.safetensors", "state.safetensors", "state.json"}


def test_checkpoints_of_another_run_are_refused(tmp_path):
    finetune(Model(), loss_fn, Data(), CONFIG, folder=tmp_path, stop_after=3, **QUIET)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for config, data, message in ((replace(CONFIG, learning_rate=1.0), Data(), "learning_rate 0.01, now 1.0"),
                                  (CONFIG, Data(51), "samples 50, now 51")):
        with pytest.raises(ValueError, match=f"belong to another run .*{message}.*folder of its own"):
            finetune(Model(), loss_fn, data, config, folder=tmp_path, **QUIET)
    frozen = Model()
    frozen.encoders.requires_grad_(False)
    with pytest.raises(ValueError, match="other parameters were trained"):
        finetune(frozen, loss_fn, Data(), CONFIG, folder=tmp_path, **QUIET)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    finetune(Model(), loss_fn, Data(), replace(CONFIG, keep=5, checkpoint_every=1), folder=tmp_path, **QUIET)


# --- not finite ---

def test_nan_in_the_loss_names_the_samples_and_keeps_the_weights(tmp_path):
    "At step 7 of 15; the weights and statistics are those after six good steps."
    data = Data()
    good = Model()
    finetune(good, loss_fn, data, CONFIG, stop_after=6, **QUIET)
    seen = []
    def poisoned(model, batch, generator):
        seen.append(batch)
        x, y = batch
        return loss_fn(model, (x * torch.nan if len(seen) > 18 else x, y), generator)
    model = Model()
    with pytest.raises(NotFinite, match=r"the loss is nan at step 6, samples \[.*weights are those before") as caught:
        finetune(model, poisoned, data, replace(CONFIG, checkpoint_every=2), folder=tmp_path, **QUIET)
    assert same(model, good) and not model.training and all(p.grad is None for p in model.parameters())
    assert caught.value.step == 6 and len(caught.value.indices) == 4
    assert final_files(tmp_path)[0]["history"]["step"] == 6
    finetune(again := Model(), loss_fn, data, replace(CONFIG, checkpoint_every=2), folder=tmp_path, **QUIET)
    finetune(whole := Model(), loss_fn, data, CONFIG, **QUIET)
    assert same(again, whole)


def test_infinite_gradient_with_finite_loss_stops_too():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))
    model = Root()
    with pytest.raises(NotFinite, match="norm of the gradient is (inf|nan) at step 0") as caught:
        finetune(model, lambda m, b, g: (m.w.abs().sqrt() + b.mean(), {}), torch.ones(5), FinetuneConfig(), **QUIET)
    assert sorted(caught.value.indices) == list(range(5)) and model.w == 0


def test_float16_skips_an_overflow_and_gives_up_at_last():
    "The first scale is too large for this slope and is halved until it fits; an infinite gradient never fits."
    model = nn.Linear(4, 1)
    before = model.weight.clone()
    steep = lambda m, b, g: ((m(b) * 100).mean(), {})
    finetune(model, steep, torch.ones(8, 4), FinetuneConfig(epochs=20, precision="float16", warmup=0), **QUIET)
    assert not torch.equal(model.weight, before) and model.weight.isfinite().all()
    endless = lambda m, b, g: ((m.bias - m.bias.detach()).abs().sqrt().sum(), {})  # 0, with an infinite slope
    before = model.bias.clone()
    with pytest.raises(NotFinite, match="gradient"):
        finetune(model, endless, torch.ones(1, 4), FinetuneConfig(epochs=40, precision="float16"), **QUIET)
    assert torch.equal(model.bias, before)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_limit_applies_to_the_unscaled_gradient(precision):
    "Norm 0.05 is left alone, norm 0.5 is cut to 0.1, in 16 bits as in 32."
    for slope, expected in ((0.05, 0.05), (0.5, 0.1)):
        model = nn.Linear(1, 1, bias=False)
        finetune(model, lambda m, b, g: (m(b).float().mean(), {}), torch.tensor([[slope]]),
                 FinetuneConfig(epochs=3, precision=precision, clip=0.1), **QUIET)
        assert model.weight.grad.item() == pytest.approx(expected, rel=1e-3)


def test_the_scale_survives_a_stop(tmp_path):
    "Stopped while the scaler is still halving: skipped steps must not be skipped anew."
    steep = lambda m, b, g: ((m(b) * 100).mean(), {})
    config = FinetuneConfig(epochs=20, precision="float16", warmup=0)
    models = [nn.Linear(4, 1) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    finetune(models[0], steep, torch.ones(8, 4), config, **QUIET)
    finetune(models[1], steep, torch.ones(8, 4), config, folder=tmp_path, stop_after=4, **QUIET)
    finetune(models[1], steep, torch.ones(8, 4), config, folder=tmp_path, **QUIET)
    assert same(*models)


def test_nan_score_is_refused():
    with pytest.raises(ValueError, match="expected a finite number under 'score'"):
        finetune(Model(), loss_fn, Data(), CONFIG, validate=lambda m: {"score": float("nan")}, **QUIET)
    with pytest.raises(ValueError, match="under 'score'"):
        finetune(Model(), loss_fn, Data(), CONFIG, validate=lambda m: {"accuracy": 1.0}, **QUIET)


# --- arguments ---

@pytest.mark.bad_input
def test_other_bad_arguments():
    with pytest.raises(ValueError, match="training data are empty"):
        finetune(Model(), loss_fn, [], CONFIG, **QUIET)
    for loss in (lambda m, b, g: (m(b[0]), {}), lambda m, b, g: (1.0, {}), lambda m, b, g: (torch.tensor(1.0), {})):
        with pytest.raises(ValueError, match="loss_fn returned .*the mean over the batch"):
            finetune(Model(), loss, Data(), CONFIG, **QUIET)


@pytest.mark.bad_input
def test_checkpoints_and_states_that_cannot_be_right(tmp_path):
    for step, keep in ((-1, 2), (10**8, 2), (3, 0)):
        with pytest.raises(ValueError, match=f"save_checkpoint: step {step}, {keep} to keep"):
            checkpoints.save_checkpoint(tmp_path, step, {}, {}, keep)
    before = checkpoints.random_states()
    for states in ({}, before | {"numpy_rest": torch.tensor([900.0, 0, 0])}, before | {"python": torch.arange(3)}):
        with pytest.raises(ValueError, match="set_random_states: these are no states of the generators"):
            checkpoints.set_random_states(states)
    assert all(torch.equal(state, before[name]) for name, state in checkpoints.random_states().items())


def test_facts_are_plain_json(tmp_path):
    finetune(Model(), loss_fn, Data(), CONFIG, folder=tmp_path, stop_after=1, **QUIET)
    wrapped = json.loads((max(tmp_path.glob("step-*")) / "state.json").read_text())
    facts = json.loads(wrapped["content"])["facts"]
    assert facts["config"]["batch_size"] == 4 and facts["history"]["step"] == 1
