"""A correction that begins at nothing, learns alone, equals peft's, and folds in without changing an answer."""
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor.lora import LoRALinear, add_lora, lora_state, merge_lora
from mmtutor.transformer import Encoder


@pytest.fixture(autouse=True)
def doubles(seeded):
    torch.set_default_dtype(torch.float64)


def stir(model: nn.Module, size: float = 0.1) -> nn.Module:
    "Give every correction something to say."
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += size * torch.randn_like(p)
    return model


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.data())
def test_the_layer_is_what_the_formula_says(inputs, outputs, bias, draw):
    rank = draw.draw(st.integers(1, min(inputs, outputs)))
    base = nn.Linear(inputs, outputs, bias=bias)
    layer, x = LoRALinear(base, rank, alpha=3.0), torch.randn(2, 5, inputs)
    assert torch.equal(layer(x), base(x))
    stir(layer)
    expected = base(x) + 3.0 / rank * torch.einsum("nti,ri,or->nto", x, layer.down, layer.up)
    assert torch.allclose(layer(x), expected, atol=1e-12)
    assert torch.allclose(layer.change(), 3.0 / rank * layer.up @ layer.down, atol=1e-14)
    assert torch.linalg.matrix_rank(layer.change()) <= rank


@pytest.mark.parametrize("policy", [lambda name: name.endswith((".query", ".value")), "all", "layers.0",
                                    "all but last 1 of layers"])
def test_begins_as_the_model_and_folds_in_as_what_it_became(policy):
    model, x = Encoder(2, 16, 2).eval(), torch.randn(3, 4, 16)
    names, before = list(model.state_dict()), model(x)
    report = add_lora(model, policy, rank=2)
    assert torch.equal(model(x), before) and report.trained == sum(v.numel() for v in lora_state(model).values())
    assert f"{len(report.wrapped)} layers" in str(report)
    after = stir(model)(x)
    assert (after - before).abs().max() > 1e-3
    assert torch.allclose(merge_lora(model)(x), after, atol=1e-12)
    assert list(model.state_dict()) == names and not any(isinstance(m, LoRALinear) for m in model.modules())


def test_only_what_the_policy_names_is_wrapped():
    model = Encoder(2, 16, 2)
    report = add_lora(model)
    assert set(report.wrapped) == {f"layers.{i}.attention.{n}" for i in (0, 1) for n in ("query", "value")}
    assert isinstance(model.layers[0].attention.query, LoRALinear)
    assert type(model.layers[0].attention.key) is nn.Linear


def test_nothing_but_the_corrections_learns():
    model, x = Encoder(2, 16, 2, dropout=0.5), torch.randn(3, 4, 16)
    add_lora(model)
    frozen = {n: v.clone() for n, v in model.state_dict().items() if not n.endswith((".down", ".up"))}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model.train()  # cannot wake what is frozen
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
    now = model.state_dict()
    assert all(torch.equal(now[n], v) for n, v in frozen.items())
    assert all(v.abs().max() > 0 for v in lora_state(model).values())
    assert torch.equal(model(x), model(x))  # no dropout


def test_up_moves_first_and_down_from_then_on():
    layer, x = LoRALinear(nn.Linear(4, 3), 2), torch.randn(5, 4)
    layer(x).square().sum().backward()
    assert layer.down.grad.abs().max() == 0 and layer.up.grad.abs().max() > 0 and layer.base.weight.grad is None
    with torch.no_grad():
        layer.up -= 0.1 * layer.up.grad
    layer.zero_grad()
    layer(x).square().sum().backward()
    assert layer.down.grad.abs().max() > 0


def test_equal_to_peft_in_value_and_gradient():
    from peft import LoraConfig, inject_adapter_in_model
    ours = Encoder(2, 16, 2).eval()
    theirs, x = copy.deepcopy(ours), torch.randn(3, 4, 16)
    add_lora(ours, rank=4, alpha=6.0)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"]), theirs)
    theirs.double()
    stir(ours)
    partner = lambda name: theirs.get_submodule(
        name.replace(".down", ".lora_A.default").replace(".up", ".lora_B.default")).weight
    for name, value in lora_state(ours).items():
        partner(name).data.copy_(value)
    assert torch.allclose(ours(x), theirs(x), atol=1e-12)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    for name in lora_state(ours):
        home, _, part = name.rpartition(".")
        assert torch.allclose(getattr(ours.get_submodule(home), part).grad, partner(name).grad, atol=1e-10)


def test_the_state_is_all_that_is_needed():
    model, x = Encoder(1, 16, 2).eval(), torch.randn(2, 4, 16)
    other = copy.deepcopy(model)
    for m in (model, other):
        add_lora(m, rank=3)
    stir(model)
    found = other.load_state_dict(lora_state(model), strict=False)
    assert not found.unexpected_keys and torch.equal(model(x), other(x))


def test_precision_and_kind_are_those_of_the_layer():
    layer = LoRALinear(nn.Linear(4, 4).to(torch.bfloat16), 2)
    assert layer.down.dtype == layer.up.dtype == torch.bfloat16
    assert layer(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert "rank=2, alpha=8" in repr(layer)


@pytest.mark.parametrize("call, message", [
    (lambda: LoRALinear(nn.Linear(4, 3), 4), r"LoRALinear: rank 4 for Linear\(in_features=4, out_features=3.*smaller"),
    (lambda: LoRALinear(nn.Linear(4, 3), 0), "LoRALinear: rank 0"),
    (lambda: LoRALinear(nn.Linear(4, 3), 2, alpha=float("nan")), "LoRALinear: alpha nan"),
    (lambda: LoRALinear(nn.Linear(4, 3), 2)(torch.ones(2, 3)), r"LoRALinear: x is \(2, 3\), expected \(…, 4\)"),
    (lambda: LoRALinear(nn.Conv2d(1, 1, 1)), "LoRALinear: rank 4 for Conv2d.*expected an nn.Linear"),
    (lambda: add_lora(Encoder(1, 8, 2), lambda name: False), "chooses no nn.Linear; the model's are called .*query"),
    (lambda: add_lora(nn.ReLU()), "called nothing"),
    (lambda: [add_lora(m) for m in [Encoder(1, 8, 2)] * 2], "has corrections already; merge_lora"),
    (lambda: merge_lora(nn.Linear(2, 2)), "merge_lora: no corrections"),
    (lambda: add_lora(Encoder(1, 8, 2), "encoders"), "nothing in the model is called 'encoders'"),
])
def test_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


def test_a_refusal_changes_nothing():
    model = Encoder(1, 8, 2)
    with pytest.raises(ValueError):
        add_lora(model, "all", rank=9)
    assert not any(isinstance(m, LoRALinear) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_the_record_has_every_way_and_its_verdict_follows():
    from mmtutor.course import records
    found = records.read("lora")["figures"]
    assert list(found["ways"]) == ["last layer", "rank 1", "rank 4", "rank 16", "everything"]
    trained = [f["trained"] for f in found["ways"].values()]
    assert trained == sorted(trained) and all(f["test"]["n"] >= 3 for f in found["ways"].values())
    assert found["verdict"].startswith("Rank 4 is ")
