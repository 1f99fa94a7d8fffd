"""Operations of a step, counted, and their share of what a device can do."""
import pytest
import torch
from torch import nn

from mmtutor.course.parts import PEAK, as_lines, step_flops, utilisation


def test_a_product_of_matrices_is_counted_as_by_hand():
    left, right = torch.randn(8, 5, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    assert step_flops(lambda: left @ right) == 2 * 8 * 5 * 3
    assert step_flops(lambda: (left @ right).sum().backward()) == 3 * 2 * 8 * 5 * 3


def test_a_frozen_layer_in_front_is_not_gone_back_through():
    "Forward both; backward the learning layer alone, and of it not the gradient of its input."
    front, back, x = nn.Linear(6, 4, bias=False), nn.Linear(4, 2, bias=False), torch.randn(7, 6)
    front.requires_grad_(False)
    assert step_flops(lambda: back(front(x)).sum().backward()) == 2 * 7 * (6 * 4 + 4 * 2) + 2 * 7 * 4 * 2


def test_fused_attention_and_lstm_are_seen():
    q = torch.randn(1, 2, 10, 8)
    attention = step_flops(lambda: nn.functional.scaled_dot_product_attention(q, q, q))
    assert attention == 2 * (2 * 2 * 10 * 10 * 8)
    rnn, sound = nn.LSTM(4, 6), torch.randn(10, 1, 4)
    assert step_flops(lambda: rnn(sound)) == 2 * 10 * 4 * 6 * (4 + 6)


def test_utilisation_is_operations_a_second_over_the_peak():
    for name, peak in PEAK.items():
        assert utilisation(peak, 2.0, device_name=name) == pytest.approx(0.5)
    assert utilisation(1e12, 1.0, device_name="NVIDIA H200") == pytest.approx(1e12 / 989.4e12)
    assert utilisation(1e12, 1.0, "float32", "NVIDIA H200") is None, "the list is of bfloat16"
    assert utilisation(1e12, 1.0, device_name="abacus") is None
    if not torch.cuda.is_available():
        assert utilisation(1e12, 1.0) is None


@pytest.mark.bad_input
@pytest.mark.parametrize("flops, seconds", [(1.0, 0.0), (1.0, -1.0), (-1.0, 1.0), (1.0, float("nan"))])
def test_impossible_measurements_are_refused(flops, seconds):
    with pytest.raises(ValueError, match="utilisation: .* operations in .* s, expected at least 0"):
        utilisation(flops, seconds)


@pytest.mark.bad_input
def test_no_part_makes_no_table():
    with pytest.raises(ValueError, match="as_lines: no part"):
        as_lines([])
