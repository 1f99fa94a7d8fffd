"""One good call of each public function of the chapter on conditions; it needs the embedded data."""
import functools

import torch
from fuzzed import good
from torch import nn

from mmtutor import conditions, data
from mmtutor.transformer import Tokens


@functools.cache
def _built():
    data.build(progress=False)


@good("conditions.media")
def _():
    _built()
    return conditions.media, dict(split="validation", modality="picture", kind="clean")


@good("conditions.Pooled forward")
def _():
    class Encoder(nn.Module):
        prepare = tuple

        def forward(self, values, mask):
            return Tokens(values, mask)

    def pooled(values, mask):
        return conditions.Pooled(Encoder())(values, mask)
    return pooled, dict(values=torch.randn(2, 3, 4), mask=torch.tensor([[True, True, True], [True, True, True]]))


@good("conditions.frozen_features")
def _():
    _built()
    return conditions.frozen_features, dict(split="validation", condition="clean")
