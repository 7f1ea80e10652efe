"""What operators remember, and what replaces their values."""

from __future__ import annotations

import pytest
import torch
from scipy.sparse.linalg import svds

from labrecon.bridge import as_scipy
from labrecon.operator import Operator, call_with
from labrecon.operators import Convolution, Diagonal
from labrecon.solver import Problem, solve
from labrecon.solvers import FISTA
from labrecon.space import Space

SPACE = Space((4,), torch.float64)


def gain(value: float = 1.0) -> Diagonal:
    return Diagonal(SPACE, torch.full((4,), value, dtype=torch.float64))


def test_the_norm_follows_its_parameters_however_they_change() -> None:
    class Sum(Operator):
        def __init__(self) -> None:
            super().__init__(SPACE, SPACE)
            self.part = gain()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.part(x)

    operator = Sum()
    assert operator.norm() == pytest.approx(1)
    with torch.no_grad():
        operator.part.values *= 2
    assert operator.norm() == pytest.approx(2)
    operator.part.values.data.mul_(3)
    assert operator.norm() == pytest.approx(6)
    problem = Problem(operator, torch.ones(4, dtype=torch.float64))
    x = solve(FISTA(), problem, iterations=200).x
    torch.testing.assert_close(x, torch.full_like(x, 1 / 6))


def test_the_norm_of_an_operator_at_other_values() -> None:
    values = torch.ones(4, dtype=torch.float64)
    factor = torch.tensor(1.0, dtype=torch.float64)
    there, scaled = 1 * gain().at(values=values), factor * gain()
    assert there.norm() == scaled.norm() == pytest.approx(1)
    values *= 5
    factor *= 7
    assert there.norm() == pytest.approx(5)
    assert scaled.norm() == pytest.approx(7)


def test_values_can_be_replaced_again() -> None:
    one, two = (torch.full((4,), v, dtype=torch.float64) for v in (1.0, 2.0))
    x = SPACE.random()
    once = gain(3.0).at(values=one)
    (name,) = once.nuisances
    torch.testing.assert_close(once(x), x)
    torch.testing.assert_close(once.at(**{name: two})(x), 2 * x)
    with pytest.raises(KeyError, match="no design or nuisance 'gain'"):
        once.at(gain=two)


def test_other_values_of_a_part_used_twice_are_not_kept() -> None:
    part = gain(2.0)
    twice = part @ part
    x = torch.ones(4, dtype=torch.float64)
    [name] = {n: p for n, p in twice.named_parameters() if p is part.values}
    other = call_with(twice, "__call__", {name: torch.full_like(part.values, 3.0)}, x)
    torch.testing.assert_close(other, 9 * x)
    assert isinstance(part.values, torch.nn.Parameter)
    torch.testing.assert_close(twice(x), 4 * x)


def test_the_norm_of_a_blur_whose_largest_values_are_close() -> None:
    blur = Convolution(
        Space((64, 64), torch.float64), torch.ones(5, 5, dtype=torch.float64) / 25, "valid"
    )
    largest = float(svds(as_scipy(blur), k=1, return_singular_vectors=False)[0])
    assert blur.norm() == pytest.approx(largest, rel=5e-4)
