"""Constraints hold whatever an optimiser does, and start where they are told to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from labrecon.constraint import CONSTRAINTS
from labrecon.problem import SolverError
from labrecon.schedule import Schedule

GOOD = {
    "positive": [1e-6, 0.3, 1.0, 40.0, 2.0],
    "unit": [1e-4, 0.3, 0.5, 0.999, 0.2],
    "increasing": [1e-4, 0.3, 1.0, 40.0, 41.0],
    "decreasing": [41.0, 40.0, 1.0, 0.3, 1e-4],
}
BAD = {
    "positive": [[0.0], [-1.0], [float("nan")], [float("inf")]],
    "unit": [[0.0], [1.0], [1.5], [float("nan")]],
    "increasing": [[1.0, 1.0], [2.0, 1.0], [-1.0, 1.0], [float("nan"), 1.0]],
    "decreasing": [[1.0, 1.0], [1.0, 2.0], [1.0, -1.0]],
}
every = pytest.mark.parametrize("name", sorted(CONSTRAINTS))


def holds(name: str, values: Tensor) -> bool:
    checks = {
        "positive": lambda v: (v > 0).all(),
        "unit": lambda v: ((v > 0) & (v < 1)).all(),
        "increasing": lambda v: (v > 0).all() & (v.diff() >= 0).all(),
        "decreasing": lambda v: (v > 0).all() & (v.diff() <= 0).all(),
    }
    return bool(torch.isfinite(values).all() & checks[name](values))


@every
def test_round_trip(name: str) -> None:
    constraint = CONSTRAINTS[name]()
    values = torch.tensor(GOOD[name], dtype=torch.float64)
    torch.testing.assert_close(
        constraint(constraint.right_inverse(values)), values, rtol=1e-10, atol=1e-12
    )
    schedule = Schedule(GOOD[name], constraint=name)
    told = torch.stack([schedule(k) for k in range(5)]).double()
    torch.testing.assert_close(told, values, rtol=2e-5, atol=1e-6)


@every
def test_it_holds_after_wild_steps(name: str) -> None:
    """Adam with steps of 0.3 along gradients that change sign at random."""
    schedule = Schedule(GOOD[name], constraint=name, learn=True).double()
    optimiser = torch.optim.Adam(schedule.parameters(), 0.3)
    generator = torch.Generator().manual_seed(0)
    start = schedule.values().detach().clone()
    for _ in range(200):
        optimiser.zero_grad()
        signs = torch.randn(5, dtype=torch.float64, generator=generator)
        (signs * schedule.values()).sum().backward()
        optimiser.step()
        assert holds(name, schedule.values())
    assert bool((schedule.values() - start).abs().max() > 0.1)


@every
def test_it_is_a_parametrisation_of_torch(name: str) -> None:
    module = nn.Module()
    values = torch.tensor(GOOD[name], dtype=torch.float64)
    module.value = nn.Parameter(values.clone())
    parametrize.register_parametrization(module, "value", CONSTRAINTS[name]())
    torch.testing.assert_close(module.value, values, rtol=1e-10, atol=1e-12)


@every
def test_numbers_that_break_it_are_refused(name: str) -> None:
    for values in BAD[name]:
        with pytest.raises(ValueError, match="must be"):
            CONSTRAINTS[name]().right_inverse(torch.tensor(values))
        with pytest.raises(SolverError, match=name):
            Schedule(values, constraint=name)


def test_without_one_any_sign_is_allowed() -> None:
    assert [float(Schedule([-0.5, 0.0], constraint=None)(k)) for k in range(2)] == [-0.5, 0.0]


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(SolverError, match="'round'"):
        Schedule(1.0, constraint="round")
