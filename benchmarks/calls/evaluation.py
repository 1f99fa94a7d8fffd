"""One good call of each public function of chapters 16 (but its conditions) and of the table of verdicts."""

import numpy as np
import torch
from fuzzed import good

from mmtutor import agreement, calibration, evaluation, verdicts

FEW = dict(resamples=100, level=0.9, seed=3)


# --- agreement ---

def _ratings():
    return np.array([[0.0, 1, 2, 1, 0, 2], [0, 1, 1, 1, 0, 2], [0, 2, 2, 1, 1, 2]])


@good("agreement.cohen_kappa", swallows=("a", "b"))  # NaN: the rater left it out
def _():
    return agreement.cohen_kappa, dict(a=_ratings()[0], b=_ratings()[1], weights="linear")


@good("agreement.cohen_kappa of lists", swallows=("a", "b"))
def _():
    return agreement.cohen_kappa, dict(a=[0.0, 1.0, 1.0, 0.0], b=[0.0, 1.0, 0.0, 0.0])


@good("agreement.distances")
def _():
    return agreement.distances, dict(counts=np.array([3.0, 2, 4]), values=np.array([0.0, 1, 5]), level="ordinal")


@good("agreement.distances by interval")
def _():
    return agreement.distances, dict(counts=np.array([3.0, 2, 4]), values=np.array([0.0, 1, 5]), level="interval")


@good("agreement.krippendorff_alpha", swallows=("ratings",))  # NaN: the rater left it out
def _():
    return agreement.krippendorff_alpha, dict(ratings=_ratings(), level="ordinal")


@good("agreement.simulated_raters", infinite=True)  # NaN: an item that was not shown
def _():
    return agreement.simulated_raters, dict(truth=torch.tensor([0, 1, 2, 2, 1, 0]), skills=(0.9, 0.5), categories=3,
                                            seen=0.8, seed=3)


# --- calibration ---

def _answers(items: int = 12, classes: int = 3):
    return torch.randn(items, classes), torch.arange(items) % classes


@good("calibration.Bins", swallows=("edges", "confidence", "accuracy"))  # NaN: an empty bin
def _():
    def error(**given):
        return calibration.Bins(**given).error
    return error, dict(edges=torch.tensor([0.0, 0.5, 1.0]), count=torch.tensor([2, 3]),
                       confidence=torch.tensor([0.4, 0.8]), accuracy=torch.tensor([0.5, 0.7]))


@good("calibration.binned", infinite=True)  # NaN: an empty bin
def _():
    return calibration.binned, dict(confidence=torch.rand(8), right=torch.rand(8) > 0.5, bins=3, equal="count")


@good("calibration.probabilities_of")
def _():
    scores, labels = _answers()
    return calibration.probabilities_of, dict(probabilities=scores.softmax(1), labels=labels, name="reliability")


@good("calibration.reliability", infinite=True)  # NaN: an empty bin
def _():
    scores, labels = _answers()
    return calibration.reliability, dict(probabilities=scores.softmax(1), labels=labels, bins=3, equal="width")


@good("calibration.Calibration")
def _():
    def said(**given):
        return str(calibration.Calibration(**given))
    return said, dict(error=evaluation.Estimate(0.1, 0.05, 0.2), floor=0.04, limit=0.08, p=0.01)


@good("calibration.calibration")
def _():
    scores, labels = _answers()
    return calibration.calibration, dict(probabilities=scores.softmax(1), labels=labels, bins=3, resamples=100, seed=3)


@good("calibration.fit_temperature")
def _():
    scores, labels = _answers()
    return calibration.fit_temperature, dict(logits=scores, labels=labels)


# --- evaluation ---

def _guesses(items: int = 9):
    return dict(guess=torch.arange(items) % 3, labels=torch.arange(items) % 2)


@good("evaluation.by_class", infinite=True)  # NaN: a class that is nowhere
def _():
    return evaluation.by_class, _guesses() | dict(classes=3)


@good("evaluation.summary")
def _():
    return evaluation.summary, _guesses() | dict(classes=3)


@good("evaluation.Estimate")
def _():
    def said(**given):
        return str(evaluation.Estimate(**given))
    return said, dict(value=0.5, low=0.4, high=0.7)


@good("evaluation.in_units")
def _():
    return evaluation.in_units, dict(n=4, units=["a", "b", "a", "c"], name="evaluate")


@good("evaluation.in_units of numbers")
def _():
    return evaluation.in_units, dict(n=4, units=torch.tensor([0, 1, 0, 2]), name="evaluate")


@good("evaluation.in_units of single items")
def _():
    return evaluation.in_units, dict(n=4, units=None, name="evaluate")


def _units():
    return [torch.tensor([0, 2]), torch.tensor([1]), torch.tensor([3, 4])]


@good("evaluation.resampled")
def _():
    return evaluation.resampled, dict(units=_units(), count=3, seed=3)


def _mean(rows):
    return rows.double().mean()


@good("evaluation.intervals")
def _():
    return evaluation.intervals, dict(statistic=_mean, units=_units()) | FEW


@good("evaluation.bootstrap")
def _():
    return evaluation.bootstrap, dict(statistic=_mean, n=5, units=[0, 0, 1, 2, 2]) | FEW


@good("evaluation.bootstrap of single items")
def _():
    return evaluation.bootstrap, dict(statistic=_mean, n=5) | FEW


@good("evaluation.share")
def _():
    return evaluation.share, dict(right=torch.tensor([1.0, 0, 1, 1]), level=0.9)


@good("evaluation.share of booleans")
def _():
    return evaluation.share, dict(right=torch.tensor([True, False, True]))


@good("evaluation.checked")
def _():
    scores, labels = _answers()
    return evaluation.checked, dict(answers=scores, labels=labels, classes=["a", "b", "c"], name="evaluate")


@good("evaluation.checked for classes")
def _():
    return evaluation.checked, dict(answers=torch.tensor([0, 1, 1]), labels=torch.tensor([0, 0, 1]), classes=3,
                                    name="evaluate")


@good("evaluation.Report")
def _():
    def worst(measure, **given):
        report = evaluation.Report(**given)
        return report.worst(measure), str(report)
    estimate = evaluation.Estimate(0.5, 0.4, 0.7)
    return worst, dict(measure="accuracy", n=4, overall={"accuracy": estimate}, by_class={"a": {"F1": estimate}},
                       by_group={"x": {"accuracy": estimate}, "y": {"accuracy": estimate}},
                       confusion=torch.tensor([[2, 1], [0, 1]]))


@good("evaluation.evaluate", infinite=True)  # NaN: a group with too little to resample, a class that is nowhere
def _():
    scores, labels = _answers()
    return evaluation.evaluate, dict(answers=scores, labels=labels, classes=["a", "b", "c"], groups=list("ab" * 6),
                                     units=torch.arange(12) // 2) | FEW


@good("evaluation.evaluate of answers", infinite=True)
def _():
    return evaluation.evaluate, dict(answers=torch.tensor([0, 1, 1, 2]), labels=torch.tensor([0, 1, 0, 2]), classes=3,
                                     groups=np.array([0, 0, 1, 1])) | FEW


@good("evaluation.Comparison")
def _():
    def said(**given):
        return str(evaluation.Comparison(**given))
    return said, dict(a=0.6, b=0.5, difference=evaluation.Estimate(0.1, 0.0, 0.2), permutation=0.04, mcnemar=0.03,
                      only_a=5, only_b=2)


@good("evaluation.compare")
def _():
    (a, labels), (b, _) = _answers(), _answers()
    return evaluation.compare, dict(a=a, b=b, labels=labels, measure="macro F1", classes=3,
                                    units=torch.arange(12) // 2) | FEW


@good("evaluation.compare of answers")
def _():
    return evaluation.compare, dict(a=torch.tensor([0, 1, 1, 2]), b=torch.tensor([0, 0, 1, 2]),
                                    labels=torch.tensor([0, 1, 0, 2]), measure="accuracy", classes=3) | FEW


@good("evaluation.retrieval")
def _():
    return evaluation.retrieval, dict(scores=torch.randn(6, 4), target=torch.arange(6) % 4, ks=(1, 3)) | FEW


# --- verdicts ---

def _row():
    return dict(id="A1", claim="It helps.", word="holds", verdict="holds here", summary="0.5 | 0.4", chapter="01_x",
                command="python x.py", seeds=3)


@good("verdicts.Row")
def _():
    def written(**given):
        return verdicts.as_markdown([verdicts.Row(**given)])
    return written, _row()


@good("verdicts.judged")
def _():
    record = dict(verdict="holds when it rains", summary="so much", chapter="01_x", command="c", seeds=[0, 1, 2])
    return verdicts.judged, dict(claims={"A1": record, "B1": dict(reversed(record.items()))})


@good("verdicts.as_markdown")
def _():
    return verdicts.as_markdown, dict(rows=[verdicts.Row(**_row()), verdicts.Row(**_row())])


@good("verdicts.tally")
def _():
    return verdicts.tally, dict(rows=[verdicts.Row(**_row()), verdicts.Row(**_row())])
