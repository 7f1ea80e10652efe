"""Samples of a few values: hard and soft projections onto any alphabet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from labrecon import solve
from labrecon.operators import Matrix
from labrecon.prior import ImplicitPriorError, PriorError
from labrecon.priors.finite_set import FiniteSet
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solvers import ISTA

F64 = torch.float64
PSK = [1.0 + 0.0j, 1.0j, -1.0 + 0.0j, -1.0j]


def draw(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("values", [[-1.0, 1.0], [3.0, -1.0, 0.5], PSK])
def test_the_hard_rule_is_the_nearest_value_by_exhaustion(values: list[complex]) -> None:
    dtype = torch.complex128 if isinstance(values[0], complex) else F64
    x = 2 * draw(4, 25, dtype=dtype)
    prior = FiniteSet(values)
    found = prior.prox(x, 0.7)
    for sample, value in zip(x.flatten().tolist(), found.flatten().tolist(), strict=True):
        assert abs(sample - value) == pytest.approx(min(abs(sample - v) for v in values))
    assert torch.equal(prior.values[prior.index(x)].to(dtype), found)
    assert torch.equal(prior.penalty(found, 1), torch.zeros(4, dtype=F64))
    assert bool(torch.isinf(prior.penalty(x, 1)).all())


@pytest.mark.parametrize("values", [[-1.0, 1.0], PSK])
def test_the_soft_mean_is_that_of_bayes(values: list[complex]) -> None:
    """By simulation: the mean of the symbols that gave a sample near ``x`` with noise ``t``."""
    generator = torch.Generator().manual_seed(1)
    points, width = torch.tensor(values), 0.6
    sent = points[torch.randint(0, len(points), (2_000_000,), generator=generator)]
    scale = 2**0.5 if points.is_complex() else 1.0
    seen = sent + scale * width * torch.randn(sent.shape, dtype=sent.dtype, generator=generator)
    x = torch.tensor([0.5 + 0.0j]) if points.is_complex() else torch.tensor([0.5])
    near = (seen - x).abs() < 0.03
    expected = sent[near].mean()
    found = FiniteSet(values, rule="mean", width=width).prox(x, 1.0)[0]
    assert abs(complex(found - expected)) < 4 / int(near.sum()) ** 0.5 + 0.01


def test_the_staircase_of_two_values_is_the_published_soft_sign() -> None:
    x, t = torch.linspace(-3, 3, 101, dtype=F64), 0.4
    expected = -1 + (x + t).relu() / t - (x - t).relu() / t
    for width in (t, Schedule(-t, constraint=None).double()):
        found = FiniteSet([-1.0, 1.0], rule="linear", width=width).prox(x, 1.0)
        torch.testing.assert_close(found.detach(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", ["mean", "linear"])
def test_a_narrow_soft_rule_is_the_hard_one(rule: str) -> None:
    values, x = [-2.0, 0.0, 0.5, 4.0], 3 * draw(1000)
    # Away from the midpoints, where the hard rule jumps.
    middles = torch.tensor([-1.0, 0.25, 2.25], dtype=F64)
    x = x[(x[:, None] - middles).abs().amin(-1) > 0.01]
    soft = FiniteSet(values, rule=rule, width=1e-3).prox(x, 1.0)
    torch.testing.assert_close(soft, FiniteSet(values).prox(x, 1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rule", ["mean", "linear"])
def test_soft_rules_have_derivatives_in_sample_and_width(rule: str) -> None:
    x = draw(12).requires_grad_()
    width = Schedule([0.7, 0.9], constraint=None, learn=True).double()
    prior = FiniteSet([-1.0, 0.2, 1.0], rule=rule, width=width)
    assert gradcheck(lambda x: prior.prox(x, 1.0), x)
    for k in range(2):
        prior.layer(k).prox(x.detach(), 1.0).square().sum().backward()
    assert bool((width.raw.grad != 0).all())


def test_projected_gradient_finds_levels_that_least_squares_only_comes_near() -> None:
    """Three grey levels through a well-conditioned matrix with noise."""
    levels = [0.0, 1.0, 3.0]
    generator = torch.Generator().manual_seed(2)
    truth = torch.tensor(levels, dtype=F64)[torch.randint(0, 3, (20, 30), generator=generator)]
    operator = Matrix(draw(90, 30) / 90**0.5)
    data = operator(truth) + 0.15 * draw(20, 90, seed=3)
    problem = Problem(operator, data)
    least = solve(ISTA(), problem, iterations=300).x
    found = solve(ISTA(prior=FiniteSet(levels)), problem, x0=least, iterations=50).x
    assert float((found != truth).double().mean()) < 0.005
    assert float((least - truth).abs().mean()) > 0.1


def test_what_is_not_a_number_is_no_value() -> None:
    found = FiniteSet([0.0, 1.0]).prox(torch.tensor([float("nan"), 0.9]), 1.0)
    assert torch.equal(found.isnan(), torch.tensor([True, False]))
    assert bool(torch.isinf(FiniteSet([0.0, 1.0]).penalty(found)))


def test_soft_rules_have_no_penalty() -> None:
    with pytest.raises(ImplicitPriorError):
        FiniteSet([0.0, 1.0], rule="mean", width=0.1).penalty(torch.zeros(3))


@pytest.mark.parametrize(
    ("values", "options", "told"),
    [
        ([1.0], {}, "two or more different"),
        ([1.0, 1.0], {}, "two or more different"),
        ([0.0, float("nan")], {}, "finite numbers"),
        ([0.0, float("inf")], {}, "finite numbers"),
        ([[0.0, 1.0]], {}, "two or more different"),
        ([0.0, 1.0], {"rule": "soft"}, "nearest, mean, linear"),
        ([0.0, 1.0], {"rule": "mean"}, "needs a width"),
        ([0.0, 1.0], {"width": 1.0}, "has no width"),
        ([0.0, 1.0], {"rule": "mean", "width": 0.0}, "above 0"),
        (PSK, {"rule": "linear", "width": 1.0}, "real values"),
    ],
)
def test_what_makes_no_sense_is_refused(values: list[complex], options: dict, told: str) -> None:
    with pytest.raises(PriorError, match=told):
        FiniteSet(values, **options)


def test_objects_of_the_other_kind_are_refused() -> None:
    with pytest.raises(PriorError, match="complex values for a real object"):
        FiniteSet(PSK).prox(torch.zeros(3), 1.0)
    linear = FiniteSet([0.0, 1.0], rule="linear", width=0.1)
    with pytest.raises(PriorError, match="real objects"):
        linear.prox(torch.zeros(3, dtype=torch.complex64), 1.0)
