"""Feasible sets: in the set, nearest (against a quadratic programme), idempotent, hardened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cvxpy
import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon.design import (
    Binary,
    Box,
    Budget,
    FeasibleSet,
    InfeasibleError,
    Intersection,
    MinimumSpacing,
    NonNegative,
    Quantised,
    Simplex,
    Subset,
    Violation,
)

N = 8
COST = torch.linspace(0.2, 2.0, N, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A set, and the same set as constraints of a quadratic programme.

    Attributes:
        make: the set.
        rules: from the variable and the value to project (which fixes the order of positions).
        hard: what else holds for a hardened value.
    """

    name: str
    make: Callable[[], FeasibleSet]
    rules: Callable[[Any, np.ndarray], list[Any]]
    hard: Callable[[Tensor], bool] = lambda value: True


def spaced(x: Any, value: np.ndarray, distance: float, period: float | None = None) -> list[Any]:
    keys = value if period is None else value % period
    laps = value - keys
    order = np.argsort(keys, kind="stable")
    wrapped = [x[int(i)] - laps[i] for i in order]
    rules = [b - a >= distance for a, b in pairwise(wrapped)]
    return rules if period is None else [*rules, wrapped[0] + period - wrapped[-1] >= distance]


def is_in(*levels: float) -> Callable[[Tensor], bool]:
    return lambda value: bool(torch.isin(value, torch.tensor(levels).to(value)).all())


def sums_to(k: int) -> Callable[[Tensor], bool]:
    return lambda value: is_in(0, 1)(value) and bool((value.sum(-1) == k).all())


CASES = [
    Case("box", lambda: Box(-0.5, COST), lambda x, v: [x >= -0.5, x <= COST.numpy()]),
    Case("low", lambda: Box(low=-0.5), lambda x, v: [x >= -0.5]),
    Case("high", lambda: Box(high=0.5), lambda x, v: [x <= 0.5]),
    Case("nonneg", NonNegative, lambda x, v: [x >= 0]),
    Case("binary", Binary, lambda x, v: [x >= 0, x <= 1], is_in(0, 1)),
    Case("quantised", lambda: Quantised(5, -1.0, 1.0), lambda x, v: [x >= -1, x <= 1],
         is_in(-1, -0.5, 0, 0.5, 1)),
    Case("levels", lambda: Quantised([2.0, -1.0, 0.25]), lambda x, v: [x >= -1, x <= 2],
         is_in(-1, 0.25, 2)),
    Case("simplex", lambda: Simplex(2.0), lambda x, v: [x >= 0, sum(x) == 2]),
    Case("budget", lambda: Budget(1.5, COST), lambda x, v: [x >= 0, COST.numpy() @ x <= 1.5]),
    Case("least-budget", lambda: Budget(2.0, COST, low=0.1),
         lambda x, v: [x >= 0.1, COST.numpy() @ x <= 2.0]),
    Case("no-budget", lambda: Budget(0.0), lambda x, v: [x == 0]),
    Case("subset", lambda: Subset(3), lambda x, v: [x >= 0, x <= 1, sum(x) == 3], sums_to(3)),
    Case("all", lambda: Subset(N), lambda x, v: [x == 1], sums_to(N)),
    Case("spacing", lambda: MinimumSpacing(0.4), lambda x, v: spaced(x, v, 0.4)),
    Case("spacing-low", lambda: MinimumSpacing(0.4, low=0.0),
         lambda x, v: [*spaced(x, v, 0.4), x >= 0]),
    Case("spacing-high", lambda: MinimumSpacing(0.4, high=0.0),
         lambda x, v: [*spaced(x, v, 0.4), x <= 0]),
    Case("spacing-box", lambda: MinimumSpacing(0.4, -2.0, 1.0),
         lambda x, v: [*spaced(x, v, 0.4), x >= -2, x <= 1]),
    Case("spacing-tight", lambda: MinimumSpacing(0.25, -1.0, 0.75),
         lambda x, v: [*spaced(x, v, 0.25), x >= -1, x <= 0.75]),
    Case("spacing-period", lambda: MinimumSpacing(0.4, period=3.5),
         lambda x, v: spaced(x, v, 0.4, 3.5)),
    Case("box-and-budget", lambda: Box(-0.2, 0.5) & Budget(1.0, COST),
         lambda x, v: [x >= 0, x <= 0.5, COST.numpy() @ x <= 1]),
    Case("simplex-and-box", lambda: Simplex(1.0) & Box(0.05, 0.3),
         lambda x, v: [x >= 0.05, x <= 0.3, sum(x) == 1]),
    Case("three", lambda: Budget(3.0) & Box(high=0.7) & Simplex(2.0),
         lambda x, v: [x >= 0, x <= 0.7, sum(x) == 2]),
]  # fmt: skip
all_sets = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def samples(*batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*batch, N, generator=generator, dtype=dtype)


@all_sets
def test_projection_is_the_nearest_value(case: Case) -> None:
    for value in samples(6):
        x = cvxpy.Variable(N)
        distance = cvxpy.Minimize(cvxpy.sum_squares(x - value.numpy()))
        cvxpy.Problem(distance, case.rules(x, value.numpy())).solve(
            cvxpy.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
        )
        np.testing.assert_allclose(case.make().project(value).numpy(), x.value, atol=2e-6)


@all_sets
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_projection_is_feasible_and_idempotent(case: Case, dtype: torch.dtype) -> None:
    feasible = case.make()
    value = samples(5, 3, dtype=torch.float64).to(dtype)
    projected = feasible.project(value)
    assert projected.dtype == dtype
    assert projected.shape == value.shape
    assert feasible.violations(projected) == {} or feasible.contains(projected, 1e-9)
    tolerance = 8 * torch.finfo(dtype).eps * float(projected.abs().max()) + 1e-11
    torch.testing.assert_close(feasible.project(projected), projected, rtol=0, atol=tolerance)


@all_sets
def test_a_feasible_value_stays(case: Case) -> None:
    feasible = case.make()
    value = feasible.project(samples(4)).float()
    again = feasible.project(value)
    torch.testing.assert_close(again, value, rtol=0, atol=2e-6)


@all_sets
def test_batch_is_a_loop(case: Case) -> None:
    feasible = case.make()
    value = samples(3, 2)
    rows = [torch.stack([feasible.project(row) for row in rows]) for rows in value]
    torch.testing.assert_close(feasible.project(value), torch.stack(rows), rtol=0, atol=1e-10)


@all_sets
def test_hardened_values_are_realisable(case: Case) -> None:
    feasible = case.make()
    hardened = feasible.harden(samples(6, dtype=torch.float32))
    assert hardened.dtype == torch.float32
    assert feasible.contains(hardened)
    assert case.hard(hardened)
    torch.testing.assert_close(feasible.harden(hardened), hardened)


@all_sets
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused_and_never_feasible(case: Case, bad: float) -> None:
    feasible = case.make()
    value = feasible.project(samples())
    value[2] = bad
    assert not feasible.contains(value)
    assert any(rule.endswith("not finite") for rule in feasible.violations(value))
    with pytest.raises(InfeasibleError, match="1 of 8 not finite"):
        feasible.project(value)


@all_sets
@pytest.mark.parametrize("value", [0.0, 1e12, -1e12])
def test_extreme_and_equal_values_project_without_nan(case: Case, value: float) -> None:
    feasible = case.make()
    # The rounds that an intersection takes grow with the distance.
    limit = 10.0 if isinstance(feasible, Intersection) else 1e12
    projected = feasible.project(torch.full((2, N), value).clamp(-limit, limit))
    assert torch.isfinite(projected).all()


def test_other_axes() -> None:
    value = samples(3).mT.contiguous()
    for along, across in [
        (Simplex(dim=0), Simplex()),
        (Budget(1.0, COST[:, None], dim=0), Budget(1.0, COST)),
        (Subset(3, dim=0), Subset(3)),
    ]:
        torch.testing.assert_close(along.project(value), across.project(value.mT).mT)
        torch.testing.assert_close(along.harden(value), across.harden(value.mT).mT)
        assert along.violations(value) == across.violations(value.mT)


def test_violations_say_what_is_broken_by_how_much_in_which_unit() -> None:
    assert Box(0, 1, unit="mm").violations(torch.tensor([-0.5, 0.5, 3.0, 2.0])) == {
        "below": Violation(0.5, "mm"),
        "above": Violation(2.0, "mm", 2),
    }
    assert str(Violation(2.0, "mm", 2)) == "2 mm at 2 places"
    assert Budget(1.0, unit="mGy").violations(torch.tensor([2.0, 1.0])) == {
        "over budget": Violation(2.0, "mGy")
    }
    assert Simplex().violations(torch.tensor([1.5, -0.5])) == {"negative": Violation(0.5)}
    assert Subset(2).violations(torch.tensor([1.0, 0.5, 0.0])) == {"count": Violation(0.5)}
    spacing = MinimumSpacing(1.0, low=0.0, unit="deg")
    assert spacing.violations(torch.tensor([3.0, 1.0, 3.25])) == {
        "too close": Violation(0.75, "deg")
    }
    assert (Box(high=1) & NonNegative()).violations(torch.tensor([2.0, -1.0])) == {
        "Box: above": Violation(1.0),
        "NonNegative: below": Violation(1.0),
    }
    assert MinimumSpacing(1.0).violations(torch.tensor([3.0])) == {}


def test_the_last_position_is_near_the_first_one_of_the_next_period() -> None:
    angles = MinimumSpacing(10.0, period=180.0, unit="deg")
    assert angles.violations(torch.tensor([1.0, 90.0, 178.0])) == {"too close": Violation(7, "deg")}
    projected = angles.project(torch.tensor([1.0, 90.0, 178.0, 361.0]))
    assert angles.contains(projected, 1e-4)
    # The three near 0° share the move: 178, 181 and 361 − 180 = 181 become 170, 180 and 190.
    torch.testing.assert_close(projected, torch.tensor([0.0, 90.0, 170.0, 370.0]))


def test_long_runs_of_float32_positions_are_not_moved() -> None:
    """Running sums of thousands of angles would lose the digits of each."""
    generator = torch.Generator().manual_seed(0)
    gaps = 0.3 + 0.1 * torch.rand(1000, dtype=torch.float64, generator=generator)
    angles = gaps.cumsum(0).float()
    torch.testing.assert_close(MinimumSpacing(0.2999).project(angles), angles, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(2, 1), "low 2 is above high 1"),
        (lambda: Simplex(0), "positive"),
        (lambda: Budget(-1), "total ≥ 0"),
        (lambda: Budget(1, torch.tensor([1.0, 0.0])), "positive costs"),
        (lambda: Budget(1, low=-0.1), "least value of a budget"),
        (lambda: Budget(1, low=0.2).project(torch.zeros(6)), "6 values of at least 0.2 cost more"),
        (lambda: Quantised(1), "at least 2 levels"),
        (lambda: Quantised(3, 1, 0), "from 1 to 0"),
        (lambda: Quantised([1.0, 1.0]), "2 different"),
        (lambda: Subset(0), "k=0"),
        (lambda: Subset(9).project(samples()), "9 can not be chosen from 8"),
        (lambda: Subset(9).harden(samples()), "9 can not be chosen from 8"),
        (lambda: MinimumSpacing(0), "must be positive"),
        (lambda: MinimumSpacing(1, 1, 0), "low 1 is above high 0"),
        (lambda: MinimumSpacing(1, 0, 6.5, unit="mm").project(samples()),
         "8 positions 1 mm apart need 7; the range has 6.5"),
        (lambda: MinimumSpacing(1, period=7).project(samples()), "need 8; the range has 7"),
        (lambda: MinimumSpacing(1, period=0.5), "longer than the period"),
        (lambda: MinimumSpacing(1, low=0, period=9), "not both"),
        (lambda: (Simplex(5.0) & Budget(1.0)).project(samples()), "no value meets all rules"),
        (lambda: (Box(1, 2) & Box(3, 4)).project(samples()), "no value meets all rules"),
        (lambda: Box(0, 1).project(torch.arange(3)), "floating-point"),
    ],
)  # fmt: skip
def test_impossible_sets_are_refused_with_the_numbers(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(InfeasibleError, match=message):
        make()


def test_an_intersection_is_flat_and_of_sets_only() -> None:
    nested = Box(0, 1) & (Budget(1) & Simplex())
    assert [type(part) for part in nested.parts] == [Box, Budget, Simplex]
    with pytest.raises(TypeError, match="feasible sets"):
        Box(0, 1) & 3  # type: ignore[operator]


def test_an_intersection_hardens_in_turn_and_says_what_that_breaks() -> None:
    both = Budget(1.0) & Binary()
    hardened = both.harden(torch.tensor([0.9, 0.6, 0.2]))
    assert both.contains(hardened)
    over = Budget(1.2) & Binary()
    hardened = over.harden(torch.tensor([0.6, 0.6]))
    assert over.violations(hardened)["Budget: over budget"].amount == pytest.approx(0.8)


def test_sets_are_modules_and_follow_the_value() -> None:
    feasible = Box(torch.zeros(N), torch.ones(N))
    assert set(feasible.state_dict()) == {"low", "high"}
    value = torch.nn.Parameter(samples(dtype=torch.float32))
    projected = feasible.project(value)
    projected.sum().backward()
    assert value.grad is not None
