"""The questions of the capstone: fair ones, scored as they say."""
import numpy as np
import pytest
import torch
from torch import nn

from mmtutor import inputs, questions
from mmtutor.multimodal import MultimodalConfig, MultimodalModel
from mmtutor.transformer import Tokens


def test_swap_one_gives_nothing_away():
    "Whatever the answer, each modality alone is distributed alike; the swapped item is never its own."
    n, counts = 16, np.zeros((3, 4, 16))
    items = {m: Tokens(torch.arange(float(n)).reshape(n, 1, 1), torch.ones(n, 1, dtype=torch.bool))
             for m in inputs.MODALITIES}
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        mixed, odd = questions.swap_one(items, generator)
        for i, m in enumerate(inputs.MODALITIES):
            values = mixed[m].values.flatten().long()
            swapped = values != torch.arange(n)
            assert torch.equal(swapped, odd == i)
            np.add.at(counts[i], (odd.numpy(), values.numpy()), 1)
    share = counts / counts.sum(2, keepdims=True)
    assert abs(share - 1 / n).max() < 0.02


def toy_bank(n=24):
    """Items whose every modality shows the number of the item; the group is that number modulo 8."""
    code = torch.eye(n)[:, None, :]
    held = lambda: inputs.Cached([Tokens(code, torch.ones(n, 1, dtype=torch.bool))])
    kinds = {kind: {m: held() for m in inputs.MODALITIES} for kind in ("clean", "degraded")}
    return inputs.Bank(None, torch.arange(n) % 8, torch.arange(n), kinds)


def toy_model(n=24):
    torch.manual_seed(0)
    return MultimodalModel(MultimodalConfig(widths=dict.fromkeys(inputs.MODALITIES, n), dim=16, fusion="concat",
                                            embedding=n)).eval()


def test_a_model_that_knows_names_finds_them_and_the_odd_one_out():
    "Embeddings that are the item's own code: every name is found, and agreement alone answers the odd one out."
    model, items = toy_model(), toy_bank()
    with torch.no_grad():
        for target in model.targets.values():
            target.weight.copy_(torch.eye(24, 48)); target.bias.zero_()
        model.gate.zero_()
        head = model.heads["odd"]
        head.weight.zero_(); head.bias.zero_()
        for i, odd in enumerate(inputs.MODALITIES):  # a pair without the odd one agrees
            head.weight[i, -3:] = torch.tensor([1.0 if odd not in pair else -1.0 for pair in model.pairs])
        head.weight[3, -3:] = 0.9
    found, clean = questions.evaluate(model, items)
    assert found["odd"] == 1 and found["clean/R@1/picture+sound"] == 1 and found["degraded/R@10/sound"] == 1
    assert "clean/R@1/text" not in found, "a name must not search for itself"
    assert clean["picture+sound"]["scores"].shape == (24, 24)
    assert set(questions.HEADLINES) <= set(found) and 0 <= questions.score(found) <= 1


def test_thresholds_learned_on_other_items_are_set_right():
    "A head that calls everything odd but half-agreeing items is repaired, stays linear, and answers unseen questions."
    model, items = toy_model(), toy_bank()
    with torch.no_grad():
        for target in model.targets.values():
            target.weight.copy_(torch.eye(24, 48)); target.bias.zero_()
        nn.init.zeros_(model.heads["odd"].weight)
        model.heads["odd"].bias.copy_(torch.tensor([5.0, 0, 0, -5]))
    assert questions.odd_accuracy(model, items) == 0.25
    others = {n: p.clone() for n, p in model.named_parameters() if not n.startswith("heads.odd")}
    questions.calibrate_odd(model, items)
    assert questions.odd_accuracy(model, items) == 1
    assert all(torch.equal(p, others[n]) for n, p in model.named_parameters() if n in others)


def test_without_agreement_the_odd_one_out_is_a_guess():
    model = toy_model()
    nn.init.zeros_(model.heads["odd"].weight)
    assert questions.odd_accuracy(model, toy_bank()) == 0.25


def test_the_loss_asks_every_question_and_reaches_every_part():
    model, items = toy_model().train(), toy_bank()
    loss, parts = questions.loss_function(items, ("picture", "sound"))(
        model, items[torch.arange(8)], torch.Generator().manual_seed(0))
    assert {k.split("/")[0] for k in parts} >= set(questions.WEIGHTS)
    loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert not silent


def test_baselines_see_what_a_linear_probe_can_see():
    bank = toy_bank(32)
    found = questions.baselines(bank, bank, bank)
    assert found["majority"] == 0.125
    probes = {f"{kind}/group/{subset}" for kind in ("clean", "degraded") for subset in questions.SUBSETS}
    assert found.keys() == probes | {"majority"}
    assert all(0 <= v <= 1 for v in found.values()) and found["clean/group/text"] > 0.9


def test_similarities_are_cosines():
    a, b = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [5.0, 0.0]])
    torch.testing.assert_close(questions.similarities(a, b), torch.tensor(
        [[0, 1], [0.5 ** 0.5, 0.5 ** 0.5]], dtype=torch.double))


def test_an_item_alone_is_not_swapped_with_itself():
    alone = {m: Tokens(torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.bool)) for m in inputs.MODALITIES}
    assert all(questions.swap_one(alone, torch.Generator().manual_seed(s))[1] == 3 for s in range(9)), "none is odd"


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: questions.swap_one({}, torch.Generator()), "swap_one: items of no modality"),
    (lambda: questions.loss_function(toy_bank(), ("smell",)), r"loss_function: asked of \['smell'\], expected some"),
    (lambda: questions.predict(toy_model(), toy_bank(), "clean", ("smell",)), r"predict: .* subsets \['smell'\]"),
    (lambda: questions.predict(toy_model(), toy_bank(), "clean", batch=0), "predict: batches of 0"),
    (lambda: questions.similarities(torch.ones(2, 3), torch.ones(2, 4)), r"similarities: \(2, 3\) to \(2, 4\)"),
    (lambda: questions.score({"odd": 1.0}), "score: the record has no 'clean/group/picture"),
    (lambda: questions.called("frozen"), "called: 'frozen', expected regime/fusion/modalities/rate"),
    (lambda: questions.cell({"mean": 1.0}), "cell: the record has no 'sd'"),
    (lambda: questions.tables({"test": {}, "baselines": {}, "cost": {}}), "tables: no figures of a test"),
])
def test_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_score_is_the_mean_of_the_headlines():
    assert questions.score(dict(zip(questions.HEADLINES, (0.1, 0.2, 0.3, 0.4)))) == pytest.approx(0.25)
