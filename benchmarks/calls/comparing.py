"""One good call of each public function of chapter 17: ledger, frameworks, keras_head."""
import torch
from fuzzed import good, left_out
from torch import nn
from torch.utils.data import TensorDataset

from mmtutor.frameworks import Adapter, lines_of, load_keras, train_with
from mmtutor.keras_head import fit_head, keras_head, load_torch
from mmtutor.ledger import (
    HalvesModel,
    Ledger,
    MicroBatches,
    Order,
    Trajectory,
    adamw,
    departure,
    digit_halves,
    rate_of,
    window_sizes,
    with_plain,
)
from mmtutor.optimiser import FinetuneConfig

CONFIG = FinetuneConfig(epochs=2, batch_size=2, accumulate=2, clip=0.5, warmup=0.2)


def rows(count: int = 7) -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 3, generator=draw), torch.arange(count) % 4)


# --- ledger ---

@good("ledger.digit_halves")
def _():
    return digit_halves, dict(count=20, seed=3)


def _pictures() -> dict:
    return dict(pictures=torch.rand(3, 8, 8), there=torch.tensor([[True, True], [True, True], [False, True]]))


@good("ledger.HalvesModel")
def _():
    return lambda **given: HalvesModel(**given)(**_pictures()), dict(dim=8, dropout=0.1, seed=3)


@good("ledger.HalvesModel forward", swallows=("pictures",))  # in a half that is not there
def _():
    return HalvesModel(8), _pictures()


@good("ledger.Order")
def _():
    return lambda **given: list(Order(**given)), dict(count=5, seed=3)


@good("ledger.window_sizes")
def _():
    return window_sizes, dict(count=7, config=CONFIG)


@good("ledger.Ledger")
def _():
    return Ledger().__call__, dict(logits=torch.randn(3, 4), labels=torch.tensor([-100, 1, 3]))


@good("ledger.Ledger steps")
def _():
    ledger = Ledger()
    ledger(torch.randn(6, 4), torch.arange(6) % 4)
    return ledger.steps, dict(sizes=[4, 2])


@good("ledger.Ledger steps with padding")
def _():
    ledger = Ledger()
    ledger(torch.randn(8, 4), torch.arange(8) % 4)
    return ledger.steps, dict(sizes=[4, 3], stride=4)


@good("ledger.departure")
def _():
    return departure, dict(a=Trajectory([1.0, 0.5, 0.25], []), b=Trajectory([1.0, 0.75, 0.5], []))


@good("ledger.adamw")
def _():
    return lambda **given: adamw(**given).param_groups[0]["lr"], dict(model=nn.Linear(3, 4), config=CONFIG)


@good("ledger.rate_of")
def _():
    return lambda **given: rate_of(adamw(nn.Linear(3, 4), CONFIG), **given).get_last_lr(), dict(config=CONFIG, steps=8)


@good("ledger.with_plain", changes=("model",))
def _():
    return with_plain, dict(model=nn.Linear(3, 4), train=rows(), config=CONFIG)


@good("ledger.MicroBatches")
def _():
    def used(labels, config, pad):
        return list(MicroBatches(TensorDataset(labels.reshape(-1)), config, pad=pad))
    return used, dict(labels=torch.tensor([1, 2, -100, 0, 1, 3, 2]), config=CONFIG, pad=True)


# --- frameworks ---

@good("frameworks.Adapter", keep=("inputs",))  # which inputs fit is for the model to say
def _():
    return Adapter(nn.Linear(3, 4), Ledger()), dict(inputs=(torch.randn(3, 3),), labels=torch.tensor([1, -100, 3]))


left_out("one branch of train_with, which checks the same arguments and is called here with each of them",
         "frameworks.with_trainer", "frameworks.with_lightning", "frameworks.with_keras")


@good("frameworks.train_with", changes=("model",))
def _():
    return train_with, dict(framework="plain", model=nn.Linear(3, 4), train=rows(), config=CONFIG, leave=())


def _few(framework: str, leave: tuple[str, ...]):
    "A run of a framework takes a tenth of a second or more: the numbers that a framework is given, and no others."
    def used(leave, **given):
        return train_with(framework, nn.Linear(3, 4), rows(), FinetuneConfig(**given), leave)
    return used, dict(leave=leave, epochs=1, batch_size=2, accumulate=2, clip=0.5)


@good("frameworks.train_with trainer")
def _():
    return _few("trainer", ("clipping", "order"))


@good("frameworks.train_with lightning")
def _():
    return _few("lightning", ("clipping", "weighting"))


@good("frameworks.train_with keras")
def _():
    load_keras()
    return _few("keras", ("clipping", "window"))


@good("frameworks.load_keras")
def _():
    return load_keras, dict(needed="torch")


@good("frameworks.lines_of")
def _():
    return lambda things: lines_of(*things), dict(things=[rows, MicroBatches, Ledger])


# --- keras_head ---

def _a_head(dim: int = 8):
    load_keras()
    return keras_head(dim, heads=2, hidden=8)


@good("keras_head.keras_head")
def _():
    load_keras()
    return keras_head, dict(dim=8, heads=2, queries=2, hidden=8)


@good("keras_head.load_torch")
def _():
    head = keras_head(8)
    return lambda dim: load_torch(head, HalvesModel(dim)), dict(dim=8)


@good("keras_head.fit_head")
def _():
    train = TensorDataset(torch.rand(5, 8, 8), torch.ones(5, 2, dtype=torch.bool), torch.arange(5))
    return lambda **given: fit_head(_a_head(), train, FinetuneConfig(**given)), dict(
        epochs=1, batch_size=2, accumulate=2, clip=0.5)


left_out("a record of two lists without a line of code of its own; departure is called with it", "ledger.Trajectory")
