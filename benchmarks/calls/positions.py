"""One good call of each public function of chapter 2."""
import torch
from fuzzed import good

from mmtutor.positions import LearnedPositions, RotaryPositions, SinusoidalPositions, grid_positions


def _waves(kind):
    def used(**given):
        axes = given["axes"]
        return kind(**given)(torch.randn(2, 3, given["dim"]), torch.rand(3, axes) if axes > 1 else torch.rand(3))
    return used, dict(dim=8, axes=2, base=100.0, layout="halves")


@good("positions.SinusoidalPositions")
def _():
    return _waves(SinusoidalPositions)


@good("positions.SinusoidalPositions forward")
def _():
    return SinusoidalPositions(8, axes=2), dict(x=torch.randn(2, 3, 8), positions=torch.rand(2, 3, 2))


@good("positions.SinusoidalPositions encode")
def _():
    return SinusoidalPositions(8).encode, dict(positions=torch.rand(2, 3), dtype=torch.float64)


@good("positions.RotaryPositions")
def _():
    return _waves(RotaryPositions)


@good("positions.RotaryPositions forward")
def _():
    return RotaryPositions(8), dict(x=torch.randn(2, 2, 3, 8), positions=torch.rand(2, 3))


@good("positions.LearnedPositions")
def _():
    def used(**given):
        places = LearnedPositions(**given)
        return places(torch.randn(2, len(places.table), given["dim"]))
    return used, dict(dim=4, size=(2, 3), std=0.1)


@good("positions.LearnedPositions of a line")
def _():
    return lambda **given: LearnedPositions(**given).table, dict(dim=4, size=3)


@good("positions.LearnedPositions forward")
def _():
    return LearnedPositions(4, 5), dict(x=torch.randn(2, 3, 4), positions=torch.tensor([[0, 4, 2], [1, 1, 3]]))


@good("positions.LearnedPositions encode")
def _():
    return LearnedPositions(4, (2, 3)).encode, dict(positions=torch.tensor([[0, 2], [1, 1]]))


@good("positions.LearnedPositions resized")
def _():
    return LearnedPositions(4, (2, 3)).resized, dict(size=(3, 4))


@good("positions.grid_positions")
def _():
    return grid_positions, dict(height=2, width=3)
