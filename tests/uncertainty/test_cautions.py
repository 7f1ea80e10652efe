"""What is said where a calibration has few objects, and whether it is so."""

from __future__ import annotations

import math

import pytest
import torch

from labrecon.uncertainty.card import LevelRow
from labrecon.uncertainty.cautions import cautions, covered_of_calibration, enough_objects
from labrecon.uncertainty.conformal import conformal_factor


@pytest.mark.parametrize(("count", "level"), [(9, 0.9), (10, 0.9), (40, 0.9), (19, 0.95), (4, 0.5)])
def test_the_factor_covers_so_much_of_its_own_objects(count, level):
    """``level (1 + 1/n)``, the share that `conformal_factor` really covers."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(count, 5000, generator=generator, dtype=torch.float64)
    factor = conformal_factor(scores, level)
    covered = float((scores <= factor).double().mean())
    assert covered == pytest.approx(covered_of_calibration(count, level), abs=2 / scores.numel())


def test_few_objects_to_calibrate_on_are_told():
    (told,) = cautions(0.9, calibrated_on=10, measured_on=20)
    assert "10 objects to calibrate on are few" in told
    assert "99 % of theirs" in told
    assert "with 36 (of 53 in all)" in told
    assert "92.5 %" in told
    assert cautions(0.9, calibrated_on=36, measured_on=20) == []
    assert len(cautions(0.95, calibrated_on=36, measured_on=20)) == 1


def test_enough_objects_leave_three_quarters_of_what_may_be_outside():
    for level in (0.5, 0.8, 0.9, 0.95, 0.98):
        n = enough_objects(level)
        outside = [1 - covered_of_calibration(k, level) for k in (n, n - 1)]
        assert outside[0] >= 0.75 * (1 - level) - 1e-12 > outside[1] - 1e-9


def test_an_error_of_few_objects_is_told():
    (told,) = cautions(0.9, calibrated_on=40, measured_on=4)
    assert told.startswith("the ± is from 4 objects, and itself known to 41 %")
    (told,) = cautions(0.9, calibrated_on=40, measured_on=1)
    assert "a single object" in told
    assert cautions(0.9, calibrated_on=40, measured_on=10) == []


def test_how_well_the_error_of_few_objects_is_known():
    """``1/√(2 (n − 1))``: the scatter of a standard deviation over draws of normal shares."""
    shares = torch.randn(40000, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scatter = float(shares.std(1).std() / shares.std(1).mean())
    (told,) = cautions(0.9, calibrated_on=40, measured_on=8)
    assert told.split("known to ")[1].startswith(f"{100 / math.sqrt(14):.0f} %")
    assert scatter == pytest.approx(1 / math.sqrt(14), rel=0.05)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (0.0225, "99.0 ± 2.2 %"),
        (0.00038, "99.0 ± 0.04 %"),
        (0.0005, "99.0 ± 0.1 %"),
        (0.0, "99.0 %"),
        (None, "99.0 %"),
    ],
)
def test_a_small_error_does_not_read_as_none(error, told):
    row = LevelRow(level=0.9, factor=1, coverage=0.99, error=error, lowest=0.99, half_width=1)
    assert row.covered == told
