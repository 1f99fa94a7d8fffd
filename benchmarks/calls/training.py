"""One good call of each public function of chapters 13 to 15: accumulation, optimiser, finetune, rates."""
import functools
import tempfile
from pathlib import Path

import torch
from fuzzed import good
from torch import nn

from mmtutor.accumulation import GradCache, SavedBytes, accumulate
from mmtutor.finetune import (
    History,
    ReadAhead,
    Run,
    Terminated,
    close_epoch,
    finetune,
    note_step,
    resume,
    validated,
)
from mmtutor.optimiser import (
    FinetuneConfig,
    NotFinite,
    Optimiser,
    add_gradient,
    add_gradients,
    parameter_groups,
    schedule,
    split_window,
    take_step,
    to_device,
    update,
)
from mmtutor.rates import layer_factors, neighbours, scaled, top_down, travelled, unfreeze
from mmtutor.transformer import Encoder

CONFIG = FinetuneConfig(epochs=2, batch_size=2, accumulate=2, encoder_learning_rate=1e-3, clip=0.5, warmup=0.2,
                        checkpoint_every=1, patience=1)
SPACE = tempfile.TemporaryDirectory()


def a_folder() -> str:
    return tempfile.mkdtemp(dir=SPACE.name)


def a_model() -> nn.Module:
    "As small as can be, with an encoder of its own."
    torch.manual_seed(0)
    model = nn.Module()
    model.encoders, model.head = nn.ModuleDict({"a": nn.Linear(2, 2)}), nn.Linear(2, 2)
    return model


def a_loss(model, batch, noise):
    "Takes any batch: what a loss function does with odd ones is its own affair."
    return (model.head.weight + model.encoders["a"].weight).sum() * batch.double().sum(), {"sum": batch.double().sum()}


# --- accumulation ---

@good("accumulation.accumulate")
def _():
    weight = torch.ones((), requires_grad=True)
    return accumulate, dict(loss_fn=lambda part: weight * part.double().sum(),
                            parts=[torch.randn(2, 3), torch.randn(1, 3)], counts=[2, 1])


def _encode(weight, part):
    return weight * part.double()[..., None].sum(tuple(range(1, part.ndim + 1)))


@good("accumulation.GradCache")
def _():
    weight, draw = torch.ones((), requires_grad=True), torch.Generator()

    def used(generators):
        encode = lambda part: _encode(weight, part + torch.rand(part.shape, generator=draw))
        return GradCache(encode, lambda z: z.square().sum(), generators).backward([torch.ones(2, 3), torch.ones(1, 3)])
    return used, dict(generators=[draw])


@good("accumulation.GradCache backward")
def _():
    weight = torch.ones((), requires_grad=True)
    cache = GradCache(functools.partial(_encode, weight), lambda z: z.square().sum())
    return cache.backward, dict(parts=[torch.randn(2, 3), torch.randn(1, 3)])


@good("accumulation.SavedBytes")
def _():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)

    def used(modules):
        with SavedBytes(*modules) as saved:
            layer(x).exp().sum().backward()
        return saved.now, saved.peak
    return used, dict(modules=[layer])


# --- optimiser ---

def the_optimiser() -> Optimiser:
    return Optimiser(a_model(), CONFIG, total=5)


def _one_step(optimiser: Optimiser):
    micro = (torch.tensor([0, 1]), torch.tensor([2]))
    found = take_step(optimiser, 1, a_loss, micro, [torch.ones(2, 2), torch.ones(1, 2)], torch.Generator())
    return found, optimiser.model


@good("optimiser.FinetuneConfig")
def _():
    return lambda **given: _one_step(Optimiser(a_model(), FinetuneConfig(**given), total=5)), dict(
        epochs=2, batch_size=4, accumulate=2, learning_rate=1e-3, encoder_learning_rate=1e-4, weight_decay=0.1,
        betas=(0.9, 0.98), clip=1.0, warmup=0.1, seed=3, precision="bfloat16", checkpoint_every=5, keep=2,
        restore_best=False, patience=3)


@good("optimiser.parameter_groups")
def _():
    return parameter_groups, dict(model=a_model(), config=CONFIG)


@good("optimiser.schedule")
def _():
    return schedule, dict(step=2, total=10, warmup=0.3)


@good("optimiser.Optimiser", changes=("model",))
def _():
    return lambda **given: _one_step(Optimiser(**given)), dict(model=a_model(), config=CONFIG, total=5)


@good("optimiser.to_device")
def _():
    return to_device, dict(batch={"x": (torch.randn(2, 3), [torch.arange(4)]), "n": 1.5}, device=torch.device("cpu"))


@good("optimiser.split_window")
def _():
    return split_window, dict(window=torch.tensor([4, 0, 3, 1, 2]), batch_size=2)


@good("optimiser.add_gradient", changes=("optimiser",))
def _():
    return add_gradient, dict(optimiser=the_optimiser(), loss_fn=a_loss, batch=torch.randn(3, 2), share=0.5,
                              noise=torch.Generator())


@good("optimiser.add_gradients", changes=("optimiser",))
def _():
    return add_gradients, dict(optimiser=the_optimiser(), loss_fn=a_loss, noise=torch.Generator(),
                               micro=(torch.tensor([3, 1]), torch.tensor([2])),
                               batches=[torch.randn(2, 2), torch.randn(1, 2)])


@good("optimiser.NotFinite")
def _():
    return NotFinite, dict(what="the loss is nan", step=3, indices=[5, 2])


@good("optimiser.update", changes=("optimiser",))
def _():
    return update, dict(optimiser=the_optimiser(), step=1, losses=[torch.tensor(0.5), torch.tensor(0.25)],
                        micro=(torch.tensor([3, 1]), torch.tensor([2])))


@good("optimiser.take_step", changes=("optimiser",))
def _():
    return take_step, dict(optimiser=the_optimiser(), step=1, loss_fn=a_loss, noise=torch.Generator(),
                           micro=(torch.tensor([3, 1]), torch.tensor([2])),
                           batches=[torch.randn(2, 2), torch.randn(1, 2)])


# --- finetune ---

def a_run() -> Run:
    run = Run(the_optimiser(), 5, History(5), torch.Generator(), torch.Generator(), torch.randperm(5))
    note_step(run, [(2, {"loss": 1.0, "parts.sum": 2.0}), (1, {"loss": 0.5, "parts.sum": 1.0})])
    return run


@good("finetune.History")
def _():
    def used(total):
        history = History(total)
        return history.total, history.finished
    return used, dict(total=7)


@good("finetune.Run")
def _():
    def used(**given):
        run = Run(**given)
        return run.files(), run.facts()
    return used, dict(optimiser=the_optimiser(), samples=5, history=History(5), sampler=torch.Generator(),
                      noise=torch.Generator(), order=torch.randperm(5), best={"weight": torch.randn(2, 2)})


@good("finetune.note_step", changes=("run",))
def _():
    def used(run, counts, numbers):
        return note_step(run, list(zip(counts, numbers))), run.history.losses, run.history.sums
    return used, dict(run=a_run(), counts=[2, 1], numbers=[{"loss": 1.0, "parts.sum": 2.0}, {"loss": 0.5}])


class Rows:
    "Samples by (epoch, row), as ReadAhead asks for them."
    def __len__(self):
        return 5

    def __getitem__(self, at):
        return torch.tensor([float(at[0]), float(at[1])])


@good("finetune.ReadAhead", keep=("workers",))  # so many processes would be started
def _():
    def used(micro, **given):
        ahead = ReadAhead(Rows(), **given)
        return list(ahead.read_ahead(1, [torch.tensor(rows) for rows in micro]))
    return used, dict(micro=[[0, 3], [2]], workers=0)


@good("finetune.validated")
def _():
    return lambda found: validated(a_model(), lambda model: found), dict(found={"score": 0.5, "loss": 1.0})


@good("finetune.close_epoch", changes=("run",))
def _():
    return close_epoch, dict(run=a_run(), found={"score": 0.5, "more": 2.0})


@functools.cache
def a_saved_run() -> Path:
    folder = Path(a_folder())
    finetune(a_model(), a_loss, torch.ones(5, 2), CONFIG, folder=folder, progress=False, stop_after=1,
             validate=lambda model: {"score": 1.0})
    return folder


@good("finetune.resume", changes=("run",))
def _():
    folder, run = a_saved_run(), a_run()
    return resume, dict(folder=folder, run=run)


@good("finetune.Terminated")
def _():
    return Terminated, dict(history=History(5), folder="runs")


# The score never rises, so that patience ends the longest run.
def _given() -> dict:
    return dict(model=a_model(), loss_fn=a_loss, train=torch.randn(5, 2), config=CONFIG, progress=False,
                validate=lambda model: {"score": 1.0})


@good("finetune.finetune", changes=("model",))
def _():
    return finetune, _given() | dict(folder=None, stop_after=2)


@good("finetune.finetune with a folder", changes=("model",), keep=("config", "train"))
def _():
    return finetune, _given() | dict(folder=Path(a_folder()), stop_after=2)


# --- rates ---

def a_deep_model() -> nn.Module:
    "Two layers and a way in under `encoders.a`, and a head."
    torch.manual_seed(0)
    model, a = a_model(), nn.Module()
    a.enter, a.body = nn.Linear(2, 4), Encoder(2, 4, 2)
    model.encoders["a"] = a
    return model


@good("rates.travelled")
def _():
    model = a_model()
    before = {name: p.detach() + torch.randn(p.shape) for name, p in model.named_parameters()}
    return travelled, dict(before=before, model=model, parts=["encoders", "head"])


@good("rates.neighbours")
def _():
    return neighbours, dict(features=torch.randn(5, 3), labels=torch.tensor([0, 1, 0, 1, 1]))


@good("rates.scaled")
def _():
    def used(factors):
        return [group["lr"] for group in scaled(factors)(a_deep_model(), CONFIG)]
    return used, dict(factors={"encoders.a.enter": 0.1, "head": 2.0})


@good("rates.layer_factors")
def _():
    return layer_factors, dict(model=a_deep_model(), encoder="encoders.a", layers="encoders.a.body.layers", decay=0.5)


@good("rates.top_down")
def _():
    return top_down, dict(model=a_deep_model(), encoder="encoders.a", layers="encoders.a.body.layers")


@good("rates.unfreeze", changes=("model",))
def _():
    given = _given()
    return unfreeze, given | dict(stages=[("encoders", given.pop("config")), ("none", CONFIG)])
