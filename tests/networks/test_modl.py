"""MoDL, and the linear solve inside it with implicit gradients."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor

from labrecon.networks import Equilibrium, Unrolled
from labrecon.networks.data_step import data_step
from labrecon.networks.implicit_solve import implicit_solve
from labrecon.networks.modl import DataConsistency, make_modl
from labrecon.noise import Gaussian, Poisson
from labrecon.operator import Operator
from labrecon.operators import AsComplex, Convolution, Identity, MaskedFourier, Matrix
from labrecon.prior import NotInvertibleError, Prior
from labrecon.priors import Tikhonov
from labrecon.problem import Problem, SolverError
from labrecon.schedule import Schedule
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


def test_a_start_that_is_the_solution_gets_no_gradient() -> None:
    rhs, start = draw(4).requires_grad_(), (draw(4) / 2).requires_grad_()
    implicit_solve(lambda v: 2 * v, rhs, 1, x0=start).sum().backward()
    torch.testing.assert_close(rhs.grad, torch.full_like(rhs, 0.5))
    assert start.grad is None


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


@pytest.mark.parametrize("start", ["adjoint", "initial"])
@pytest.mark.parametrize("name", ["fourier", "fourier of real", "matrix", "blur"])
def test_untrained_it_is_iterated_tikhonov(name: str, start: str) -> None:
    operator = operators()[name]
    data = operator(operator.domain.random(1, generator=torch.Generator().manual_seed(1)))
    problem = Problem(operator, data)
    network = make_modl(problem, depth=4, features=8, layers=3, inner=200, start=start)
    network.solver.tolerance = 1e-13
    x = getattr(operator, start)(data)
    coupling = float(network.solver.coupling(0).detach())
    for _ in range(4):
        # argmin D(u) + ½ λ ‖u − x‖², by the prior's own prox where D is quadratic too.
        correction = operator.adjoint(data - operator(x))
        x = x + operator.solve(correction, coupling, iterations=100, tolerance=1e-14)
    torch.testing.assert_close(network(problem).detach(), x, rtol=1e-6, atol=1e-7)


def test_the_unit_of_the_data_changes_nothing() -> None:
    """Projections have ‖A‖ far from 1; from ``Aᴴ y`` as it is, few layers would not come back."""
    made = []
    for unit in (1.0, 30.0):
        operator = unit * Matrix(draw(11, 30, seed=6), REAL)
        data = operator(operator.domain.random(1, generator=torch.Generator().manual_seed(1)))
        problem = Problem(operator, data)
        made.append(make_modl(problem, depth=2, features=4, layers=3)(problem).detach())
    torch.testing.assert_close(made[1], made[0], rtol=1e-6, atol=1e-8)


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


@pytest.mark.parametrize("memory", ["checkpoint", "invert"])
def test_every_memory_mode_gives_the_same_gradient(memory: str) -> None:
    problem = Problem(Matrix(draw(9, 6)), draw(2, 9, seed=1))
    gradients = []
    for mode in ("store", memory):
        coupling = Schedule(0.7, learn=True).double()
        solver = DataConsistency(prior=Halved(), coupling=coupling, inner=100, tolerance=1e-15)
        network = Unrolled(solver, 4, start="adjoint", memory=mode)
        network(problem).square().sum().backward()
        gradients.append(coupling.raw.grad)
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def test_its_equilibrium_is_that_of_many_layers() -> None:
    problem = Problem(Matrix(draw(9, 6)), draw(2, 9, seed=1))
    gradients = []
    for deep in (True, False):
        coupling = Schedule(0.7, learn=True).double()
        solver = DataConsistency(prior=Halved(), coupling=coupling, inner=100, tolerance=1e-15)
        network = Unrolled(solver, 200) if deep else Equilibrium(solver, tolerance=1e-12)
        network(problem).square().sum().backward()
        gradients.append(coupling.raw.grad)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


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


@pytest.mark.slow
def test_it_learns_what_no_tikhonov_weight_gives(lab_data: Path) -> None:
    """Undersampled chest slices, none of those shown was trained on."""
    folder = lab_data / "published" / "admm_net" / "ChestTrain"
    if not folder.is_dir():
        pytest.skip(f"the slices are not in {folder}")
    trained_on, shown = crops(folder, range(1, 9)), crops(folder, range(9, 13))
    generator = torch.Generator().manual_seed(0)
    from_centre = torch.arange(64) - 32.0
    radius = torch.hypot(from_centre, from_centre[:, None])
    kept = (1.2 * (1 - radius / 32).clamp_min(0) ** 3).clamp(0.06, 1)
    real = AsComplex(Space((64, 64)))
    sampled = (torch.rand(64, 64, generator=generator) < kept).float()
    operator = MaskedFourier(real.range, sampled) @ real
    problem = Problem(operator, operator(shown))

    def psnr(x: Tensor) -> float:
        return float(-10 * (x.detach() - shown).square().mean((1, 2)).log10().mean())

    networks = [make_modl(problem, coupling=c, depth=4, features=4) for c in (1e-3, 0.05, 1.0)]
    tikhonov = max(psnr(network(problem)) for network in networks)
    network = make_modl(problem, depth=4, features=24, layers=4, scale=0.3)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(40):
        x = trained_on[torch.randint(len(trained_on), (8,), generator=generator)]
        optimiser.zero_grad()
        (network(Problem(operator, operator(x))) - x).square().mean().backward()
        optimiser.step()
    print(f"Tikhonov {tikhonov:.2f}, trained {psnr(network(problem)):.2f}")
    assert psnr(network(problem)) >= tikhonov + 2.5


def crops(folder: Path, numbers: range) -> Tensor:
    """All 64×64 pieces of some slices that are not empty."""
    images = []
    for number in numbers:
        with h5py.File(folder / f"im-{number:02d}.mat") as file:
            images.append(torch.from_numpy(file["im_ori"][()]).T.float())
    pieces = torch.stack(images).unfold(1, 64, 64).unfold(2, 64, 64).reshape(-1, 64, 64)
    return pieces[pieces.std((1, 2)) > 0.05]


def test_what_it_can_not_treat_is_told() -> None:
    problem = Problem(Matrix(draw(9, 6)), draw(2, 9, seed=1))
    with pytest.raises(SolverError, match="coupling"):
        make_modl(problem, coupling=0.0)
    with pytest.raises(SolverError, match="depth"):
        make_modl(problem, depth=0)
    with pytest.raises(SolverError, match="start"):
        make_modl(problem, features=4, start="nowhere")
    counts = Problem(Matrix(draw(9, 6).abs()), torch.ones(9).double(), Poisson())
    with pytest.raises(SolverError, match="Gaussian"):
        make_modl(problem, features=4)(counts)
