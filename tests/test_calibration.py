"""Calibration: the error against torchmetrics and by hand, its floor by simulation, the temperature as defined."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from mmtutor.calibration import binned, calibration, fit_temperature, reliability

quick = settings(deadline=None, max_examples=40)
NAN = math.nan


def answers(items: int, classes: int, seed: int = 0, scale: float = 2.0, too_large: float = 1.0):
    "Logits whose softmax the labels are drawn from, and then multiplied: `too_large` is the right temperature."
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(items, classes, generator=generator, dtype=torch.float64)
    labels = logits.softmax(1).multinomial(1, generator=generator)[:, 0]
    return too_large * logits, labels


class TestReliability:
    @quick
    @given(st.integers(1, 80), st.integers(2, 6), st.integers(1, 20), st.integers(0, 99))
    def test_torchmetrics_finds_the_same_error(self, items, classes, bins, seed):
        logits, labels = answers(items, classes, seed)
        p = logits.softmax(1)
        theirs = multiclass_calibration_error(p, labels, classes, n_bins=bins).item()
        assert reliability(p, labels, bins).error == pytest.approx(theirs, abs=1e-6)

    def test_ten_forecasts_by_hand(self):
        confidence = torch.tensor([0.9] * 5 + [0.6] * 5)
        found = binned(confidence, torch.tensor([1.0, 1, 1, 1, 0, 1, 1, 0, 0, 0]), 4)
        assert found.count.tolist() == [0, 0, 5, 5] and found.error == pytest.approx(0.15)
        assert found.accuracy[2:].tolist() == pytest.approx([0.4, 0.8]) and found.accuracy[:2].isnan().all()

    def test_an_edge_belongs_to_the_left(self):
        found = binned(torch.tensor([0.0, 0.5, 0.5000001, 1.0]), torch.ones(4), 2)
        assert found.count.tolist() == [2, 2]

    def test_bins_of_equal_count(self):
        logits, labels = answers(200, 5)
        found = reliability(logits.softmax(1), labels, 10, equal="count")
        assert found.count.tolist() == [20] * 10 and (found.edges.diff() > 0).all()

    def test_one_bin_compares_the_means(self):
        logits, labels = answers(100, 4, too_large=3.0)
        p = logits.softmax(1)
        right = (p.argmax(1) == labels).double().mean()
        assert reliability(p, labels, 1).error == pytest.approx((right - p.amax(1).mean()).abs().item())


class TestCalibration:
    def test_a_calibrated_model_lies_at_its_floor(self):
        logits, labels = answers(300, 5, seed=1)
        found = calibration(logits.softmax(1), labels, resamples=300)
        assert found.error.value < found.limit and found.p > 0.05 and 0.02 < found.floor < found.limit
        assert f"ECE {found.error}" in str(found)

    def test_an_overconfident_one_does_not(self):
        logits, labels = answers(300, 5, seed=1, too_large=3.0)
        found = calibration(logits.softmax(1), labels, resamples=300)
        assert found.error.value > found.limit and found.p == pytest.approx(1 / 301)
        assert found.error.low <= found.error.value <= found.error.high

    def test_p_is_uniform_if_calibrated(self):
        low = sum(calibration(*(lambda x: (x[0].softmax(1), x[1]))(answers(80, 3, seed)), resamples=100).p <= 0.1
                  for seed in range(150))
        assert 0.03 <= low / 150 <= 0.18

    def test_the_floor_grows_with_bins_and_shrinks_with_items(self):
        logits, labels = answers(400, 4)
        p = logits.softmax(1)
        few, many = (calibration(p, labels, bins, resamples=200).floor for bins in (5, 30))
        assert few < many < calibration(p[:60], labels[:60], 30, resamples=200).floor


class TestTemperature:
    @pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
    def test_it_finds_the_one_that_was_hidden(self, true):
        logits, labels = answers(4000, 5, too_large=true)
        assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.06)

    def test_it_is_the_smallest_cross_entropy(self):
        logits, labels = answers(150, 4, seed=3, too_large=2.0)
        found = fit_temperature(logits.float(), labels)
        loss = lambda t: F.cross_entropy(logits / t, labels).item()
        assert all(loss(found) <= loss(found * f) for f in (0.5, 0.97, 1.03, 2.0))
        slope = torch.tensor(found, dtype=torch.float64, requires_grad=True)
        F.cross_entropy(logits / slope, labels).backward()
        assert abs(slope.grad.item()) < 1e-4

    def test_no_answer_changes_and_scaled_logits_scale_it(self):
        logits, labels = answers(150, 4, seed=3)
        found = fit_temperature(logits, labels)
        assert torch.equal((logits / found).argmax(1), logits.argmax(1))
        assert fit_temperature(5 * logits, labels) == pytest.approx(5 * found, rel=1e-3)


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: reliability(torch.randn(4, 3), torch.zeros(4).long()), "expected probabilities: take the softmax"),
    (lambda: reliability(torch.full((4, 3), 0.5), torch.zeros(4).long()), "with sums from 1.5 to 1.5"),
    (lambda: reliability(torch.full((4, 3), NAN), torch.zeros(4).long()), "NaN among the scores of 4 of 4"),
    (lambda: reliability(torch.full((2, 2), 0.5), torch.tensor([0, 2])), "labels are torch.int64 from 0 to 2"),
    (lambda: reliability(torch.zeros(0, 3), torch.zeros(0).long()), r"reliability: answers \(0, 3\)"),
    (lambda: reliability(torch.zeros(3), torch.zeros(3).long()), r"probabilities \(3,\) torch.float32"),
    (lambda: reliability(torch.ones(3, 3).long(), torch.zeros(3).long()), r"\(3, 3\) torch.int64"),
    (lambda: reliability(torch.full((2, 2), 0.5), torch.zeros(2).long(), 0), "0 bins of equal 'width'"),
    (lambda: reliability(torch.full((2, 2), 0.5), torch.zeros(2).long(), 5, "size"), "5 bins of equal 'size'"),
    (lambda: binned(torch.tensor([-0.5, 0.5]), torch.ones(2), 2), r"\(2,\) confidences of .* from 0 to 1"),
    (lambda: binned(torch.rand(3), torch.ones(1), 2), r"\(3,\) confidences of \(1,\) answers"),
    (lambda: calibration(torch.full((2, 2), 0.5), torch.zeros(3).long()), r"answers \(2, 2\) and labels \(3,\)"),
    (lambda: fit_temperature(torch.eye(3), torch.arange(3)), "all 3 answers are right"),
    (lambda: fit_temperature(torch.tensor([[0.0, -math.inf]]), torch.tensor([1])), "expected finite floats"),
    (lambda: fit_temperature(torch.zeros(4), torch.zeros(4).long()), "fit_temperature"),
    (lambda: fit_temperature(torch.zeros(4, 2).long(), torch.ones(4).long()), "torch.int64; expected finite floats"),
])
def test_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
