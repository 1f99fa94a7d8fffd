"""The fusion head in Keras: PyTorch's logits with PyTorch's weights, and its losses. On the backend that is active.

`make test-tensorflow` runs this file on TensorFlow, in an environment of its own.
"""
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mmtutor.finetune import FinetuneConfig
from mmtutor.frameworks import load_keras
from mmtutor.keras_head import fit_head, keras_head, load_torch
from mmtutor.ledger import HalvesModel, departure, digit_halves, with_plain

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = FinetuneConfig(epochs=2, batch_size=8, accumulate=4, learning_rate=3e-3, weight_decay=0.1, clip=0.5)
bad_input = pytest.mark.bad_input
keras = load_keras()


def shaken(dim: int = 32, seed: int = 0) -> HalvesModel:
    "A model with random numbers everywhere, also where a fresh one has zeros and ones."
    model, draw = HalvesModel(dim, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw))
    return model.eval()


def logits(head, pictures, there) -> np.ndarray:
    found = head({"pictures": pictures.numpy(), "there": there.numpy()})
    return keras.ops.convert_to_numpy(found)


def test_the_backend_is_the_one_asked_for():
    assert keras.config.backend() == os.environ.get("KERAS_BACKEND", "torch")


@pytest.mark.parametrize("dim", [8, 32])
def test_logits_are_those_of_pytorch(dim):
    head, model = keras_head(dim), shaken(dim)
    load_torch(head, model)
    pictures, there = (t[:40] for t in digit_halves()[1].tensors[:2])
    there = there.clone()
    there[:5] = False
    with torch.no_grad():
        ours = model(pictures, there).numpy()
    assert np.abs(logits(head, pictures, there) - ours).max() < 1e-5
    assert pictures.isnan().any() and (~there).all(1).any(), "the case is meant to have missing halves, and NaN in them"


def test_what_is_absent_never_matters():
    head = keras_head(8)
    load_torch(head, shaken(8))
    pictures, there = torch.rand(6, 8, 8), torch.tensor([[True, False], [False, True], [False, False]] * 2)
    other = pictures.clone()
    other[(~there).repeat_interleave(4, dim=1)] = torch.nan
    assert np.array_equal(logits(head, pictures, there), logits(head, other, there))


@pytest.mark.slow
@pytest.mark.parametrize("count, config", [
    (300, CONFIG), (20, CONFIG), (5, CONFIG),
    (64, FinetuneConfig(epochs=2, batch_size=16, learning_rate=3e-3, clip=None, warmup=0.0))])
def test_losses_are_those_of_the_plain_loop(count, config):
    train, model, head = digit_halves(count)[0], HalvesModel(), keras_head()
    load_torch(head, model)
    native, plain = fit_head(head, train, config), with_plain(model, train, config)
    assert departure(native, plain) < 1e-4
    gaps = [np.abs(keras.ops.convert_to_numpy(layer.get_weights()[0]) - model.state_dict()[name].numpy().T).max()
            for layer in head.layers if (name := layer.name.replace("-", ".") + ".weight") in model.state_dict()
            and hasattr(layer, "units")]
    assert max(gaps) < 2e-2  # Adam's steps on gradients of almost 0 are the epsilon's


@pytest.mark.slow
def test_labels_that_are_missing_do_not_count():
    pictures, there, digits = digit_halves(96)[0].tensors
    some = digits.masked_fill(torch.rand(96, generator=torch.Generator().manual_seed(0)) < 0.4, -100)
    train, model, head = TensorDataset(pictures, there, some), HalvesModel(), keras_head()
    load_torch(head, model)
    assert departure(fit_head(head, train, CONFIG), with_plain(model, train, CONFIG)) < 1e-4


@bad_input
def test_weights_that_do_not_fit_are_refused_and_nothing_is_copied():
    head, extra = keras_head(), HalvesModel()
    before = [w.copy() for w in head.get_weights()]
    extra.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"load_torch: no layer of the head holds extra.bias, extra.weight"):
        load_torch(head, extra)
    with pytest.raises(ValueError, match=r"layer tokens-project-upper has weights of \[\(8, 32\), \(32,\)\], the model "
                                         r"gives \[\(8, 16\), \(16,\)\]"):
        load_torch(head, HalvesModel(16))
    headless = HalvesModel()
    del headless.head
    with pytest.raises(ValueError, match=r"layer head has weights of .* the model gives \[None, None\]"):
        load_torch(head, headless)
    assert all(np.array_equal(a, b) for a, b in zip(before, head.get_weights()))


@bad_input
def test_heads_that_do_not_share_the_width():
    with pytest.raises(ValueError, match="keras_head: 4 heads cannot share a width of 30 evenly"):
        keras_head(30)
    for odd in ({"queries": 9}, {"queries": 0}, {"hidden": 0}):
        with pytest.raises(ValueError, match="keras_head: .* queries and a hidden width of"):
            keras_head(**odd)
