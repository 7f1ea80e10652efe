"""Networks tied to a matrix (LISTA, ALISTA), and pbnet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon.networks.alista import analytic_weights, make_alista
from labrecon.networks.lista import LearnedLinearISTA, make_lista
from labrecon.networks.pbnet import make_pbnet
from labrecon.noise import Gaussian
from labrecon.operators import Convolution, Identity, MaskedFourier, Matrix
from labrecon.priors import L1
from labrecon.problem import Problem, SolverError
from labrecon.solver import solve
from labrecon.solvers import ISTA
from labrecon.space import Space

KINDS = [torch.float64, torch.complex128]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def problem_of(dtype: torch.dtype = torch.float64, *, image: bool = False) -> Problem:
    """Data of six samples, of objects that are vectors or images."""
    domain = Space((2, 5), dtype) if image else None
    return Problem(Matrix(draw(6, 10, dtype=dtype), domain), draw(3, 6, seed=1, dtype=dtype))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("image", [False, True])
def test_untrained_lista_is_ista_with_one_iteration_more(dtype: torch.dtype, image: bool) -> None:
    problem = problem_of(dtype, image=image)
    step = 1 / float(torch.linalg.matrix_norm(problem.operator.matrix, 2)) ** 2
    network = make_lista(problem, depth=4, weight=0.3)
    expected = solve(ISTA(prior=L1(0.3), step_size=step), problem, iterations=5).x
    torch.testing.assert_close(network(problem).detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", KINDS)
def test_untrained_pbnet_is_ista(dtype: torch.dtype) -> None:
    problem = problem_of(dtype)
    network = make_pbnet(problem, depth=7, weight=0.25)
    expected = solve(ISTA(prior=L1(0.25)), problem, iterations=7).x
    torch.testing.assert_close(network(problem).detach(), expected, rtol=1e-6, atol=1e-6)


def test_pbnet_learns_a_design_through_measurement_and_reconstruction() -> None:
    """The gradient of the matrix by central differences, the data made by the same matrix."""
    objects, matrix = draw(2, 10, seed=2), draw(6, 10)
    operator = Matrix(matrix)
    network = make_pbnet(Problem(operator, operator(objects)), depth=3, weight=0.1).double()

    def loss(matrix: Tensor) -> Tensor:
        at = operator.at(matrix=matrix)
        return (network(Problem(at, at(objects))) - objects).square().sum()

    assert torch.autograd.gradcheck(loss, matrix.requires_grad_())


def test_pbnet_takes_any_operator() -> None:
    space = Space((8, 8), torch.complex128)
    operator = MaskedFourier(space, (draw(8, 8) > 0).double())
    problem = Problem(operator, operator(draw(8, 8, seed=1, dtype=torch.complex128)))
    assert make_pbnet(problem, depth=2)(problem).shape == (8, 8)


@pytest.mark.parametrize("dtype", KINDS)
def test_analytic_weights_have_the_least_coherence(dtype: torch.dtype) -> None:
    """No feasible direction lowers ``‖WᴴA‖²``: a convex problem's optimality condition."""
    a = draw(6, 10, dtype=dtype)
    a = a / torch.linalg.vector_norm(a, dim=0)
    w = analytic_weights(a)
    ones = torch.ones(10, dtype=dtype)
    torch.testing.assert_close((w.conj() * a).sum(0), ones, rtol=0, atol=1e-12)
    best = torch.linalg.matrix_norm(w.mH @ a)
    for seed in range(20):
        change = draw(6, 10, seed=seed + 1, dtype=dtype)
        change = change - a * (a.conj() * change).sum(0) / (a.conj() * a).sum(0)
        for size in (1e-3, 0.1):
            assert torch.linalg.matrix_norm((w + size * change).mH @ a) > best


def test_of_orthonormal_rows_the_weights_are_scaled_columns() -> None:
    a = torch.linalg.qr(draw(10, 6))[0].T
    torch.testing.assert_close(analytic_weights(a), a / a.square().sum(0))


def test_alista_without_training_and_selection_is_ista_with_other_weights() -> None:
    problem = problem_of()
    matrix = problem.operator.matrix
    network = make_alista(problem, depth=3, percent=0.0)
    threshold = 0.4 / float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    w, x = analytic_weights(matrix), torch.zeros(3, 10, dtype=torch.float64)
    for _ in range(3):
        v = x + (problem.data - x @ matrix.T) @ w
        x = v.sign() * (v.abs() - threshold).clamp_min(0)
    torch.testing.assert_close(network(problem).detach(), x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("image", [False, True])
def test_alista_learns_two_numbers_a_layer(dtype: torch.dtype, image: bool) -> None:
    problem = problem_of(dtype, image=image)
    network = make_alista(problem, depth=5, percent=10.0)
    learned = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in learned.values()) == 10
    assert all(not p.is_complex() for p in learned.values())
    network(problem).abs().square().sum().backward()
    for name, parameter in learned.items():
        assert bool((parameter.grad != 0).all()), name


@pytest.mark.parametrize("make", [make_lista, make_alista])
@pytest.mark.parametrize(
    "operator",
    [Identity(Space((6,))), Convolution(Space((6,)), torch.ones(3)), 2.0 * Matrix(torch.eye(6))],
    ids=["identity", "blur", "scaled"],
)
def test_other_operators_are_refused(make, operator) -> None:
    with pytest.raises(SolverError, match=r"takes a Matrix of shape \(m, n\), got"):
        make(Problem(operator, torch.zeros(6)))


def test_matrices_without_analytic_weights_are_told() -> None:
    with pytest.raises(SolverError, match="column of the matrix is zero"):
        analytic_weights(torch.tensor([[1.0, 0.0, 1.0]]))
    with pytest.raises(SolverError, match="independent rows"):
        analytic_weights(torch.ones(2, 3))
    with pytest.raises(SolverError, match="independent rows"):
        make_alista(Problem(Matrix(draw(10, 6)), draw(10)))


def test_lista_is_for_the_matrix_it_was_made_for() -> None:
    network = make_lista(problem_of())
    with pytest.raises(SolverError, match="6×10 matrix; Matrix maps 9 samples to 6"):
        network(Problem(Matrix(draw(6, 9)), draw(6)))
    weighted = problem_of()
    weighted = Problem(weighted.operator, weighted.data, weights=torch.ones(6).double())
    with pytest.raises(SolverError, match="no weights"):
        network(weighted)
    with pytest.raises(SolverError, match=r"We \(n, m\)"):
        LearnedLinearISTA(torch.zeros(4, 3), torch.zeros(3, 3), torch.zeros(4))


@pytest.mark.parametrize("make", [make_lista, make_alista, make_pbnet])
@pytest.mark.parametrize("options", [{"depth": 0}, {"weight": -1.0}, {"scale": 0.0}])
def test_wrong_numbers_are_told(make, options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(SolverError, match=name):
        make(problem_of(), **options)


def test_alista_starts_alike_whatever_the_noise() -> None:
    problem = problem_of()
    noisy = Problem(problem.operator, problem.data, Gaussian(0.01))
    one, other = make_alista(problem, depth=3), make_alista(noisy, depth=3)
    torch.testing.assert_close(one(problem), other(noisy), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [make_lista, make_alista, make_pbnet])
def test_scale_fits_the_thresholds_to_the_object(make) -> None:
    problem = problem_of()
    bright = Problem(problem.operator, 100 * problem.data)
    one, large = make(problem), make(problem, scale=100.0)
    torch.testing.assert_close(
        large(bright).detach(), 100 * one(problem).detach(), rtol=1e-5, atol=1e-4
    )
