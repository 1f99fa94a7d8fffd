"""The parts of a step against PyTorch's own, and one step against the plainest one."""
from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mmtutor.optimiser import (
    FinetuneConfig,
    NotFinite,
    Optimiser,
    add_gradients,
    parameter_groups,
    schedule,
    split_window,
    take_step,
    to_device,
)


def test_schedule_is_linear_then_cosine():
    total, warm = 40, 8
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.SequentialLR(optimizer, [
        torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm, 1.0, warm - 1),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warm)], [warm])
    for step in range(total):
        assert schedule(step, total, 0.2) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        reference.step()


@given(st.integers(1, 300), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_schedule_never_stops_learning(total, warmup):
    values = [schedule(step, total, warmup) for step in range(total)]
    assert all(0 < v <= 1 for v in values) and max(values) == 1
    top = values.index(1)
    assert values[:top] == sorted(values[:top]) and values[top:] == sorted(values[top:], reverse=True)


class Zoo(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(9, 4), nn.LSTM(4, 4)
        self.attention, self.norm = nn.MultiheadAttention(4, 2), nn.BatchNorm2d(4)
        self.conv, self.tall = nn.Conv2d(4, 4, 3), nn.LayerNorm((4, 4))
        self.queries, self.log_scale = nn.Parameter(torch.zeros(1, 3, 4)), nn.Parameter(torch.zeros(()))
        self.inner = nn.Module()
        self.inner.weights = nn.ParameterDict({"table": torch.zeros(3, 4)})  # no weight by its last name
        self.out = nn.Linear(4, 9)
        self.out.weight = self.embedding.weight  # tied
        self.encoders = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})


def test_parameter_groups_are_a_partition_with_decay_on_matrices_only():
    model = Zoo()
    model.encoders["b"].requires_grad_(False)
    groups = parameter_groups(model, FinetuneConfig(learning_rate=1e-3, encoder_learning_rate=1e-5, weight_decay=0.5))
    names = [n for g in groups for n in g["names"]]
    assert sorted(names) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    found = [id(p) for g in groups for p in g["params"]]
    assert len(set(found)) == len(found) == len(names)
    decayed = {n for g in groups if g["weight_decay"] for n in g["names"]}
    assert decayed == {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "attention.in_proj_weight",
                       "attention.out_proj.weight", "conv.weight", "encoders.a.weight"}
    assert {g["name"] for g in groups} == {
        f"{where}, {how}" for where in ("encoders", "rest") for how in ("decay", "no decay")}
    rates = {n: g["lr"] for g in groups for n in g["names"]}
    assert all((rate == 1e-5) == n.startswith("encoders.") for n, rate in rates.items())
    assert all(dict(model.named_parameters())[n] is p for g in groups for n, p in zip(g["names"], g["params"]))


@pytest.mark.bad_input
@pytest.mark.parametrize("odd", [
    {"learning_rate": float("nan")}, {"learning_rate": -1.0}, {"weight_decay": float("inf")}, {"clip": 0.0},
    {"encoder_learning_rate": -1e-5}, {"betas": (0.9, 1.0)}, {"betas": (0.9,)}])
def test_numbers_that_no_run_can_have(odd):
    with pytest.raises(ValueError, match=f"FinetuneConfig: {next(iter(odd))} (is|are) .*, expected"):
        FinetuneConfig(**odd)


@pytest.mark.bad_input
def test_steps_and_windows_that_cannot_be():
    for odd, words in ((lambda: schedule(-1, 4, 0.1), "schedule: step -1 of 4"), (lambda: schedule(0, 0, 0.1), "of 0"),
                       (lambda: schedule(0, 4, float("nan")), "warm-up of nan"),
                       (lambda: split_window(torch.arange(0), 2), r"split_window: window \(0,\)"),
                       (lambda: split_window(torch.arange(4), 0), "batches of 0")):
        with pytest.raises(ValueError, match=words):
            odd()
    optimiser, loss_fn = Optimiser(nn.Linear(2, 2), FinetuneConfig(), 3), lambda m, b, g: (m(b).sum(), {})
    with pytest.raises(ValueError, match=r"finetune: 1 batches for micro-batches \[\(2,\), \(1,\)\], expected"):
        add_gradients(optimiser, loss_fn, (torch.arange(2), torch.arange(1)), [torch.ones(2, 2)], torch.Generator())
    with pytest.raises(ValueError, match="finetune: loss_fn returned 0.5, expected one number with a"):
        add_gradients(optimiser, lambda m, b, g: (0.5, {}), (torch.arange(2),), [torch.ones(2, 2)], torch.Generator())


@pytest.mark.bad_input
def test_everything_frozen_is_an_error():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of the model is frozen; thaw"):
        parameter_groups(model, FinetuneConfig())


def test_to_device_keeps_the_form():
    Pair = namedtuple("Pair", "values mask")
    batch = {"a": Pair(torch.zeros(2), torch.ones(1)), "b": [torch.zeros(1), "text"], "c": (torch.zeros(3), None)}
    moved = to_device(batch, torch.device("meta"))
    assert isinstance(moved["a"], Pair) and moved["a"].mask.is_meta and moved["c"][0].is_meta
    assert moved["b"][1] == "text" and moved["c"][1] is None and isinstance(moved["b"], list)


# --- one step ---

@given(st.integers(1, 100), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_windows_are_split_evenly_and_in_order(count, size):
    micro = split_window(torch.arange(count), size)
    lengths = [len(rows) for rows in micro]
    assert torch.equal(torch.cat(micro), torch.arange(count)) and len(micro) == -(-count // size)
    assert max(lengths) <= size and max(lengths) - min(lengths) <= 1


def squares(model, batch, generator):
    return F.mse_loss(model(batch), torch.ones(len(batch), 1, dtype=batch.dtype)), {"largest": batch.max()}


@given(st.integers(1, 30), st.integers(1, 9), st.floats(0.01, 10))
@settings(max_examples=30, deadline=None)
def test_a_step_is_that_of_plain_torch(count, size, clip):
    "Micro-batches of any size, in float64: gradient, clipped norm and weights of one large batch."
    torch.manual_seed(count)
    ours, theirs, x = nn.Linear(4, 1).double(), nn.Linear(4, 1).double(), torch.randn(count, 4, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    config = FinetuneConfig(batch_size=size, clip=clip, weight_decay=0.2, warmup=0.5)
    micro = split_window(torch.arange(count), size)
    found = take_step(Optimiser(ours, config, total=4), 1, squares, micro, (x[rows] for rows in micro), None)
    adam = torch.optim.AdamW([{"params": [theirs.weight], "weight_decay": 0.2},
                              {"params": [theirs.bias], "weight_decay": 0}], lr=1e-3 * schedule(1, 4, 0.5),
                             betas=(0.9, 0.98))
    loss, _ = squares(theirs, x, None)
    loss.backward()
    nn.utils.clip_grad_norm_(theirs.parameters(), clip)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=0, atol=1e-12)
    adam.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=0, atol=1e-12)
    assert sum(n for n, _ in found) == count
    assert sum(n * numbers["loss"] for n, numbers in found) / count == pytest.approx(loss.item(), rel=1e-5)
    assert max(numbers["parts.largest"] for _, numbers in found) == pytest.approx(x.max().item())


def test_batches_are_read_one_by_one():
    "A micro-batch is asked for when the one before it has been differentiated: no two are held at once."
    events, x, micro = [], torch.ones(6, 4), split_window(torch.arange(6), 2)
    def batches():
        for i, rows in enumerate(micro):
            events.append(f"read {i}")
            yield x[rows]
    def loss_fn(model, batch, generator):
        events.append("loss")
        return squares(model, batch, generator)
    take_step(Optimiser(nn.Linear(4, 1), FinetuneConfig(batch_size=2), 1), 0, loss_fn, micro, batches(), None)
    assert events == ["read 0", "loss", "read 1", "loss", "read 2", "loss"]


def test_a_step_that_fails_leaves_no_trace():
    "Weights, AdamW's means and BatchNorm's statistics; a frozen norm in eval mode is none of its business."
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimiser, x = Optimiser(model, FinetuneConfig(batch_size=3), 9), torch.randn(6, 4)
    micro = split_window(torch.arange(6), 3)
    take_step(optimiser, 0, squares, micro, (x[rows] for rows in micro), None)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    means = [v.clone() for state in optimiser.adamw.state.values() for v in state.values()]
    x[4, 2] = torch.nan
    with pytest.raises(NotFinite, match=r"the loss is nan at step 1, samples \[3, 4, 5\] \(3 in all\)") as caught:
        take_step(optimiser, 1, squares, micro, (x[rows] for rows in micro), None)
    assert caught.value.step == 1 and caught.value.indices == [3, 4, 5]
    assert ", 31] (32 in all)" in str(NotFinite("x", 0, list(range(32))))
    assert ", 31, …] (33 in all)" in str(NotFinite("x", 0, list(range(33))))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(means, (
        v for state in optimiser.adamw.state.values() for v in state.values())))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.bad_input
def test_a_loss_must_be_one_number_with_a_gradient():
    model, micro = nn.Linear(4, 1), split_window(torch.arange(2), 2)
    for loss in (lambda m, b, g: (m(b), {}), lambda m, b, g: (1.0, {}), lambda m, b, g: (torch.tensor(1.0), {})):
        with pytest.raises(ValueError, match="loss_fn returned .*the mean over the batch"):
            add_gradients(Optimiser(model, FinetuneConfig(), 1), loss, micro, [torch.ones(2, 4)], None)


# --- arguments ---

@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["batch_size", "accumulate", "epochs", "keep", "checkpoint_every"])
def test_counts_below_one(name):
    with pytest.raises(ValueError, match=f"FinetuneConfig: {name} is 0, expected 1 or more"):
        FinetuneConfig(**{name: 0})


@pytest.mark.bad_input
def test_other_bad_settings():
    with pytest.raises(ValueError, match="warmup is 3"):
        FinetuneConfig(warmup=3)
    with pytest.raises(ValueError, match="'int8', expected float32"):
        FinetuneConfig(precision="int8")
