"""Gradients in parts equal the gradient of the whole; the usual recipes do not; memory is flat."""
import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmtutor.accumulation import GradCache, SavedBytes, accumulate
from mmtutor.course import records
from mmtutor.inputs import Bank, Cached
from mmtutor.objectives import contrastive_loss
from mmtutor.transformer import Tokens


@pytest.fixture(autouse=True)
def doubles(seeded):
    torch.set_default_dtype(torch.float64)


def gradient(parameters, backward) -> Tensor:
    parameters = list(parameters)
    for p in parameters:
        p.grad = None
    backward()
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def error(found: Tensor, wanted: Tensor) -> float:
    assert wanted.norm() > 0
    return ((found - wanted).norm() / wanted.norm()).item()


sizes = st.lists(st.integers(1, 6), min_size=1, max_size=5)


# ---- accumulate ----

def classifier():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3))
    return net, lambda part: F.cross_entropy(net(part[0]), part[1])


@settings(max_examples=20, deadline=None)
@given(sizes)
def test_any_partition_gives_the_gradient_and_loss_of_the_whole(sizes):
    torch.set_default_dtype(torch.float64)
    net, loss_fn = classifier()
    x, y = torch.randn(sum(sizes), 5), torch.randint(3, (sum(sizes),))
    parts = list(zip(x.split(sizes), y.split(sizes)))
    whole = gradient(net.parameters(), lambda: loss_fn((x, y)).backward())
    losses = []
    found = gradient(net.parameters(), lambda: losses.append(accumulate(loss_fn, parts, sizes)))
    assert error(found, whole) < 1e-12
    torch.testing.assert_close(losses[0], loss_fn((x, y)).detach(), rtol=1e-12, atol=0)
    assert not losses[0].requires_grad


def test_unequal_parts_averaged_are_wrong_and_counted_are_right():
    net, _ = classifier()
    loss_fn = lambda part: F.cross_entropy(net(part[0]), part[1], ignore_index=-100)
    x, y = torch.randn(8, 5), torch.randint(3, (8,))
    y[5:8] = -100  # the second half holds one target that counts
    parts = list(zip(x.split(4), y.split(4)))
    whole = gradient(net.parameters(), lambda: loss_fn((x, y)).backward())
    assert error(gradient(net.parameters(), lambda: accumulate(loss_fn, parts, [1, 1])), whole) > 0.1
    assert error(gradient(net.parameters(), lambda: accumulate(loss_fn, parts, [4, 1])), whole) < 1e-12


def test_a_part_that_counts_nothing_is_left_out():
    net, _ = classifier()
    loss_fn = lambda part: (net(part[0]).square().sum(1) * part[1]).sum() / part[1].sum()
    full, hollow = (torch.randn(2, 5), torch.ones(2)), (torch.randn(2, 5), torch.zeros(2))
    assert gradient(net.parameters(), lambda: loss_fn(hollow).backward()).isnan().any()
    wanted = gradient(net.parameters(), lambda: loss_fn(full).backward())
    losses = []
    found = gradient(net.parameters(), lambda: losses.append(accumulate(loss_fn, [hollow, full], [0, 2])))
    assert torch.equal(found, wanted) and losses[0] == loss_fn(full)


def test_gradients_are_added_to_what_is_there():
    weight = torch.tensor(1.0, requires_grad=True)
    weight.grad = torch.tensor(100.0)
    loss = accumulate(lambda x: (weight * x).square().mean(), [torch.tensor([1., 2, 3]), torch.tensor([4.])], [3, 1])
    assert weight.grad.item() == pytest.approx(115) and loss.item() == pytest.approx(7.5)


def test_batch_norm_is_wrong_in_training_mode_and_right_in_eval_mode():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    x, y = torch.randn(16, 6) + 3, torch.randint(4, (16,))
    loss_fn = lambda rows: F.cross_entropy(net(x[rows]), y[rows])
    for train, right in ((True, False), (False, True)):
        net.train(train)
        whole = gradient(net.parameters(), lambda: loss_fn(torch.arange(16)).backward())
        found = gradient(net.parameters(), lambda: accumulate(loss_fn, torch.arange(16).split(4), [4] * 4))
        assert (error(found, whole) < 1e-12) == right and (right or error(found, whole) > 0.3)


@pytest.mark.bad_input
@pytest.mark.parametrize("counts", [[1], [1, 1, 1], [0, 0], [2, -1]])
def test_wrong_counts(counts):
    with pytest.raises(ValueError, match="accumulate: 2 parts with counts.*one count for each part"):
        accumulate(lambda part: part.sum(), [torch.zeros(1), torch.zeros(1)], counts)


@pytest.mark.bad_input
def test_nothing_to_accumulate():
    with pytest.raises(ValueError, match=r"accumulate: 0 parts with counts \[\]"):
        accumulate(lambda part: part.sum(), [], [])


# ---- GradCache ----

class Towers(nn.Module):
    def __init__(self, dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(0)
        tower = lambda width: nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 8))
        self.left, self.right, self.log_scale = tower(5), tower(7), nn.Parameter(torch.tensor(1.0))

    def forward(self, part):
        return self.left(part[0]), self.right(part[1])

    def loss(self, a, b):
        return contrastive_loss(a, b, self.log_scale)


def in_one_graph(towers, parts):
    "The big batch, encoded part by part so that dropout draws the same numbers."
    towers.loss(*(torch.cat(side) for side in zip(*map(towers, parts)))).backward()


def pairs(sizes):
    torch.manual_seed(1)
    return [(torch.randn(n, 5), torch.randn(n, 7)) for n in sizes]


@settings(max_examples=20, deadline=None)
@given(sizes, st.sampled_from([0.0, 0.3]))
def test_gradcache_equals_the_big_batch(sizes, dropout):
    torch.set_default_dtype(torch.float64)
    towers, parts = Towers(dropout), pairs([*sizes, 2])
    torch.manual_seed(7)
    whole = gradient(towers.parameters(), lambda: in_one_graph(towers, parts))
    after = torch.get_rng_state()
    torch.manual_seed(7)
    found = gradient(towers.parameters(), lambda: GradCache(towers, towers.loss).backward(parts))
    assert error(found, whole) < 1e-10
    assert torch.equal(torch.get_rng_state(), after), "the generator goes on as if there had been one pass"


def test_gradcache_gives_the_loss_and_the_gradient_of_the_temperature():
    towers, parts = Towers(0.2), pairs([4, 4, 3])
    torch.manual_seed(7)
    whole = gradient([towers.log_scale], lambda: in_one_graph(towers, parts))
    torch.manual_seed(7)
    losses = []
    found = gradient([towers.log_scale], lambda: losses.append(GradCache(towers, towers.loss).backward(parts)))
    assert error(found, whole) < 1e-10
    torch.manual_seed(7)
    expected = towers.loss(*(torch.cat(side) for side in zip(*map(towers, parts))))
    torch.testing.assert_close(losses[0], expected.detach())


def test_random_numbers_of_the_loss_are_drawn_once_and_stay_drawn():
    towers, parts = Towers(0.3), pairs([4, 4])
    noisy = lambda a, b: towers.loss(a + 0.1 * torch.randn(a.shape), b)
    torch.manual_seed(7)
    whole = gradient(towers.parameters(), lambda: noisy(*map(torch.cat, zip(*map(towers, parts)))).backward())
    after = torch.get_rng_state()
    torch.manual_seed(7)
    assert error(gradient(towers.parameters(), lambda: GradCache(towers, noisy).backward(parts)), whole) < 1e-10
    assert torch.equal(torch.get_rng_state(), after)


def test_small_batches_are_not_the_big_one():
    towers, parts = Towers(), pairs([6] * 4)
    whole = gradient(towers.parameters(), lambda: in_one_graph(towers, parts))
    naive = lambda: accumulate(lambda part: towers.loss(*towers(part)), parts, [6] * 4)
    assert error(gradient(towers.parameters(), naive), whole) > 0.2


def test_one_output_labels_among_the_outputs_and_outputs_that_nobody_uses():
    towers = Towers()
    x, labels = torch.randn(9, 5), torch.randint(3, (9,))

    def spread_of_classes(embeddings, labels, unused=None):
        return sum(embeddings[labels == k].mean(0).square().sum() for k in labels.unique())

    parts = list(zip(x.split(4), labels.split(4)))
    weights = list(towers.left.parameters())
    whole = gradient(weights, lambda: spread_of_classes(towers.left(x), labels).backward())
    encode = lambda part: (towers.left(part[0]), part[1], towers.left(part[0]) * 2)
    assert error(gradient(weights, lambda: GradCache(encode, spread_of_classes).backward(parts)), whole) < 1e-12
    alone = GradCache(towers.left, lambda embeddings: embeddings.std(0).sum())
    whole = gradient(weights, lambda: towers.left(x).std(0).sum().backward())
    assert error(gradient(weights, lambda: alone.backward(x.split(2))), whole) < 1e-12


def test_a_frozen_tower_gets_no_gradient_and_the_other_the_right_one():
    towers, parts = Towers(), pairs([3, 3])
    towers.right.requires_grad_(False)
    whole = gradient(towers.parameters(), lambda: in_one_graph(towers, parts))
    found = gradient(towers.parameters(), lambda: GradCache(towers, towers.loss).backward(parts))
    assert error(found, whole) < 1e-12 and all(p.grad is None for p in towers.right.parameters())


def test_an_own_generator_is_rewound_when_it_is_named():
    towers, parts, own = Towers(), pairs([3, 4]), torch.Generator()
    encode = lambda part: towers([side + torch.randn(side.shape, generator=own) for side in part])
    own.manual_seed(3)
    whole = gradient(towers.parameters(), lambda: towers.loss(*map(torch.cat, zip(*map(encode, parts)))).backward())
    own.manual_seed(3)
    cache = GradCache(encode, towers.loss, generators=[own])
    assert error(gradient(towers.parameters(), lambda: cache.backward(parts)), whole) < 1e-10


@pytest.mark.parametrize("source", ["numpy", "own"])
def test_random_numbers_that_cannot_be_rewound_are_noticed(source):
    towers, rng, own = Towers(), np.random.default_rng(0), torch.Generator()
    draw = {"numpy": lambda shape: torch.from_numpy(rng.normal(size=tuple(shape))),
            "own": lambda shape: torch.randn(shape, generator=own)}[source]
    encode = lambda part: towers([side + draw(side.shape) for side in part])
    with pytest.raises(ValueError, match="part 0 was encoded differently the second time; draw random numbers from"):
        GradCache(encode, towers.loss).backward(pairs([3, 3]))


@pytest.mark.bad_input
def test_no_parts():
    with pytest.raises(ValueError, match="GradCache: no parts given"):
        GradCache(nn.Identity(), torch.sum).backward([])


def test_not_a_number_is_handed_on_as_such():
    towers, parts = Towers(), pairs([3, 3])
    parts[1][0][0, 0] = math.nan
    assert GradCache(towers, towers.loss).backward(parts).isnan()


def test_gradients_survive_autocast_around_the_whole_call():
    torch.set_default_dtype(torch.float32)
    towers, parts = Towers(), pairs([8, 8])
    whole = gradient(towers.parameters(), lambda: in_one_graph(towers, parts))
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient(towers.parameters(), lambda: GradCache(towers, towers.loss).backward(parts))
    assert error(found, whole) < 0.05


def test_gradients_are_added_twice_when_called_twice():
    towers, parts = Towers(), pairs([3, 3])
    cache = GradCache(towers, towers.loss)
    once = gradient(towers.parameters(), lambda: cache.backward(parts))
    twice = gradient(towers.parameters(), lambda: (cache.backward(parts), cache.backward(parts)))
    assert error(twice, 2 * once) < 1e-12


# ---- memory ----

def test_saved_bytes_by_hand():
    with SavedBytes() as saved:
        y = torch.zeros(1000, requires_grad=True).square().exp()
    assert saved.now == saved.peak == 16_000  # the input of the square, the output of the exponential
    y.sum().backward()
    assert saved.now == 0 and saved.peak == 16_000


def test_weights_are_left_out_and_a_tensor_kept_twice_counts_once():
    layer = nn.Linear(10, 10)
    x = torch.zeros(4, 10, requires_grad=True)
    with SavedBytes(layer) as saved:
        y = layer(x) + layer(x)
    assert saved.now == 4 * 10 * 8
    del y
    assert saved.now == 0


def test_counting_changes_no_gradient():
    net, loss_fn = classifier()
    part = torch.randn(4, 5), torch.randint(3, (4,))
    plain = gradient(net.parameters(), lambda: loss_fn(part).backward())

    def counted():
        with SavedBytes(net):
            loss_fn(part).backward()

    assert torch.equal(gradient(net.parameters(), counted), plain)


def peak(towers, backward) -> int:
    with SavedBytes(towers) as saved:
        backward()
    assert saved.now == 0
    return saved.peak


def test_peak_is_flat_in_the_effective_batch():
    towers = Towers()
    wide = nn.Sequential(nn.Linear(5, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 8))
    towers.left = wide
    loss_fn, cache = lambda part: towers.loss(*towers(part)), GradCache(towers, towers.loss)
    batches = [pairs([8] * count) for count in (1, 2, 4, 8)]
    plain = [peak(towers, lambda parts=parts: accumulate(loss_fn, parts, [8] * len(parts))) for parts in batches]
    cached = [peak(towers, lambda parts=parts: cache.backward(parts)) for parts in batches]
    big = [peak(towers, lambda parts=parts: in_one_graph(towers, parts)) for parts in batches]
    assert len(set(plain)) == 1
    assert max(cached) <= 1.15 * plain[0]
    assert big[0] == plain[0] and big[3] > 7.5 * plain[0]


# ---- the claims ----

def claim(number: int):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    return importlib.import_module(f"claim_T{number}")


def figure(*values) -> dict:
    return records.spread(values) | {"largest": max(values)}


def test_the_verdict_on_memory_follows_the_figures():
    exact, wrong = figure(1e-12, 1e-12, 1e-12), figure(0.3, 0.4, 0.5)
    errors = {"equal parts": {"usual": exact, "repaired": exact}, "clipping": {"usual": wrong, "repaired": exact}}
    flat, rising = {"accumulate": {"64": 2.0, "128": 2.0}}, {"accumulate": {"64": 2.0, "128": 4.0}}
    said = claim(5).verdict(errors, flat)
    assert said.startswith("holds when") and "wrong with clipping" in said and "exact repair" in said
    assert claim(5).verdict(errors, rising).startswith("fails")
    assert claim(5).verdict(errors | {"equal parts": errors["clipping"]}, flat).startswith("fails")
    assert "repair" not in claim(5).verdict(errors | {"clipping": {"usual": wrong, "repaired": wrong}}, flat)


def test_the_verdict_on_speed_follows_the_figures():
    def run(steps, samples, wobble, test=(0.6, 0.6, 0.6)):
        return {"steps to level": steps, "samples to level": samples, "trembling": figure(*wobble),
                "wobble": figure(*wobble), "test": figure(*test)}
    slow, restless = run([90, 80, 99], [900, 800, 990], (0.2, 0.2, 0.2)), (0.3, 0.1, 0.3)
    say = lambda other: claim(6).verdict({"16": slow, "256": other})
    assert say(run([9, 8, 9], [90, 80, 90], (0.1, 0.1, 0.1))).startswith("holds: ")
    assert say(run([9, 8, 9], [9999] * 3, restless)).startswith("holds when speed is counted in steps")
    assert say(run([None, 8, 9], [9999] * 3, (0.1, 0.1, 0.1))).startswith("holds when the second half")
    assert say(run([99] * 3, [9999] * 3, restless)).startswith("fails")
    assert "accuracy was worse" in say(run([99] * 3, [9999] * 3, restless, (0.5, 0.5, 0.5)))


def test_what_is_recorded():
    claims = records.read("claims")
    kept, errors = claims["T5"]["figures"]["kept MiB"], claims["T5"]["figures"]["errors"]
    assert set(errors) == {"equal parts", "partial last window", "clipping", "token counts", "BatchNorm", "contrastive"}
    assert all(found["repaired"]["largest"] < 1e-9 for found in errors.values())
    assert all(min(found["usual"]["values"]) > 0.05 for case, found in errors.items() if case != "equal parts")
    assert len(set(kept["accumulate"].values())) == 1 and kept["big batch"]["512"] > 7 * kept["big batch"]["64"]
    assert all(kept["GradCache"][n] <= 1.15 * kept["accumulate"][n] for n in kept["GradCache"])
    for kind in ("equal epochs", "equal steps"):
        assert all(f["test"]["n"] >= 3 for f in claims["T6"]["figures"][kind].values())


def test_the_gradients_of_the_claim_are_those_of_a_toy():
    claim_T5 = claim(5)
    rows = 80
    tokens = {m: Tokens(torch.randn(rows, 3, 12).float(), torch.ones(rows, 3, dtype=torch.bool))
              for m in ("text", "picture", "sound")}
    cached = {m: Cached([t]) for m, t in tokens.items()}
    toy = Bank([], torch.randint(8, (rows,)), torch.zeros(rows, dtype=torch.long), {"clean": cached})
    for case, (usual, repaired) in {**claim_T5.classify(0, toy), **claim_T5.compare(0, toy)}.items():
        assert repaired < 1e-10 and (usual < 1e-10) == (case == "equal parts")
