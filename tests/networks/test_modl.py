"""MoDL, and the linear solve inside it with implicit gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon.networks import Unrolled
from labrecon.networks.data_step import data_step
from labrecon.networks.implicit_solve import implicit_solve
from labrecon.networks.modl import DataConsistency, make_modl
from labrecon.noise import Gaussian, Poisson
from labrecon.operator import Operator
from labrecon.operators import AsComplex, Convolution, Identity, MaskedFourier, Matrix
from labrecon.prior import NotInvertibleError, Prior
from labrecon.priors import Tikhonov
from labrecon.problem import Problem, SolverError
from labrecon.solver import State
from labrecon.space import Space

EXACT = {"iterations": 100, "tolerance": 1e-14}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Halved(Prior):
    """A denoiser with a known inverse."""

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        return 0.5 * x + 0.1 * x.real.sin()

    def inverse(self, u: Tensor, step: Tensor | float) -> Tensor:
        x = u
        for _ in range(80):
            x = 2 * (u - 0.1 * x.real.sin())
        return x


# -- the solve -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_value_and_gradients_are_those_of_dense_linear_algebra(dtype: torch.dtype) -> None:
    a, b = draw(7, 5, dtype=dtype), draw(3, 5, seed=1, dtype=dtype)
    target = draw(3, 5, seed=2, dtype=dtype)

    def inputs() -> list[Tensor]:
        made = [a.clone(), b.clone(), torch.tensor(0.3, dtype=torch.float64)]
        return [tensor.requires_grad_() for tensor in made]

    matrix, rhs, weight = ours = inputs()
    x = implicit_solve(lambda v: v @ (matrix.mH @ matrix).mT + weight * v, rhs, 1, **EXACT)
    (x * target.conj()).real.sum().backward()

    matrix, rhs, weight = theirs = inputs()
    dense = matrix.mH @ matrix + weight * torch.eye(5, dtype=dtype)
    exact = torch.linalg.solve(dense, rhs.mT).mT
    (exact * target.conj()).real.sum().backward()

    torch.testing.assert_close(x.detach(), exact.detach(), rtol=1e-10, atol=1e-10)
    for tensor, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(tensor.grad, expected.grad, rtol=1e-9, atol=1e-9)


def test_the_start_changes_nothing_and_nothing_is_kept_without_gradients() -> None:
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    rhs = draw(4)

    def apply(v: Tensor) -> Tensor:
        return (1 + weight) * v

    far = implicit_solve(apply, rhs, 1, x0=100 * draw(4, seed=1), **EXACT)
    torch.testing.assert_close(far, rhs / 1.3)
    with torch.no_grad():
        assert not implicit_solve(apply, rhs, 1).requires_grad


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    rhs = draw(4).requires_grad_()
    x = implicit_solve(lambda v: 2 * v, rhs, 1)
    (gradient,) = torch.autograd.grad(x.square().sum(), rhs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_memory_does_not_grow_with_iterations() -> None:
    """No iterate is in the graph: it has as many nodes after 2 iterations as after 60."""

    def nodes(iterations: int) -> int:
        weight = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
        a = draw(60, 60)
        x = implicit_solve(
            lambda v: v @ a.T @ a + weight * v, draw(60, seed=1), 1, iterations=iterations
        )
        found, ahead = set(), [x.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is not None and node not in found:
                found.add(node)
                ahead += [following for following, _ in node.next_functions]
        return len(found)

    assert nodes(2) == nodes(60)


# -- the data step ---------------------------------------------------------------------------------

SHAPE = (6, 5)
COMPLEX, REAL = Space(SHAPE, torch.complex128), Space(SHAPE, torch.float64)


def mask() -> Tensor:
    return (draw(*SHAPE, seed=4) > 0).double() * 0.8


def operators() -> dict[str, Operator]:
    real = AsComplex(REAL)
    fourier = MaskedFourier(COMPLEX, mask())
    along_one = MaskedFourier(COMPLEX, mask(), axes=(-1,))
    return {
        "fourier": fourier,
        "fourier, one axis": along_one,
        "fourier of real": fourier @ real,
        "fourier of real, one axis": along_one @ real,
        "identity": Identity(REAL),
        "blur": Convolution(REAL, draw(3, 3, seed=5)),
        "matrix": Matrix(draw(11, 30, seed=6), REAL),
        "scaled": 2.0 * Matrix(draw(11, 30, seed=6), REAL),
    }


@pytest.mark.parametrize("name", list(operators()))
@pytest.mark.parametrize("weighted", [False, True])
def test_the_data_step_solves_its_equation(name: str, weighted: bool) -> None:
    operator = operators()[name]
    data = operator(operator.domain.random(2, generator=torch.Generator().manual_seed(1)))
    weights = draw(*operator.range.shape, seed=7).square() if weighted else None
    problem = Problem(operator, data, Gaussian(0.7), weights)
    pull = operator.domain.random(2, generator=torch.Generator().manual_seed(2))
    x = data_step(problem, pull, 0.3, **EXACT)
    # The gradient of D is AᴴWA x − AᴴWy, by code that the step does not use.
    left = problem.gradient(x) + 0.3 * x
    torch.testing.assert_close(left, pull, rtol=1e-8, atol=1e-8)


# -- MoDL ------------------------------------------------------------------------------------------


def dense_modl(matrix: Tensor, data: Tensor, coupling: Tensor, depth: int) -> Tensor:
    x = data @ matrix
    dense = matrix.mT @ matrix + coupling * torch.eye(matrix.shape[1], dtype=matrix.dtype)
    for _ in range(depth):
        z = Halved().prox(x, 1.0)
        x = torch.linalg.solve(dense, (data @ matrix + coupling * z).mT).mT
    return x


def test_gradients_reach_the_coupling_the_data_and_the_operator() -> None:
    """The authors' code gives the data none, and the operator neither."""
    matrix, data = draw(5, 4), draw(1, 5, seed=1)

    def ours(matrix: Tensor, data: Tensor, coupling: Tensor) -> Tensor:
        solver = DataConsistency(prior=Halved(), coupling=1.0, inner=30, tolerance=1e-14)
        del solver.coupling
        solver.coupling = coupling  # type: ignore[assignment]
        operator = Matrix(draw(5, 4)).at(matrix=matrix)
        problem = Problem(operator, data)
        return Unrolled(solver, 2, start="adjoint")(problem)

    inputs = (matrix, data, torch.tensor(0.4, dtype=torch.float64))
    for tensor in inputs:
        tensor.requires_grad_()
    expected = torch.autograd.grad(dense_modl(*inputs, depth=2).square().sum(), inputs)
    found = torch.autograd.grad(ours(*inputs).square().sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(ours, inputs)


@pytest.mark.parametrize("name", ["fourier", "fourier of real", "matrix", "blur"])
def test_untrained_it_is_iterated_tikhonov(name: str) -> None:
    operator = operators()[name]
    data = operator(operator.domain.random(1, generator=torch.Generator().manual_seed(1)))
    problem = Problem(operator, data)
    network = make_modl(problem, depth=4, features=8, layers=3, inner=200)
    network.solver.tolerance = 1e-13
    x = operator.adjoint(data)
    coupling = float(network.solver.coupling(0).detach())
    for _ in range(4):
        # argmin D(u) + ½ λ ‖u − x‖², by the prior's own prox where D is quadratic too.
        correction = operator.adjoint(data - operator(x))
        x = x + operator.solve(correction, coupling, iterations=100, tolerance=1e-14)
    torch.testing.assert_close(network(problem).detach(), x, rtol=1e-6, atol=1e-7)


def test_a_step_can_be_undone() -> None:
    problem = Problem(Matrix(draw(9, 6)), draw(2, 9, seed=1))
    solver = DataConsistency(prior=Halved(), coupling=0.7, inner=100, tolerance=1e-15)
    before = solver.init(problem, draw(2, 6, seed=2))
    after, _ = solver.step(problem, before)
    back = solver.inverse(problem, after)
    assert back.k == 0
    torch.testing.assert_close(back.x, before.x, rtol=1e-8, atol=1e-8)
    with pytest.raises(NotInvertibleError):
        make_modl(problem, features=4).solver.inverse(problem, after)


def test_a_quadratic_denoiser_has_the_minimiser_as_fixed_point() -> None:
    """With ``D`` the prox of ``½ w ‖x‖²`` it is half-quadratic splitting of a ridge problem."""
    matrix, data = draw(9, 6), draw(1, 9, seed=1)
    weight, coupling = 0.5, 0.8
    solver = DataConsistency(prior=Tikhonov(weight), coupling=coupling, inner=100, tolerance=1e-14)
    problem = Problem(Matrix(matrix), data)
    state: State = solver.init(problem)
    for _ in range(300):
        state, _ = solver.step(problem, state)
    # z = x / (1 + w/λ), so that λ (x − z) = x w λ / (λ + w).
    ridge = weight * coupling / (coupling + weight)
    exact = torch.linalg.solve(
        matrix.T @ matrix + ridge * torch.eye(6).double(), matrix.T @ data[0]
    )
    torch.testing.assert_close(state.x[0], exact, rtol=1e-9, atol=1e-9)


def test_what_it_can_not_treat_is_told() -> None:
    problem = Problem(Matrix(draw(9, 6)), draw(2, 9, seed=1))
    with pytest.raises(SolverError, match="coupling"):
        make_modl(problem, coupling=0.0)
    with pytest.raises(SolverError, match="depth"):
        make_modl(problem, depth=0)
    counts = Problem(Matrix(draw(9, 6).abs()), torch.ones(9).double(), Poisson())
    with pytest.raises(SolverError, match="Gaussian"):
        make_modl(problem, features=4)(counts)
