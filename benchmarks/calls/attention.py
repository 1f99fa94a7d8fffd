"""One good call of each public function of chapter 1."""
import torch
from fuzzed import good

from mmtutor.attention import attend, attention_weights, causal_mask, padding_mask


@good("attention.causal_mask")
def _():
    return causal_mask, dict(query=3, key=5)


@good("attention.padding_mask")
def _():
    return padding_mask, dict(lengths=torch.tensor([3, 0, 2]), tokens=4)


@good("attention.padding_mask without tokens")
def _():
    return padding_mask, dict(lengths=torch.tensor([3, 0, 2]))


def _qkv():
    return dict(q=torch.randn(2, 3, 4), k=torch.randn(2, 5, 4), v=torch.randn(2, 5, 6))


@good("attention.attention_weights")
def _():
    given = _qkv()
    del given["v"]
    return attention_weights, given | dict(mask=torch.rand(2, 3, 5) > 0.3, scale=0.5)


@good("attention.attend", swallows=("v",))  # behind the mask
def _():
    return attend, _qkv() | dict(mask=torch.rand(2, 3, 5) > 0.3, dropout=0.1, fused=True)


@good("attention.attend by hand")
def _():
    return attend, _qkv() | dict(fused=False)


@good("attention.attend of one sequence")
def _():
    return attend, {name: x[0] for name, x in _qkv().items()} | dict(mask=causal_mask(3, 5), scale=0.5)


@good("attention.attend of many axes")
def _():
    return attend, {name: x[None, None, None] for name, x in _qkv().items()} | dict(mask=torch.rand(2, 3, 5) > 0.3)
