"""The inputs of the capstone: variants of items, cached or raw, picked alike."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mmtutor import data, inputs
from mmtutor.transformer import Tokens

QUICK = inputs.PROFILES["quick"]


def tokens(n, length=3, dim=4, start=0.0):
    values = torch.arange(n * length * dim, dtype=torch.float).reshape(n, length, dim) + start
    return Tokens(values, torch.ones(n, length, dtype=torch.bool))


def test_cached_pick_cuts_padding_and_keeps_items():
    short, long = tokens(5, 2), tokens(5, 4, start=1000)
    found = inputs.Cached([short, long])
    only_short = found.pick(torch.zeros(3, dtype=torch.long), torch.tensor([4, 0, 2]))
    assert only_short.values.shape == (3, 2, 4) and torch.equal(only_short.values, short.values[[4, 0, 2]])
    both = found.pick(torch.tensor([0, 1]), torch.tensor([1, 3]))
    assert both.mask.sum(1).tolist() == [2, 4]
    assert torch.equal(both.values[1], long.values[3]) and torch.equal(both.values[0, :2], short.values[1])


def test_raw_pick_prepares_the_items_that_were_chosen():
    class Encoder(nn.Module):
        def prepare(self, items):
            return (torch.tensor(items),)
    raw = inputs.Raw([[10, 11, 12], [20, 21, 22]], Encoder())
    assert len(raw) == 2
    assert raw.pick(torch.tensor([1, 0]), torch.tensor([2, 1]))[0].tolist() == [22, 11]


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: inputs.Profile(epochs=-1), "Profile: -1 in epochs, expected something, and numbers above 0"),
    (lambda: inputs.Profile(learning_rates=(1e-3, float("nan"))), "Profile: nan in learning_rates"),
    (lambda: inputs.Profile(seeds=()), r"Profile: \(\) in seeds, expected something"),
    (lambda: inputs.Cached([]), r"Cached: \[\]; expected \(items, tokens, dim\)"),
    (lambda: inputs.Cached([tokens(5), tokens(4)]), "Cached: "),
    (lambda: inputs.Cached([tokens(5)]).pick(torch.tensor([0]), torch.tensor([1, 2])), r"pick: which \[1\] of "),
    (lambda: inputs.Cached([tokens(5)]).pick(torch.tensor([0]), torch.tensor([-1])), "pick: rows .*, 0 to 4"),
    (lambda: inputs.Raw([["a", "b"], ["c"]], None).pick(torch.tensor([0]), torch.tensor([1])), "pick: rows .*, 0 to 0"),
    (lambda: inputs.Bank(None, torch.arange(4), torch.arange(3), {}), r"Bank: group \[4\], subgroup \[3\]"),
    (lambda: inputs.Bank(None, torch.arange(4), torch.arange(4), {})[torch.tensor([4])], "pick: rows .*, 0 to 3"),
    (lambda: inputs.Bank(None, torch.arange(4), torch.arange(4), {}).pick("clean", ["text"], torch.arange(4)),
     "Bank: no 'text' of kind 'clean'"),
    (lambda: inputs.raw_variants("tset", QUICK), "raw_variants: no split 'tset'; there are train, validation, test"),
])
def test_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_bank_draws_variants_in_training_and_fixes_them_in_evaluation():
    variants = [tokens(4, start=100 * k) for k in range(3)]
    bank = inputs.Bank(None, torch.arange(4), torch.arange(4), {"clean": {"text": inputs.Cached(variants)}})
    assert len(bank) == 4 and bank[torch.tensor([2])]["group"].tolist() == [2]
    fixed = [bank.pick("clean", ("text",), torch.arange(4))["text"].values for _ in range(2)]
    assert torch.equal(*fixed) and torch.equal(fixed[0][1], variants[1].values[1])
    draw = lambda seed: bank.pick("clean", ("text",), torch.tensor([0]), torch.Generator().manual_seed(seed))
    drawn = {float(draw(seed)["text"].values[0, 0, 0]) for seed in range(20)}
    assert drawn == {0.0, 100.0, 200.0}


def test_encoded_gives_every_variant_in_its_own_order(tmp_path, monkeypatch):
    "Items go through the encoder sorted by length and come back where they were."
    monkeypatch.setenv("MMTUTOR_CACHE", str(tmp_path))

    class Count(nn.Module):
        dim = 1

        def prepare(self, items):
            longest = max(map(len, items))
            values = torch.tensor([list(map(float, map(ord, i))) + [0.0] * (longest - len(i)) for i in items])
            return values[..., None], torch.tensor([[k < len(i) for k in range(longest)] for i in items])

        def forward(self, values, mask):
            return Tokens(values, mask)
    first, second = inputs.encoded(Count(), [["abc", "d", "ef"], ["g", "hijk", "l"]], "toy")
    said = lambda t: ["".join(chr(int(v)) for v in row[m][:, 0]) for row, m in zip(t.values, t.mask)]
    assert said(first) == ["abc", "d", "ef"] and said(second) == ["g", "hijk", "l"]


def test_conditions_of_a_split(built):
    "Clean and degraded everywhere, shifted in the test set alone; degraded copies differ from the clean ones."
    profile = replace(QUICK, limit=12, draws=2, voices=data.TRAIN_VOICES[:2])
    rows, kinds = inputs.raw_variants("train", profile)
    assert set(kinds) == {"clean", "degraded"} and len(rows) == 12
    assert {m: len(v) for m, v in kinds["clean"].items()} == {"text": 1, "picture": 1, "sound": 2}
    assert {m: len(v) for m, v in kinds["degraded"].items()} == dict.fromkeys(inputs.MODALITIES, 2)
    clean, poor = kinds["clean"], kinds["degraded"]
    share = np.mean([word == "[MASK]" for text in sum(poor["text"], []) for word in text.split()])
    assert 0.4 < share < 0.8
    assert all(not torch.equal(a, b) for a, b in zip(clean["picture"][0], poor["picture"][0]))
    for quiet, noisy in zip(clean["sound"][1], poor["sound"][1]):
        assert (noisy - quiet).square().mean().item() == pytest.approx(quiet.square().mean().item(), rel=0.1), "0 dB"
    _, test = inputs.raw_variants("test", profile)
    assert set(test) == {"clean", "degraded", "shifted"} and len(test["shifted"]["sound"]) == len(data.UNHEARD_VOICES)
    assert all(not torch.equal(a, b) for a, b in zip(test["clean"]["picture"][0], test["shifted"]["picture"][0]))
