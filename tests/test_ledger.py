"""The run that frameworks are compared on: order, shares, ledger, plain loop."""
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from mmtutor.finetune import FinetuneConfig, finetune
from mmtutor.ledger import (
    HalvesModel,
    Ledger,
    MicroBatches,
    Order,
    Trajectory,
    adamw,
    departure,
    digit_halves,
    rate_of,
    window_sizes,
    with_plain,
)

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = FinetuneConfig(epochs=2, batch_size=4, accumulate=3, learning_rate=1e-2, weight_decay=0.1, clip=0.5)
quick = settings(deadline=None, max_examples=40)
bad_input = pytest.mark.bad_input


def numbers(count: int, missing: float = 0.0) -> TensorDataset:
    "Rows that can be told apart; some without a label."
    labels = torch.arange(count) % 10
    gone = torch.rand(count, generator=torch.Generator().manual_seed(count)) < missing
    return TensorDataset(torch.arange(count).float(), labels.masked_fill(gone, -100))


def test_halves_are_marked_and_blank_where_they_are_missing():
    train, test = digit_halves(100, seed=3)
    pictures, there, digits = (torch.cat(pair) for pair in zip(train.tensors, test.tensors))
    assert len(train) == 100 and len(pictures) == 1797 and digits.unique().tolist() == list(range(10))
    halves = pictures.view(-1, 2, 32)
    assert torch.equal(halves.isnan().all(-1), ~there) and torch.equal(halves.isnan().any(-1), ~there)
    assert there.any(1).all() and 0.1 < (~there).any(1).float().mean() < 0.3
    assert all(torch.equal(a, b) for a, b in zip(train.tensors[1:], digit_halves(100, seed=3)[0].tensors[1:]))


def test_model_ignores_what_is_absent_and_does_not_move_the_global_generator():
    state = torch.get_rng_state()
    model = HalvesModel(8, seed=1).eval()
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(model.head.weight, HalvesModel(8, seed=1).head.weight)
    pictures, there, _ = (t[:30] for t in digit_halves()[0].tensors)
    filled = torch.where(pictures.isnan(), 7.0, pictures)
    assert model(pictures, there).isfinite().all() and torch.equal(model(pictures, there), model(filled, there))


@given(count=st.integers(1, 50), seed=st.integers(0, 9))
@quick
def test_order_is_a_fresh_permutation_each_time_and_the_loop_of_chapter_13_has_the_same(count, seed):
    order, generator = Order(count, seed), torch.Generator().manual_seed(seed)
    for _ in range(3):
        assert list(order) == torch.randperm(count, generator=generator).tolist()
    assert len(order) == count and sorted(order) == list(range(count))


@given(count=st.integers(1, 60), batch=st.integers(1, 9), accumulate=st.integers(1, 5), pad=st.booleans())
@quick
def test_shares_of_every_window_add_up_to_one(count, batch, accumulate, pad):
    config = FinetuneConfig(batch_size=batch, accumulate=accumulate)
    data = numbers(count)
    stream = MicroBatches(data, config, pad=pad)
    for _ in range(2):
        parts = list(stream)
        assert len(parts) == len(stream) and (not pad or all(len(labels) == batch for _, labels, _ in parts))
        rows, shares = torch.cat([x for (x,), _, _ in parts]), torch.cat([s for _, _, s in parts])
        assert sorted(rows[shares > 0].tolist()) == list(range(count)), "each row once an epoch"
        begin = 0
        for size in window_sizes(count, config):
            step = batch * accumulate if pad else size
            mine = shares[begin:begin + step]
            assert torch.allclose(mine[:size], torch.full((size,), 1 / size)) and mine[size:].eq(0).all()
            begin += step
        assert begin == len(shares)


def test_a_row_without_a_label_has_no_share():
    data = numbers(24, missing=0.4)
    config = FinetuneConfig(batch_size=4, accumulate=3)
    parts = list(MicroBatches(data, config))
    labels, shares = (torch.cat([part[i] for part in parts]) for i in (1, 2))
    assert (labels == -100).any() and torch.equal(shares == 0, labels == -100)
    assert [round(s.item(), 6) for s in shares.view(2, 12).sum(1)] == [1, 1]


@given(count=st.integers(1, 100), batch=st.integers(1, 9), accumulate=st.integers(1, 5))
@quick
def test_windows_are_full_but_the_last(count, batch, accumulate):
    config = FinetuneConfig(epochs=3, batch_size=batch, accumulate=accumulate)
    sizes, size = window_sizes(count, config), batch * accumulate
    assert sum(sizes) == 3 * count and len(sizes) == 3 * math.ceil(count / size)
    assert all(s == size for s in sizes[:len(sizes) // 3 - 1]) and 1 <= sizes[-1] <= size


def test_ledger_is_cross_entropy_and_cuts_into_windows():
    ledger, logits = Ledger(), torch.randn(12, 10, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 2, -100, 4, 5, 6, 7, 8, -100, 0, 3, 3])
    for rows in torch.arange(12).split(4):
        assert torch.equal(ledger(logits[rows], labels[rows]),
                           F.cross_entropy(logits[rows], labels[rows], reduction="none"))
    wanted = [F.cross_entropy(logits[:8], labels[:8]).item(), F.cross_entropy(logits[8:], labels[8:]).item()]
    assert ledger.steps([8, 4]) == pytest.approx(wanted, abs=1e-12)
    padded = [F.cross_entropy(logits[:5], labels[:5]).item(), F.cross_entropy(logits[6:9], labels[6:9]).item()]
    assert ledger.steps([5, 3], stride=6) == pytest.approx(padded, abs=1e-12)
    assert not ledger.seen[0].requires_grad


@pytest.mark.parametrize("count, change", [
    (60, {}), (50, {}), (7, {}), (1, {}), (26, {"accumulate": 1}), (26, {"clip": None}), (60, {"warmup": 0.0}),
    (26, {"seed": 5, "weight_decay": 0.0, "betas": (0.8, 0.9)})])
def test_the_plain_loop_is_finetune(count, change):
    config, train = replace(CONFIG, **change), digit_halves(count)[0]
    loss_fn = lambda model, batch, generator: (F.cross_entropy(model(*batch[:-1]), batch[-1]), {})
    found = with_plain(HalvesModel(8), train, config)
    history = finetune(HalvesModel(8), loss_fn, train, config, progress=False)
    assert departure(found, Trajectory(history.losses, [])) < 1e-5


def test_the_plain_loop_in_pieces_is_the_loop_in_one_piece_also_without_some_labels():
    pictures, there, digits = digit_halves(52)[0].tensors
    gone = torch.rand(52, generator=torch.Generator().manual_seed(0)) < 0.4
    some = TensorDataset(pictures, there, digits.masked_fill(gone, -100))
    pieces = with_plain(HalvesModel(8), some, CONFIG)
    assert departure(pieces, with_plain(HalvesModel(8), some, replace(CONFIG, batch_size=12, accumulate=1))) < 1e-5
    dropped = TensorDataset(pictures[~gone], there[~gone], digits[~gone])
    assert len(with_plain(HalvesModel(8), dropped, CONFIG).losses) < len(pieces.losses)


def test_rate_and_groups_are_those_of_chapter_13():
    model = HalvesModel(8)
    optimizer = adamw(model, CONFIG)
    rate = rate_of(optimizer, CONFIG, 20)
    assert [g["lr"] / 1e-2 for g in optimizer.param_groups] == pytest.approx([0.5, 0.5])
    optimizer.step()
    rate.step()
    assert [g["lr"] / 1e-2 for g in optimizer.param_groups] == pytest.approx([1, 1])
    assert sorted(g["weight_decay"] for g in optimizer.param_groups) == [0, 0.1]


def test_departure_is_the_largest_difference():
    a, b = Trajectory([1.0, 2.0, 3.0], []), Trajectory([1.5, 2.0, 2.0], [9.0])
    assert departure(a, b) == departure(b, a) == 1 and departure(a, a) == 0
    assert departure(a, Trajectory([1.0, math.nan, 3.0], [])) == math.inf


@bad_input
def test_runs_that_cannot_be_compared():
    with pytest.raises(ValueError, match="departure: runs of 2 and 1 steps cannot be compared"):
        departure(Trajectory([1.0, 2.0], []), Trajectory([1.0], []))
    ledger = Ledger()
    with pytest.raises(ValueError, match="Ledger: 0 losses were asked for, the run has 8"):
        ledger.steps([8])
    for labels in (torch.tensor([10]), torch.tensor([-1])):
        with pytest.raises(ValueError, match="Ledger: labels from .* expected 0 to 9, or -100"):
            ledger(torch.randn(1, 10), labels)
    with pytest.raises(ValueError, match=r"Ledger: logits \(2, 10\) and labels \(1,\)"):
        ledger(torch.randn(2, 10), torch.tensor([1]))
    for odd, words in ((lambda: digit_halves(1798), "digit_halves: 1798 samples"),
                       (lambda: Order(-1, 0), "Order: -1 rows"), (lambda: window_sizes(-1, CONFIG), "window_sizes: -1"),
                       (lambda: HalvesModel(8, dropout=2.0), "HalvesModel: width 8 and dropout 2.0"),
                       (lambda: MicroBatches(numbers(0), CONFIG), "Order: 0 rows"),
                       (lambda: HalvesModel(8)(torch.rand(2, 9, 8), torch.ones(2, 2).bool()), r"pictures \(2, 9, 8\)"),
                       (lambda: Ledger().steps([5, 3], stride=4), "windows of .* one every 4 rows")):
        with pytest.raises(ValueError, match=words):
            odd()
    ledger(torch.randn(9, 10), torch.zeros(9, dtype=torch.long))
    with pytest.raises(ValueError, match="Ledger: 9 losses were asked for, the run has 8"):
        ledger.steps([8])
