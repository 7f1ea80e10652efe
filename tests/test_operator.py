"""What operators remember, and what replaces their values."""

from __future__ import annotations

import pytest
import torch
from scipy.sparse.linalg import svds

from labrecon.bridge import as_scipy
from labrecon.functional import call_with, linear_function
from labrecon.operator import Operator
from labrecon.operators import Convolution, Diagonal, Identity, Matrix
from labrecon.solver import Problem, solve
from labrecon.solvers import FISTA
from labrecon.space import Space, SpaceError

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


def test_an_operator_that_differs_along_the_batch_has_no_one_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    channels = torch.randn(4, 6, 3, generator=generator, dtype=torch.float64)
    operator = Matrix(channels[0]).at(matrix=channels)
    with pytest.raises(SpaceError, match=r"differs along a batch of \(4,\)"):
        operator.norm()


def test_the_norm_of_a_blur_whose_largest_values_are_close() -> None:
    blur = Convolution(
        Space((64, 64), torch.float64), torch.ones(5, 5, dtype=torch.float64) / 25, "valid"
    )
    largest = float(svds(as_scipy(blur), k=1, return_singular_vectors=False)[0])
    assert blur.norm() == pytest.approx(largest, rel=5e-4)


class Foreign(Operator):
    """A gain that autograd sees through `linear_function` only, read when it is needed."""

    def __init__(self) -> None:
        super().__init__(SPACE, SPACE)
        self.nuisance("g", torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear_function(x, self.times, self.times)

    def times(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.g


def test_gradients_at_other_values_are_those_at_other_values() -> None:
    operator = Foreign()
    x = torch.ones(4, dtype=torch.float64, requires_grad=True)
    there = operator.at(g=torch.tensor(5.0, dtype=torch.float64))
    (g,) = torch.autograd.grad(there(x).sum(), x)
    torch.testing.assert_close(g, torch.full_like(x, 5.0))
    v = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (again,) = torch.autograd.grad(there(x), x, v, create_graph=True)
    (second,) = torch.autograd.grad(again.sum(), v)
    torch.testing.assert_close(second, torch.full_like(x, 5.0))
    torch.testing.assert_close(operator(x), 2 * x)


def test_the_norm_sees_a_change_that_keeps_sum_and_moment() -> None:
    weights = torch.tensor([1.0, 10.0, 10.0, 1.0], dtype=torch.float64)
    mask = gain()
    operator = Diagonal(SPACE, weights) @ mask
    mask.values.data = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert operator.norm() == pytest.approx(1)
    mask.values.data = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    assert operator.norm() == pytest.approx(10)


def test_what_is_fixed_can_not_be_learned_around() -> None:
    operator = Foreign()
    value = torch.tensor(5.0, dtype=torch.float64)
    there = Identity(SPACE) @ operator.at(g=value)
    assert not there.nuisances
    with pytest.raises(KeyError, match=r"no design or nuisance 'inner.operator.g'"):
        there.at(**{"inner.operator.g": value})
    assert list(operator.at(g=value).nuisances) == ["operator.g"]


def test_one_parameter_under_two_names_is_replaced_under_both() -> None:
    class Twice(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.same = self.g

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.g * self.same

    x = torch.ones(4, dtype=torch.float64)
    three = torch.tensor(3.0, dtype=torch.float64)
    torch.testing.assert_close(Twice().at(g=three)(x), 9 * x)


class Scale(Operator):
    """A gain with nothing but defaults."""

    def __init__(self, scale: float) -> None:
        super().__init__(Space((100,)), Space((100,)))
        self.register_buffer("scale", scale * torch.linspace(0.5, 1, 100))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x


@pytest.mark.parametrize("scale", [1e-18, 1e-12, 1e-9, 1.0, 1e9, 1e15])
def test_norm_and_first_estimate_in_any_unit(scale: float) -> None:
    operator = Scale(scale)
    assert operator.norm() == pytest.approx(scale, rel=1e-3)
    y = operator(torch.ones(100))
    start = operator.initial(y)
    assert float(((operator(start) - y) / scale).norm()) < 0.5 * float((y / scale).norm())


def test_a_norm_that_overflows_says_so() -> None:
    with pytest.raises(ArithmeticError, match="the norm overflows"):
        Scale(1e30).norm()
