"""The coverage theorem, on data whose coverage is known."""

from __future__ import annotations

import math

import pytest
import torch

from labrecon.uncertainty.conformal import (
    CalibrationError,
    conformal_factor,
    fewest_objects,
    scores,
    stated_deviation,
)
from labrecon.uncertainty.coverage import coverage, gradient_size, strata

REPEATS = 4000


def assert_between(shares: torch.Tensor, low: float, high: float) -> None:
    """The mean of independent repetitions, within 4.5 of its standard errors."""
    error = 4.5 * float(shares.std()) / math.sqrt(len(shares))
    assert low - error <= float(shares.mean()) <= high + error, (float(shares.mean()), error)


@pytest.mark.parametrize(("level", "objects"), [(0.9, 9), (0.9, 24), (0.8, 30), (0.5, 5)])
def test_one_sample_per_object_is_split_conformal(level, objects):
    """Coverage of the next object is between ``1 − α`` and ``1 − α + 1/(n+1)`` (Vovk; Lei)."""
    generator = torch.Generator().manual_seed(objects)
    drawn = torch.rand(REPEATS, objects + 1, dtype=torch.float64, generator=generator)
    factors = torch.tensor([conformal_factor(each[:-1, None], level) for each in drawn])
    covered = (drawn[:, -1] <= factors).double()
    assert_between(covered, level, level + 1 / (objects + 1))
    # The scores are uniform: the coverage of a factor is the factor, and its law that of a rank.
    rank = math.ceil((objects + 1) * level - 1e-9)
    assert float(factors.mean()) == pytest.approx(rank / (objects + 1), abs=0.01)


@pytest.mark.parametrize("level", [0.7, 0.9])
def test_images_with_dependent_samples(level):
    """Each object has its own difficulty, shared by all of its samples."""
    objects, size = 20, 50
    generator = torch.Generator().manual_seed(3)
    shares = []
    for _ in range(1500):
        hard = torch.rand(objects + 1, 1, generator=generator).exp() ** 2
        errors = hard * torch.randn(objects + 1, size, generator=generator)
        values = scores(errors, torch.zeros_like(errors), torch.ones_like(errors))
        factor = conformal_factor(values[:-1], level)
        shares.append(coverage(values[-1:], factor).share)
    assert_between(torch.tensor(shares), level, level + 2 / (objects + 1))


def test_a_heuristic_that_is_wrong_still_covers():
    """Deviations that have nothing to do with the error; only the width is worse."""
    generator = torch.Generator().manual_seed(4)
    shares, widths = {"right": [], "wrong": []}, {"right": [], "wrong": []}
    for _ in range(1200):
        sigma = torch.rand(21, 60, generator=generator) * 3 + 0.05
        errors = sigma * torch.randn(21, 60, generator=generator)
        shuffled = sigma.flatten()[torch.randperm(sigma.numel(), generator=generator)]
        for name, used in (("right", sigma), ("wrong", shuffled.reshape(sigma.shape))):
            stated = stated_deviation(used, 1)
            values = scores(errors, torch.zeros_like(errors), stated)
            factor = conformal_factor(values[:-1], 0.9)
            shares[name].append(coverage(values[-1:], factor).share)
            widths[name].append(factor * float(stated.mean()))
    for found in shares.values():
        assert_between(torch.tensor(found), 0.9, 0.9 + 2 / 21)
    assert sum(widths["wrong"]) > 1.2 * sum(widths["right"])


def test_it_breaks_where_objects_are_not_exchangeable():
    """What no calibration helps against: the next object is harder than those before."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(500, 31, 40, generator=generator).abs()
    drawn[:, -1] *= 2
    shares = [coverage(d[-1:], conformal_factor(d[:-1], 0.9)).share for d in drawn]
    assert sum(shares) / len(shares) < 0.75


def test_the_factor_is_the_smallest_that_the_definition_allows():
    generator = torch.Generator().manual_seed(6)
    values = torch.rand(12, 7, dtype=torch.float64, generator=generator)
    n = len(values)

    def risk(bound: float) -> float:
        return n / (n + 1) * float((values > bound).double().mean()) + 1 / (n + 1)

    for level in (0.5, 0.75, 0.9):
        factor = conformal_factor(values, level)
        below = float(values[values < factor].max())
        assert risk(factor) <= 1 - level + 1e-12
        assert risk(below) > 1 - level


def test_fewest_objects():
    assert [fewest_objects(level) for level in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)] == [
        1,
        4,
        9,
        19,
        49,
        99,
    ]
    conformal_factor(torch.rand(19, 3), 0.95)
    with pytest.raises(CalibrationError, match=r"18 objects are too few .* 0\.95: they need 19"):
        conformal_factor(torch.rand(18, 3), 0.95)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5])
def test_a_level_out_of_range_is_refused(level):
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        conformal_factor(torch.rand(50, 3), level)


def test_deviations_that_say_nothing_are_refused():
    with pytest.raises(CalibrationError, match="0 everywhere"):
        stated_deviation(torch.zeros(2, 3), 1)
    for bad in (math.nan, math.inf, -1.0):
        with pytest.raises(CalibrationError, match="finite and not negative"):
            stated_deviation(torch.tensor([1.0, bad]), 1)
    with pytest.raises(CalibrationError, match="NaN"):
        conformal_factor(torch.full((20, 2), math.nan), 0.9)
    # Zero somewhere is raised to a tenth of the root mean square of its own object.
    stated = stated_deviation(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), 1)
    torch.testing.assert_close(stated[:, 0], torch.tensor([0.1, 0.2]) / 2**0.5)


def test_coverage_counts_objects():
    values = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 2.0]])
    found = coverage(values, 1.0)
    assert (found.share, found.lowest, found.objects) == (0.625, 0.5, 2)
    assert found.error == pytest.approx(0.125)
    assert coverage(values[:1], 1.0).error == math.inf


def test_strata_are_the_lowest_and_highest_quarter():
    order = torch.arange(8.0)[None]
    values = torch.tensor([[9.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0]])
    low, high = strata(values, 1.0, torch.full((1, 8), 0.5), value=order)
    assert (low.name, low.share, low.half_width) == ("value, lowest quarter", 0.0, 0.5)
    assert (high.name, high.share) == ("value, highest quarter", 0.5)
    # Nothing lies above the quarter where all values are the same.
    assert len(strata(values, 1.0, values, value=torch.zeros(1, 8))) == 1


def test_gradient_size_is_large_at_edges():
    x = torch.zeros(4, 5)
    x[:, 2:] = 3.0
    expected = torch.zeros(4, 5)
    expected[:, 1] = 3.0
    assert torch.equal(gradient_size(x, 2), expected)
    assert torch.equal(gradient_size(x * 1j, 2), expected)
    assert torch.equal(gradient_size(x[0], 1), expected[0])
