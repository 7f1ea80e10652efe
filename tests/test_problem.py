"""The data term: value, gradient, curvature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon.noise import Gaussian, NoiseError, Poisson, PoissonGaussian
from labrecon.operator import LinearityError, Operator
from labrecon.operators import Convolution, MaskedFourier, Matrix
from labrecon.problem import Problem, SolverError
from labrecon.space import Space, SpaceError

F64 = torch.float64


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def fourier() -> MaskedFourier:
    mask = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    return MaskedFourier(Space((6, 6), torch.complex128), mask)


PROBLEMS = {
    "gaussian": lambda: Problem(Matrix(draw(7, 4)), draw(2, 7), Gaussian(0.3)),
    "weighted": lambda: Problem(
        Matrix(draw(7, 4)), draw(2, 7), Gaussian(draw(7).abs() + 0.1), draw(2, 7).abs()
    ),
    "poisson": lambda: Problem(
        Matrix(draw(7, 4).abs()), draw(2, 7).abs().round(), Poisson(0.5), draw(7).abs()
    ),
    "electronic": lambda: Problem(
        Matrix(draw(7, 4).abs()), draw(2, 7).abs(), PoissonGaussian(1.0, 0.2)
    ),
    "fourier": lambda: Problem(
        fourier(), draw(2, 6, 6, dtype=torch.complex128), Gaussian(2.0), draw(6, 6).abs()
    ),
    "blur": lambda: Problem(
        Convolution(Space((5, 5), F64), draw(3, 3)), draw(2, 5, 5), Gaussian(0.5)
    ),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)


def start(problem: Problem) -> Tensor:
    space = problem.operator.domain
    x = draw(2, *space.shape, seed=9, dtype=space.dtype)
    return x if x.is_complex() else x.abs()


@every_problem
def test_gradient_is_that_of_the_loss(name: str) -> None:
    problem = PROBLEMS[name]()
    x = start(problem).requires_grad_()
    (expected,) = torch.autograd.grad(problem.loss(x).sum(), x)
    for given in (problem, problem.prepare()):
        torch.testing.assert_close(given.gradient(x.detach()), expected)
    loss, gradient = problem.loss_and_gradient(x.detach())
    torch.testing.assert_close(loss, problem.loss(x.detach()))
    torch.testing.assert_close(gradient, expected)


@every_problem
def test_lipschitz_bounds_the_change_of_the_gradient(name: str) -> None:
    problem = PROBLEMS[name]()
    bound, x = float(torch.as_tensor(problem.lipschitz()).max()), start(problem)
    # Power iteration on the gradient itself goes for the steepest direction there is.
    direction = start(problem)
    for _ in range(60):
        change = problem.gradient(x + 1e-4 * direction) - problem.gradient(x)
        direction = change / change.norm()
    steepest = float(change.norm()) / 1e-4
    assert steepest <= bound
    if name in ("gaussian", "fourier", "blur"):
        assert bound <= 1.2 * steepest or name == "fourier"


def test_one_number_per_batch_element() -> None:
    problem = PROBLEMS["gaussian"]()
    x = start(problem)
    assert problem.loss(x).shape == (2,)
    alone = Problem(problem.operator, problem.data[1], problem.noise)
    torch.testing.assert_close(problem.loss(x)[1], alone.loss(x[1]))


def test_weight_zero_takes_a_sample_out_whatever_it_holds() -> None:
    weights = torch.ones(7, dtype=F64)
    weights[2] = 0
    problem = PROBLEMS["poisson"]()
    values = []
    for spoilt in (0.0, 1e9):
        data = problem.data.clone()
        data[..., 2] = spoilt
        given = Problem(problem.operator, data, Poisson(), weights)
        values.append((given.loss(start(given)), given.gradient(start(given))))
    torch.testing.assert_close(values[0], values[1])


def test_a_masked_sample_of_infinite_density_counts_nothing() -> None:
    problem = Problem(
        Matrix(torch.eye(2, dtype=F64)),
        torch.tensor([1.0, 3.0], dtype=F64),
        Poisson(),
        torch.tensor([1.0, 0.0], dtype=F64),
    )
    assert float(problem.loss(torch.tensor([1.0, 0.0], dtype=F64))) == 0.0


def test_back_replaces_the_adjoint() -> None:
    a, w, y, x = draw(7, 4), draw(4, 7, seed=5), draw(7), draw(4, seed=2)
    problem = Problem(Matrix(a), y, back=lambda r: r @ w.mT)
    torch.testing.assert_close(problem.prepare().gradient(x), (a @ x - y) @ w.mT)


def test_prepare_does_not_go_stale() -> None:
    blur = Convolution(Space((5, 5), F64), draw(3, 3))
    problem = Problem(blur, draw(5, 5))
    before = problem.prepare().gradient(draw(5, 5, seed=2))
    with torch.no_grad():
        blur.kernel.mul_(2)
    assert not torch.allclose(problem.prepare().gradient(draw(5, 5, seed=2)), before)


class Square(Operator):
    linear = False

    def forward(self, x: Tensor) -> Tensor:
        return x * x


def test_nonlinear_gradient_and_second_derivative() -> None:
    space, y = Space((3,), F64), draw(3).abs()
    x = draw(3, seed=1).requires_grad_()
    g = Problem(Square(space, space), y).gradient(x)
    torch.testing.assert_close(g, 2 * x * (x**2 - y))
    (h,) = torch.autograd.grad(g.sum(), x)
    torch.testing.assert_close(h, 6 * x**2 - 2 * y)


def test_what_has_no_lipschitz_constant_says_so() -> None:
    space = Space((3,), F64)
    with pytest.raises(LinearityError, match="nonlinear"):
        Problem(Square(space, space), draw(3)).lipschitz()
    with pytest.raises(NoiseError, match="backtracking"):
        Problem(Matrix(draw(3, 3)), draw(3).abs(), Poisson()).lipschitz()
    with pytest.raises(SolverError, match="zero"):
        Problem(Matrix(torch.zeros(3, 3, dtype=F64)), draw(3)).lipschitz()


def test_wrong_shapes_are_told_where_the_problem_is_posed() -> None:
    with pytest.raises(SpaceError, match="measured data"):
        Problem(Matrix(draw(7, 4)), draw(6))
    with pytest.raises(SpaceError, match="dtype"):
        Problem(Matrix(draw(7, 4)), draw(7).float())
    with pytest.raises(SolverError, match="weights"):
        Problem(Matrix(draw(7, 4)), draw(7), weights=draw(5).abs())
