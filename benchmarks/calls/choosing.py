"""One good call of each public function of subsets, tasks and augment (chapter 5)."""
import numpy as np
import torch
from fuzzed import good, left_out

from mmtutor.augment import (
    colour,
    crop,
    delay,
    drop_words,
    erase,
    flip,
    gain,
    mask_stripes,
    may_mirror,
    shift,
    speed,
)
from mmtutor.subsets import (
    LinearProbe,
    confident_class,
    distinct,
    flip_labels,
    gaps,
    k_centre,
    out_of_sample,
    random_subset,
    stratified_subset,
    suspects,
)
from mmtutor.tasks import add_noise, jitter, mask_words, occlude, odd_one_out, scenes, strangers


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def a_table(rows: int = 8) -> np.ndarray:
    return rng().normal(size=(rows, 3))


LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])


# --- subsets ---

@good("subsets.random_subset")
def _():
    return random_subset, dict(count=9, size=4, rng=rng())


@good("subsets.stratified_subset")
def _():
    return stratified_subset, dict(labels=LABELS.copy(), size=4, rng=rng())


@good("subsets.gaps")
def _():
    return gaps, dict(features=a_table(), chosen=np.array([1, 4]))


@good("subsets.k_centre")
def _():
    return k_centre, dict(features=a_table(), size=3, first=2)


@good("subsets.distinct")
def _():
    return distinct, dict(features=a_table(), apart=0.5)


@good("subsets.flip_labels")
def _():
    return flip_labels, dict(labels=LABELS.copy(), share=0.5, classes=3, rng=rng())


@good("subsets.LinearProbe")
def _():
    return lambda **given: LinearProbe(**given).probabilities(a_table()), dict(
        weight=torch.randn(3, 4), bias=torch.randn(4), mean=torch.randn(3), scale=torch.rand(3) + 0.5)


@good("subsets.LinearProbe fit")
def _():
    return LinearProbe.fit, dict(features=a_table(), labels=LABELS.copy(), classes=3, decay=0.5)


@good("subsets.LinearProbe probabilities")
def _():
    return LinearProbe.fit(a_table(), LABELS, 3).probabilities, dict(features=a_table(4))


@good("subsets.out_of_sample")
def _():
    return out_of_sample, dict(features=a_table(), labels=LABELS.copy(), classes=3, rng=rng(), folds=2, decay=0.5)


def _chances() -> np.ndarray:
    return rng().dirichlet(np.ones(3), 8)


@good("subsets.confident_class")
def _():
    return confident_class, dict(chances=_chances(), labels=LABELS.copy())


@good("subsets.suspects")
def _():
    return suspects, dict(chances=_chances(), labels=LABELS.copy())


# --- tasks ---

def a_picture() -> torch.Tensor:
    return torch.randint(0, 256, (3, 12, 10), dtype=torch.uint8)


@good("tasks.mask_words")
def _():
    return mask_words, dict(text="face with tears of joy", share=0.4, rng=rng())


@good("tasks.occlude")
def _():
    return occlude, dict(picture=a_picture(), share=0.3, rng=rng())


@good("tasks.add_noise")
def _():
    return add_noise, dict(sound=torch.randn(50), decibels=6.0, rng=rng())


@good("tasks.strangers")
def _():
    return strangers, dict(label=LABELS.copy(), rng=rng())


@good("tasks.odd_one_out")
def _():
    return odd_one_out, dict(labels=[0, 1, 2, 0, 1, 2], seed=3)


@good("tasks.scenes")
def _():
    return lambda **given: scenes(count=3, **given), dict(
        split="test", seed=3, voices=("low", "high"), variants=2, pairs="held out")


@good("tasks.scenes as many as asked for")
def _():
    used = lambda count: len(scenes("train", min(count, 50)))  # a huge number of them takes as long as it takes
    return used, dict(count=5)


@good("tasks.jitter")
def _():
    return jitter, dict(picture=a_picture(), rng=rng())


left_out("a record without a line of code of its own; the function that makes it is called", "tasks.OddOneOut",
         "tasks.Scene")


# --- augment ---

def the_pictures() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 12, 10), dtype=torch.uint8)


@good("augment.may_mirror")
def _():
    return may_mirror, dict(name="elephant")


@good("augment.flip")
def _():
    return flip, dict(pictures=the_pictures(), rng=rng(), allowed=torch.tensor([True, True, False, True]), chance=0.5)


@good("augment.shift")
def _():
    return shift, dict(pictures=the_pictures(), share=0.2, rng=rng(), fill=200)


@good("augment.crop")
def _():
    return crop, dict(pictures=the_pictures(), least=0.4, rng=rng())


@good("augment.colour")
def _():
    return colour, dict(pictures=the_pictures(), amount=0.4, rng=rng())


@good("augment.erase")
def _():
    return erase, dict(pictures=the_pictures(), share=0.4, rng=rng())


@good("augment.drop_words")
def _():
    return drop_words, dict(text="face with tears of joy", share=0.4, rng=rng())


@good("augment.delay")
def _():
    return delay, dict(sound=torch.randn(50), most=7, rng=rng())


@good("augment.gain")
def _():
    return gain, dict(sound=torch.randn(50), decibels=6.0, rng=rng())


@good("augment.speed")
def _():
    return speed, dict(sound=torch.randn(400), factor=0.8)


@good("augment.mask_stripes", swallows=("tables",))  # under a stripe or in a mean that no stripe shows
def _():
    return mask_stripes, dict(tables=torch.randn(3, 9, 6), rng=rng(), time=(2, 3), frequency=(1, 2),
                              mask=torch.arange(9) < torch.tensor([[9], [4], [0]]))
