"""Good calls of chapter 12, its Transfusion."""
import torch
from fuzzed import good, left_out

from mmtutor.transfusion import (
    BEGIN,
    END,
    Transfusion,
    draw,
    losses,
    mixed_mask,
    pictures_in,
    read,
    sequences,
    shares,
    spell,
    step_back,
    to_patches,
    to_pictures,
    train,
    write,
)

left_out("a named tuple that holds what it is given: nothing is computed", "transfusion.Predictions")


def _small():
    return Transfusion(dim=8, heads=2, depth=1, dropout=0.0)


def _ids():
    return sequences(torch.tensor([3, 7]), torch.tensor([0, 1]))


def _pictures(count=2):
    return torch.rand(count, 8, 8) * 2 - 1


@good("transfusion.spell")
def _():
    return spell, dict(word="seven")


@good("transfusion.read")
def _():
    return read, dict(tokens=[BEGIN, *spell("six"), END])


@good("transfusion.to_patches")
def _():
    return to_patches, dict(pictures=_pictures())


@good("transfusion.to_pictures")
def _():
    return to_pictures, dict(patches=torch.randn(2, 16, 4))


@good("transfusion.sequences")
def _():
    return sequences, dict(labels=torch.tensor([3, 7, 0]), kinds=torch.tensor([0, 1, 2]))


@good("transfusion.pictures_in")
def _():
    return pictures_in, dict(ids=_ids())


@good("transfusion.mixed_mask")
def _():
    return mixed_mask, dict(ids=_ids(), two_way=True)


@good("transfusion.shares")
def _():
    return shares, dict(t=torch.tensor([0.0, 0.3, 1.0]))


@good("transfusion.step_back")
def _():
    return step_back, dict(x=torch.randn(2, 3, 4), noise=torch.randn(2, 3, 4), t=0.7, earlier=0.4, fresh=0.5,
                           generator=torch.Generator().manual_seed(0))


@good("transfusion.Transfusion")
def _():
    def used(**given):
        return Transfusion(**given)(_ids(), torch.randn(2, 16, 4), torch.tensor([0.1, 0.9]))
    return used, dict(dim=8, heads=2, depth=1, two_way=True, dropout=0.1)


@good("transfusion.Transfusion forward")
def _():
    return _small(), dict(ids=_ids(), patches=torch.randn(2, 16, 4), t=torch.tensor([0.1, 0.9]))


@good("transfusion.losses")
def _():
    return losses, dict(model=_small(), ids=_ids(), pictures=_pictures(), t=torch.tensor([0.1, 0.9]),
                        noise=torch.randn(2, 16, 4))


@good("transfusion.train", changes=("model",))
def _():
    def used(steps=2, **given):  # as many as asked for: a huge number of them is no mistake
        return train(_small(), steps=steps, **given)
    return used, dict(pictures=_pictures(4), labels=torch.arange(4), batch=4, rate=1e-3, weight=5.0, seed=1)


@good("transfusion.write")
def _():
    return write, dict(model=_small(), pictures=_pictures())


@good("transfusion.draw")
def _():
    def used(labels, **given):
        return draw(_small(), labels, steps=2, **given)
    return used, dict(labels=torch.tensor([3, 7]), guidance=2.0, fresh=0.5, seed=1)
