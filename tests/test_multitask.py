"""Weights of losses: the optimum of uncertainty weighting, the gradient of the GradNorm paper, and their edges."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor.multitask import GradNorm, UncertaintyWeighting, gradient_norms


def numbers(**values):
    return {k: torch.tensor(float(v), requires_grad=True) for k, v in values.items()}


@settings(max_examples=20, deadline=None)
@given(a=st.floats(0.05, 20), b=st.floats(0.05, 20))
def test_learned_weights_reach_the_analytic_optimum(a, b):
    weighting = UncertaintyWeighting(["a", "b"], regression=["b"]).double()
    losses = {"a": torch.tensor(a).double(), "b": torch.tensor(b).double()}
    optimizer = torch.optim.LBFGS(weighting.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        total, _ = weighting(losses)
        total.backward()
        return total
    optimizer.step(closure)
    for name, value in (("a", a), ("b", b)):
        assert abs(weighting.weights()[name] * 2 * value - 1) < 1e-3
    best = 1 + (math.log(2 * a) + math.log(b)) / 2
    assert abs(weighting(losses)[0].item() - best) < 1e-5


def test_total_and_gradients_are_the_formula():
    weighting = UncertaintyWeighting(["a", "b"], regression=["b"])
    losses = numbers(a=3, b=5)
    with torch.no_grad():
        weighting.raw.copy_(torch.tensor([0.5, -1.0]))
    total, parts = weighting(losses)
    expected = math.exp(-0.5) * 3 + 0.25 + 0.5 * math.e * 5 - 0.5
    assert abs(total.item() - expected) < 1e-5 and {k: v.item() for k, v in parts.items()} == {"a": 3.0, "b": 5.0}
    total.backward()
    assert abs(losses["a"].grad - math.exp(-0.5)) < 1e-6 and abs(losses["b"].grad - 0.5 * math.e) < 1e-6
    assert abs(weighting.raw.grad[0] - (0.5 - 3 * math.exp(-0.5))) < 1e-6
    assert abs(weighting.weights()["b"] - 0.5 * math.e) < 1e-6


def test_speed_changes_the_path_and_not_the_optimum():
    for speed, steps in ((1.0, 600), (10.0, 60)):
        weighting = UncertaintyWeighting(["a"], speed=speed)
        optimizer = torch.optim.Adam(weighting.parameters(), 0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            weighting(numbers(a=4))[0].backward()
            optimizer.step()
        assert abs(weighting.weights()["a"] - 1 / 8) < 0.02


def test_a_loss_of_zero_gets_no_endless_weight_and_comes_back():
    weighting = UncertaintyWeighting(["a"], limit=2.0)
    optimizer = torch.optim.SGD(weighting.parameters(), 1.0)
    for _ in range(50):
        optimizer.zero_grad()
        weighting(numbers(a=0))[0].backward()
        optimizer.step()
    weighting(numbers(a=0))
    assert weighting.weights()["a"] <= math.exp(2.0) * 1.001
    for _ in range(3):
        optimizer.zero_grad()
        weighting(numbers(a=1))[0].backward()
        optimizer.step()
    weighting(numbers(a=0))
    assert weighting.weights()["a"] < math.exp(2.0) / 2


def test_a_missing_task_costs_nothing():
    weighting = UncertaintyWeighting(["a", "b"])
    with torch.no_grad():
        weighting.raw.fill_(1.0)
    total, parts = weighting(numbers(b=2))
    assert abs(total - (2 * math.exp(-1) + 0.5)) < 1e-6 and list(parts) == ["b"]
    total.backward()
    assert weighting.raw.grad[0] == 0 != weighting.raw.grad[1]


def shared_tasks(scales=(1.0, 30.0)):
    torch.manual_seed(0)
    layer = nn.Linear(4, 6)
    state = layer(torch.randn(8, 4)).tanh()
    return layer, {f"t{i}": s * (state @ torch.randn(6)).square().mean() for i, s in enumerate(scales)}


def test_norms_are_those_of_the_gradients():
    layer, losses = shared_tasks()
    for found, loss in zip(gradient_norms(losses, list(layer.parameters())), losses.values()):
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, layer.parameters(), retain_graph=True)])
        torch.testing.assert_close(found, flat.norm())
    elsewhere = torch.zeros(3, requires_grad=True)
    assert gradient_norms(losses, [elsewhere]).tolist() == [0, 0]


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_one_step_is_the_gradient_of_the_papers_loss(alpha):
    "The paper's loss by automatic differentiation through the norm of the gradient, against our closed form."
    layer, losses = shared_tasks((1.0, 2.0, 5.0))
    ours = GradNorm(list(losses), alpha, rate=0.01)
    ours.first.copy_(torch.tensor([1.0, 4.0, 2.0]))
    weight = torch.ones(3, requires_grad=True)
    sizes = torch.stack([torch.autograd.grad(w * loss, layer.weight, create_graph=True)[0].norm()
                         for w, loss in zip(weight, losses.values())])
    pace = torch.stack([v.detach() for v in losses.values()]) / ours.first
    target = (sizes.mean() * (pace / pace.mean()) ** alpha).detach()
    (gradient,) = torch.autograd.grad((sizes - target).abs().sum(), weight)
    norms = gradient_norms(losses, [layer.weight])
    expected = 1 - 0.01 * gradient / norms.mean()
    ours(losses, [layer.weight])
    torch.testing.assert_close(ours.weight, expected * 3 / expected.sum())


def test_equal_pace_ends_with_equal_gradients():
    layer, losses = shared_tasks((1.0, 4.0))
    objective = GradNorm(list(losses), rate=0.01)
    for _ in range(400):  # the losses stand still: the pace is 1 for both
        total, _ = objective(losses, [layer.weight])
    sizes = objective.weight * gradient_norms(losses, [layer.weight])
    assert abs(sizes[0] / sizes[1] - 1) < 0.1 and abs(objective.weight.sum() - 2) < 1e-5


def test_the_slower_task_gets_more():
    layer, losses = shared_tasks((1.0, 1.0))
    objective = GradNorm(list(losses))
    objective.first.copy_(torch.stack([v.detach() for v in losses.values()]) * torch.tensor([1.0, 10.0]))
    norms = gradient_norms(losses, [layer.weight])
    for _ in range(200):
        objective(losses, [layer.weight])
    size = objective.weight * norms
    assert size[0] > 3 * size[1] and (objective.weight > 0).all()


def test_the_total_uses_the_weights_before_the_step_and_eval_takes_none():
    layer, losses = shared_tasks()
    objective = GradNorm(list(losses))
    total, _ = objective(losses, [layer.weight])
    assert torch.equal(total, sum(losses.values())) and not torch.equal(objective.weight, torch.ones(2))
    total.backward()
    before = objective.weight.clone()
    layer, losses = shared_tasks()
    total, _ = objective.eval()(losses)
    assert torch.equal(objective.weight, before)
    torch.testing.assert_close(total, sum(w * v for w, v in zip(before, losses.values())))


def test_state_is_saved():
    layer, losses = shared_tasks()
    first, second = GradNorm(list(losses)), GradNorm(list(losses))
    first(losses, [layer.weight])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weight, second.weight) and torch.equal(first.first, second.first)


def test_a_task_may_be_missing_and_a_gradient_may_be_zero():
    layer, losses = shared_tasks((1.0, 2.0, 3.0))
    objective = GradNorm([*losses, "apart"])
    objective({"t0": losses["t0"], "t2": losses["t2"]}, [layer.weight])
    assert objective.weight[1] == objective.weight[3] == 1 and abs(objective.weight.sum() - 4) < 1e-5
    still = layer.weight.sum() * 0
    objective({"t0": losses["t0"], "apart": still}, [layer.weight])
    assert objective.weight.isfinite().all()


def test_one_loss_that_is_not_a_number():
    losses = numbers(a=1, b=math.nan)
    total, parts = UncertaintyWeighting(["a", "b"])(losses)
    assert total.isnan() and parts["b"].isnan() and not parts["a"].isnan()
    layer, fine = shared_tasks()
    objective = GradNorm(list(fine))
    objective(fine, [layer.weight])
    before = objective.weight.clone(), objective.first.clone()
    with pytest.raises(ValueError, match="GradNorm: loss or gradient of t1 is not finite; the weights are unchanged"):
        objective({**fine, "t1": fine["t1"] * math.nan}, [layer.weight])
    assert torch.equal(objective.weight, before[0]) and torch.equal(objective.first, before[1])


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: UncertaintyWeighting([]), "UncertaintyWeighting: names \\[\\]"),
    (lambda: UncertaintyWeighting(["a", "a"]), "expected different names"),
    (lambda: UncertaintyWeighting(["a"], ["b"]), r"regression \['b'\]"),
    (lambda: UncertaintyWeighting(["a"], limit=0), "limit 0"),
    (lambda: UncertaintyWeighting(["a"], speed=-1), "speed -1"),
    (lambda: UncertaintyWeighting(["a"])({}), "losses named nothing"),
    (lambda: UncertaintyWeighting(["a"])(numbers(b=1)), r"UncertaintyWeighting: losses named \['b'\]; known are a"),
    (lambda: UncertaintyWeighting(["a"])({"a": torch.ones(2)}), r"'a': \(2,\).*take the mean first"),
    (lambda: GradNorm(["a", "a"]), "GradNorm: names"), (lambda: GradNorm(["a"], -1.0), "alpha -1.0"),
    (lambda: GradNorm(["a"], rate=0.0), "rate 0.0"),
    (lambda: UncertaintyWeighting(["a"], speed=math.nan), "speed nan"),
    (lambda: GradNorm(["a"], rate=math.inf), "rate inf"),
    (lambda: gradient_norms(numbers(a=1), [torch.ones(1)]), "gradient_norms: none of 1 shared tensors learns"),
    (lambda: gradient_norms({"a": torch.ones(2)}, []), "gradient_norms: losses of shape"),
    (lambda: GradNorm(["a"])({"a": -torch.ones(())}, [torch.ones(1, requires_grad=True)]), "below 0 there is no pace"),
    (lambda: GradNorm(["a"])(numbers(a=1)), "GradNorm: no shared parameters"),
    (lambda: GradNorm(["a"])(numbers(b=1), [torch.ones(1)]), r"GradNorm: losses named \['b'\]"),
])
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
