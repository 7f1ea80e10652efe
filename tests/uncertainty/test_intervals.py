"""From a deviation to an interval."""

from __future__ import annotations

import math

import pytest
import torch

from labrecon.uncertainty.card import LevelRow
from labrecon.uncertainty.conformal import CalibrationError
from labrecon.uncertainty.intervals import make_intervals, normal_factor

ROW = LevelRow(level=0.9, factor=3.0, coverage=0.91, error=0.01, lowest=0.8, half_width=1.0)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_normal_errors_are_within_their_factor(level):
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float64, torch.complex128):
        # torch's complex normal has E|n|² = 1, that of both parts together.
        n = torch.randn(100_000, dtype=dtype, generator=generator)
        inside = n.abs() <= normal_factor(level, is_complex=dtype.is_complex)
        assert float(inside.double().mean()) == pytest.approx(level, abs=0.006)


def test_a_calibrated_width_is_in_units_of_the_stated_deviation():
    """What scores were measured in: with a tenth of each object's root mean square on top."""
    deviation = torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    made = make_intervals(deviation, torch.zeros(2, 2), 1, method="bootstrap", level=0.9, row=ROW)
    stated = deviation + 0.1 * torch.tensor([[2**0.5], [3.0]])
    torch.testing.assert_close(made.half_width, 3.0 * stated)


def test_an_uncalibrated_width_is_that_of_a_normal_distribution():
    deviation = torch.tensor([1.0, 2.0])
    made = make_intervals(
        deviation, torch.zeros(2), 1, method="bootstrap", level=0.9, why="nobody asked"
    )
    torch.testing.assert_close(made.half_width, 1.644854 * deviation)
    assert "not calibrated" in made.statement
    assert made.numbers()["not_calibrated"] == "nobody asked"


def test_the_known_truth_is_held_against_it():
    deviation, truth = torch.ones(4), torch.tensor([0.0, 1.0, 2.0, -3.0])
    made = make_intervals(deviation, torch.zeros(4), 1, method="bootstrap", level=0.9, truth=truth)
    assert made.covered == 0.5
    other = make_intervals(
        deviation, torch.zeros(4), 1, method="bootstrap", level=0.9, truth=truth[:2]
    )
    assert other.covered is None


def test_no_deviation_is_no_interval():
    with pytest.raises(CalibrationError, match="same result for all data"):
        make_intervals(torch.zeros(3), torch.zeros(3), 1, method="ensemble", level=0.9)
    with pytest.raises(CalibrationError, match="finite"):
        make_intervals(
            torch.tensor([1.0, math.nan]), torch.zeros(2), 1, method="ensemble", level=0.9
        )
