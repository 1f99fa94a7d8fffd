"""Rates of layers: each parameter once, the loop written out; stages that leave sleepers alone; distances; verdicts."""
import copy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from mmtutor.finetune import FinetuneConfig, finetune
from mmtutor.optimiser import parameter_groups, schedule
from mmtutor.rates import layer_factors, neighbours, scaled, top_down, travelled, unfreeze
from mmtutor.transformer import Encoder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

ENCODER, LAYERS = "encoders.a", "encoders.a.body.layers"
CONFIG = FinetuneConfig(epochs=2, batch_size=4, learning_rate=1e-2, encoder_learning_rate=4e-3, weight_decay=0.1)


class Small(nn.Module):
    "A way in, two layers, a last norm; a second encoder; a head."

    def __init__(self, depth: int = 2):
        super().__init__()
        a = nn.Module()
        a.enter, a.body = nn.Linear(3, 8), Encoder(depth, 8, 2)
        self.encoders, self.head = nn.ModuleDict({"a": a, "b": nn.Linear(3, 8)}), nn.Linear(8, 2)

    def forward(self, x):
        a, b = self.encoders["a"], self.encoders["b"]
        return self.head((a.body(a.enter(x)) + b(x)).mean(1))


def loss_fn(model, batch, generator):
    return F.cross_entropy(model(batch[0]), batch[1]), {}


def data(kind=torch.float64) -> TensorDataset:
    return TensorDataset(torch.randn(14, 5, 3, dtype=kind), torch.arange(14) % 2)


# ---- groups


@settings(max_examples=20, deadline=None)
@given(depth=st.integers(1, 4), decay=st.floats(0.05, 1.0), frozen=st.booleans())
def test_every_parameter_is_in_one_group_at_its_rate(depth, decay, frozen):
    model = Small(depth)
    model.encoders["a"].enter.requires_grad_(not frozen)
    groups = scaled(layer_factors(model, ENCODER, LAYERS, decay))(model, CONFIG)
    names = [n for g in groups for n in g["names"]]
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sorted(names) == sorted(wanted)
    assert all(wanted[n] is p for g in groups for n, p in zip(g["names"], g["params"], strict=True))
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in wanted.values())
    rate = {n: g["lr"] for g in groups for n in g["names"]}
    for i in range(depth):
        assert rate[f"{LAYERS}.{i}.norm_attention.weight"] == decay ** (depth - i) * 4e-3
    if not frozen:
        assert rate["encoders.a.enter.weight"] == decay ** (depth + 1) * 4e-3
    assert rate["encoders.a.body.norm.bias"] == decay * 4e-3
    assert rate["encoders.b.weight"] == 4e-3 and rate["head.bias"] == 1e-2
    assert all(g["lr"] == g["peak"] for g in groups)


def test_weight_decay_is_that_of_parameter_groups():
    model = Small()
    of = lambda groups: {n: g["weight_decay"] for g in groups for n in g["names"]}
    found = of(scaled(layer_factors(model, ENCODER, LAYERS, 0.5))(model, CONFIG))
    assert found == of(parameter_groups(model, CONFIG)) and set(found.values()) == {0.0, 0.1}


def test_no_factors_change_nothing():
    model = Small()
    plain, same = parameter_groups(model, CONFIG), scaled({})(model, CONFIG)
    keys = ("names", "lr", "peak", "weight_decay")
    assert [{k: g[k] for k in keys} for g in plain] == [{k: g[k] for k in keys} for g in same]


def test_equal_to_adamw_written_out():
    model, train = Small().double(), data()
    slow, factors = copy.deepcopy(model), layer_factors(model, ENCODER, LAYERS, 0.5)
    history = finetune(model, loss_fn, train, CONFIG, progress=False, groups=scaled(factors))
    settings = {n: (g["lr"], g["weight_decay"]) for g in parameter_groups(slow, CONFIG) for n in g["names"]}
    part = lambda n: next((f for p, f in factors.items() if any(n == q or n.startswith(q + ".")
                                                                for q in p.split(", "))), 1.0)
    sampler, state, done, (b1, b2) = torch.Generator().manual_seed(0), {}, 0, CONFIG.betas
    for _ in range(2):
        for rows in torch.randperm(14, generator=sampler).split(4):
            slow.zero_grad()
            loss_fn(slow, train[rows], None)[0].backward()
            norm = sum(p.grad.square().sum() for p in slow.parameters()).sqrt()
            for n, p in slow.named_parameters():
                g, (m, v) = p.grad / max(1.0, norm.item() + 1e-6), state.get(n, (0, 0))
                m, v = state[n] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
                rate = settings[n][0] * part(n) * schedule(done, history.total, CONFIG.warmup)
                root = (v / (1 - b2 ** (done + 1))).sqrt() + 1e-8
                p.data -= rate * (settings[n][1] * p.data + m / (1 - b1 ** (done + 1)) / root)
            done += 1
    for a, b in zip(model.parameters(), slow.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_resume_with_groups_is_exact(tmp_path):
    first, train = Small(), data(torch.float32)
    second, groups = copy.deepcopy(first), scaled(layer_factors(first, ENCODER, LAYERS, 0.3))
    finetune(first, loss_fn, train, CONFIG, progress=False, groups=groups)
    for stop in (1, 2, None):
        finetune(second, loss_fn, train, CONFIG, progress=False, groups=groups, folder=tmp_path, stop_after=stop)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


@pytest.mark.parametrize("factors, message", [
    ({"encoders": 0.0}, "factor of 'encoders' is 0.0, expected a positive number"),
    ({"encoders": float("nan")}, "is nan"), ({"encoders": float("inf")}, "is inf"), ({"encoders": -1.0}, "is -1.0"),
    ({"encoder": 0.5}, "nothing in the model is called 'encoder'"),
    ({"encoders": 0.5, "encoders.b": 0.1}, r"encoders.b.weight is under 'encoders' and 'encoders.b'"),
])
def test_odd_factors_are_refused(factors, message):
    with pytest.raises(ValueError, match=message):
        scaled(factors)(Small(), CONFIG)


@pytest.mark.parametrize("arguments, message", [
    ((ENCODER, "encoders.a.layers", 0.5), "no list of layers inside 'encoders.a'; this model has .*a.body.layers"),
    (("encoders.b", LAYERS, 0.5), "no list of layers inside 'encoders.b'"),
    ((ENCODER, LAYERS, 0.0), "decay is 0.0"), ((ENCODER, LAYERS, 1.5), "decay is 1.5"),
    ((ENCODER, LAYERS, float("nan")), "decay is nan"),
])
def test_odd_layers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_factors(Small(), *arguments)


# ---- stages


def test_who_sleeps_stays_and_who_wakes_begins_at_zero(monkeypatch):
    model, train, awake, made = Small(), data(torch.float32), set(), []
    start = {n: v.clone() for n, v in model.state_dict().items()}
    class Noted(torch.optim.AdamW):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append((len(self.state), self))
    monkeypatch.setattr(torch.optim, "AdamW", Noted)
    policies = top_down(model, ENCODER, LAYERS)
    assert policies == [ENCODER, f"{ENCODER} but last 1 of {LAYERS}", f"{ENCODER} but last 2 of {LAYERS}", "none"]
    for policy in policies:
        unfreeze(model, loss_fn, train, [(policy, CONFIG)], progress=False)
        awake |= {n for n, p in model.named_parameters() if p.requires_grad}
        now = model.state_dict()
        assert {n for n in start if torch.equal(now[n], start[n])} == set(start) - awake
    assert [state for state, _ in made] == [0] * 4
    counts = [{int(s["step"]) for s in optimiser.state.values()} for _, optimiser in made]
    assert counts == [{8}] * 4 and len(made[0][1].state) < len(made[-1][1].state) == len(list(model.parameters()))


def test_stages_are_runs_in_turn_and_a_stopped_one_goes_on(tmp_path):
    stages = [(policy, CONFIG) for policy in top_down(Small(), ENCODER, LAYERS)]
    torch.manual_seed(1)
    whole, train = Small(), data(torch.float32)
    pieces = copy.deepcopy(whole)
    histories = unfreeze(whole, loss_fn, train, stages, progress=False)
    assert [h.total for h in histories] == [8] * 4 and all(h.finished for h in histories)

    class Stop(Exception):
        pass
    calls = [0]

    def breaks(model, batch, generator):
        calls[0] += 1
        if calls[0] == 14:
            raise Stop
        return loss_fn(model, batch, generator)
    with pytest.raises(Stop):
        unfreeze(pieces, breaks, train, stages, progress=False, folder=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage-0", "stage-1"]
    with torch.no_grad():
        pieces.head.weight += 1  # what is in memory does not matter, the files do
    unfreeze(pieces, loss_fn, train, stages, progress=False, folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), pieces.parameters()))


def test_groups_reach_every_stage_and_none_is_refused():
    seen = []
    def groups(model, config):
        seen.append(sum(p.requires_grad for p in model.parameters()))
        return parameter_groups(model, config)
    stages = [("encoders", CONFIG), ("none", CONFIG)]
    unfreeze(Small(), loss_fn, data(torch.float32), stages, progress=False, groups=groups)
    assert seen[0] == 2 < seen[1]
    with pytest.raises(ValueError, match="no stages, expected pairs"):
        unfreeze(Small(), loss_fn, data(), [])


# ---- instruments


def test_distance_of_every_part():
    model = Small()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with torch.no_grad():
        model.head.weight *= 1.5
        model.head.bias *= 1.5
    assert travelled(before, model, ["head", "encoders"]) == pytest.approx({"head": 0.5, "encoders": 0.0}, abs=1e-6)
    flat = lambda tensors: torch.cat([t.detach().double().flatten() for t in tensors])
    with torch.no_grad():
        model.encoders["b"].weight += torch.randn(8, 3)
    old, new = flat(before[n] for n, _ in model.named_parameters()), flat(model.parameters())
    assert travelled(before, model, ["all"])["all"] == pytest.approx(((new - old).norm() / old.norm()).item(), abs=1e-9)


def test_distance_refuses_what_would_mislead():
    model = Small()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="no earlier value of head.bias"):
        travelled({n: v for n, v in before.items() if n != "head.bias"}, model, ["head"])
    with pytest.raises(ValueError, match="no earlier value of head.bias of the same shape"):
        travelled(before | {"head.bias": before["head.bias"][:1]}, model, ["head"])
    with pytest.raises(ValueError, match="nothing in the model is called 'tail'"):
        travelled(before, model, ["tail"])
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="'head' has 2 parameters.*nan moved"):
        travelled(before, model, ["head"])
    with pytest.raises(ValueError, match="norm 0 before"):
        travelled({n: torch.zeros_like(v) for n, v in before.items()}, Small(), ["head"])


@settings(max_examples=20, deadline=None)
@given(items=st.integers(2, 9), seed=st.integers(0, 99))
def test_neighbours_are_the_obvious_loop(items, seed):
    generator = torch.Generator().manual_seed(seed)
    x, labels = torch.randn(items, 4, generator=generator), torch.randint(0, 3, (items,), generator=generator)
    hits = 0
    for i in range(items):
        others = [j for j in range(items) if j != i]
        best = max(others, key=lambda j: F.cosine_similarity(x[i], x[j], dim=0).item())
        hits += int(labels[best] == labels[i])
    assert neighbours(x, labels) == pytest.approx(hits / items)
    assert neighbours(x * torch.rand(items, 1, generator=generator).add(0.1), labels) == neighbours(x, labels)


@pytest.mark.parametrize("features, labels", [
    (torch.ones(1, 3), torch.zeros(1)), (torch.ones(3, 3), torch.zeros(2)), (torch.ones(3), torch.zeros(3)),
    (torch.full((3, 2), float("nan")), torch.zeros(3))])
def test_odd_features_are_refused(features, labels):
    from jaxtyping import jaxtyped
    with jaxtyped("context"), pytest.raises(ValueError, match="neighbours: got features"):
        neighbours(features, labels.long())


# ---- the claims


def test_verdicts_follow_the_figures():
    import claim_T1
    import claim_T2
    import claim_T3
    figure = lambda *values: {"values": list(values), "mean": sum(values) / len(values)}
    t3 = {rate: {"test": figure(t, t, t), "validation": figure(t), "ability": figure(a, a, a)}
          for rate, t, a in (("1e-05", 0.5, 0.6), ("0.0002", 0.8, 0.5), ("0.001", 0.6, 0.2))}
    said = claim_T3.verdict(t3, {"ability": 0.6})
    assert said.startswith("holds when it is smaller than the task would like") and "at 0.0002, the best rate" in said
    assert claim_T3.verdict(t3, {"ability": 0.4}).startswith("holds: ")
    t3["0.001"]["ability"] = figure(0.6, 0.7, 0.2)
    assert claim_T3.verdict(t3, {"ability": 0.6}).startswith("not resolved")
    cost = {kind: {"time ratio": {"median": 0.5}, "memory MiB": 10.0} for kind in ("live", "cached")}
    t2 = {way: {"test": figure(v, v, v), "cost": cost} for way, v in zip(claim_T2.WAYS, (0.5, 0.7, 0.8, 0.8, 0.8, 0.8))}
    assert claim_T2.verdict(t2).startswith("holds when the top 2 layers learn")
    for way in ("none", "top 1", "top 2", "top 3"):
        t2[way]["test"] = figure(0.5, 0.5, 0.5)
    assert claim_T2.verdict(t2).startswith("fails")
    t1 = {"400": {way: {"colour": figure(v, v, v), "lines": figure(v, v, v)}
                  for way, v in zip(claim_T1.WAYS, (0.5, 0.6, 0.6, 0.7, 0.7))}}
    assert claim_T1.verdict(t1).startswith("holds: full fine-tuning beat")
    t1["400"]["full"]["lines"] = t1["400"]["LP-FT"]["lines"] = figure(0.5, 0.7, 0.6)
    assert claim_T1.verdict(t1).startswith("holds when the test is drawn as in training: full")


def test_beginning_in_the_middle_is_the_whole_model(built):
    import claim_T1
    import claim_T2
    import tuning
    items, rows = tuning.names()["train"].pick(torch.arange(6)), torch.arange(6)
    for way in ("none", "top 2", "all 6"):
        model = claim_T2.prepared(0, way).eval()
        with torch.no_grad():
            live = model(*items[rows][0])
            cached = model(*claim_T2.cached(model, items, way)[rows][0])
        assert model.begin == claim_T2.DEPTH - claim_T2.WAYS[way]
        torch.testing.assert_close(live, cached, rtol=0, atol=1e-4)
    looker, pictures = claim_T1.Looker(0).eval(), torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        low = looker.low(pictures)
        for later in (low, looker.high(low)):
            torch.testing.assert_close(looker(pictures), looker(later), rtol=0, atol=1e-4)


@pytest.mark.parametrize("way, learns", [
    ("probe", {"out"}), ("partial", {"out", "blocks.11", "blocks.15", "head"}),
    ("full", {"out", "stem", "blocks.0", "blocks.15", "head"})])
def test_what_sleeps_in_claim_t1(way, learns):
    import claim_T1

    from mmtutor.freezing import freeze
    from mmtutor.vision import ConvEncoder
    model = nn.ModuleDict({"encoders": nn.ModuleDict({"picture": ConvEncoder()}), "out": nn.Linear(2, 2)})
    awake = set(freeze(model, claim_T1.asleep(way)).trainable)
    assert not any(".norm." in name for name in awake)
    part = lambda name: name in awake or any(n.removeprefix("encoders.picture.").startswith(name + ".") for n in awake)
    assert {p for p in ("out", "stem", "blocks.0", "blocks.10", "blocks.11", "blocks.15", "head") if part(p)} == (
        learns | ({"blocks.10", "blocks.11"} if way == "full" else set()))


def test_records_have_every_way():
    from mmtutor.course import records
    claims = records.read("claims")
    import claim_T1
    import claim_T2
    import claim_T3
    assert claims["T1"]["verdict"] == claim_T1.verdict(claims["T1"]["figures"]["sizes"])
    assert claims["T2"]["verdict"] == claim_T2.verdict(claims["T2"]["figures"]["ways"])
    found = claims["T3"]["figures"]
    assert claims["T3"]["verdict"] == claim_T3.verdict(found["rates"], found["untouched"])
    assert list(claims["T1"]["figures"]["sizes"]["400"]) == ["no training", "probe", "partial", "full", "LP-FT"]
    ways = claims["T2"]["figures"]["ways"]
    assert list(ways) == ["none", "top 1", "top 2", "top 3", "all 6", "everything"]
    assert claims["T2"]["figures"]["live and cached apart"] < 1e-9
    trained = [f["cost"]["live"]["trained"] for f in ways.values()]
    memory = [f["cost"]["live"]["memory MiB"] for f in ways.values()]
    assert trained == sorted(trained) and memory == sorted(memory)
    rates = claims["T3"]["figures"]["rates"]
    far = [f["travelled"]["mean"] for name, f in rates.items() if "decay" not in name]
    assert far == sorted(far) and all(f["test"]["n"] >= 3 for f in rates.values())
