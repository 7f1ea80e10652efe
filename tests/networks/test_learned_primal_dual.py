"""The learned primal-dual method: what it reduces to, and what it may be made of."""

from __future__ import annotations

import pytest
import torch
from learned_iteration_cases import CASES, blur_1d, fall_of_loss, sampled_fourier
from torch import Tensor, nn

from labrecon.networks.equilibrium import Equilibrium
from labrecon.networks.learned_primal import (
    ChambollePockDual,
    ChambollePockPrimal,
    ResidualDual,
    make_learned_chambolle_pock,
    make_learned_primal,
)
from labrecon.networks.learned_primal_dual import LearnedPrimalDual, make_lpd
from labrecon.networks.unrolled import Unrolled
from labrecon.operator import Operator
from labrecon.operators import Convolution, MaskedFourier, Matrix
from labrecon.plugins import host
from labrecon.prior import soft_threshold
from labrecon.priors import L1
from labrecon.priors.channels import from_channels, to_channels
from labrecon.problem import Problem
from labrecon.solver import SolverError, solve
from labrecon.solvers import FISTA, PDHG, GradientDescent
from labrecon.space import Space

F64 = torch.float64


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


class ProxDual(nn.Module):
    """The exact step of `PDHG` in the dual of ``½‖· − y‖²``, as an increment."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, channels: Tensor) -> Tensor:
        dual, predicted, measured = channels.chunk(3, 1)
        moved = dual + self.sigma * predicted
        return (moved - self.sigma * measured) / (1 + self.sigma) - dual


class ProxPrimal(nn.Module):
    """The exact step of `PDHG` in ``weight · ‖·‖₁``, and the extrapolated point."""

    def __init__(self, tau: float, weight: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.tau, self.weight, self.dtype = tau, weight, dtype

    def forward(self, channels: Tensor) -> Tensor:
        f, ahead, back = channels.chunk(3, 1)
        axes = channels.ndim - 2
        (moved,) = from_channels(f - self.tau * back, self.dtype, axes)
        x = to_channels([soft_threshold(moved, self.tau * self.weight)], axes)
        return torch.cat([x - f, 2 * x - f - ahead], 1)


def operators() -> dict[str, Operator]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(9, 12, dtype=F64, generator=generator)
    mask = torch.rand(8, 6, generator=generator) < 0.6
    return {
        "vector": Matrix(matrix),
        "image to vector": Matrix(matrix, Space((4, 3), F64)),
        "complex": MaskedFourier(Space((8, 6), torch.complex128), 1.7 * mask),
        "blur": Convolution(Space((7, 6), F64), torch.ones(3, 3, dtype=F64) / 5),
    }


@pytest.mark.parametrize("name", operators())
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_with_exact_proxes_it_is_the_primal_dual_hybrid_gradient_method(
    name: str, scale: float
) -> None:
    operator = operators()[name]
    data = operator.range.random(2, generator=torch.Generator().manual_seed(1))
    weight = 0.05
    problem = Problem(operator, data)
    classical = PDHG(prior=L1(weight), ratio=1.3)
    start = classical.init(problem)
    # The networks see A / ‖A‖, x / scale, and p / (‖A‖ scale).
    size = operator.norm()
    tau = float(start.tau) * size**2
    solver = LearnedPrimalDual(
        ProxPrimal(tau, weight / (size**2 * scale), operator.domain.dtype),
        ProxDual(float(start.sigma)),
        primal=2,
        dual=1,
        axes=min(2, operator.domain.ndim),
        data_axes=min(2, operator.range.ndim),
        norm=size,
        scale=scale,
    )
    expected = solve(classical, problem, iterations=40).x
    x = solve(solver, problem, iterations=40).x
    assert float((x - expected).norm() / expected.norm()) < 1e-10


def test_its_fixed_point_with_exact_proxes_is_the_minimiser() -> None:
    space = Space((8, 6), torch.complex128)
    mask = 0.5 + torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    operator = MaskedFourier(space, mask)
    data = operator.range.random(2, generator=torch.Generator().manual_seed(1))
    networks = ProxPrimal(0.5, 0.05, torch.complex128), ProxDual(0.5)
    solver = LearnedPrimalDual(*networks, primal=2, dual=1)
    found = Equilibrium(solver, find="picard", iterations=300, tolerance=1e-11)
    problem = Problem(operator, data)
    expected = solve(FISTA(prior=L1(0.05)), problem, iterations=300).x
    torch.testing.assert_close(found(problem), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_layers_that_are_computed_again(name: str) -> None:
    problem, truth = CASES[name]()
    network = make_lpd(problem, depth=4, features=4, primal=3, dual=2)
    gradients = []
    for memory in ("store", "checkpoint"):
        other = Unrolled(network.solver, 4, memory=memory)
        loss = (other(problem) - truth).abs().square().sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    for stored, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, stored)


def test_the_published_network_has_the_published_number_of_parameters() -> None:
    operator = Matrix(torch.randn(12, 9), Space((3, 3)), Space((4, 3)))
    problem = Problem(operator, torch.zeros(4, 3))
    # 10 × (conv 7→32→32→5 + conv 6→32→32→5 + four PReLUs of 32)
    assert parameters(make_lpd(problem)) == 253_220
    assert parameters(make_lpd(problem, tied=True)) == 25_322
    # σ, τ, θ and the networks 2→32→32→1 and 1→32→32→1
    assert parameters(make_learned_chambolle_pock(problem)) == 20_133
    assert parameters(make_learned_primal(problem)) == 125_170


class Fixed(nn.Module):
    """Returns the same values in each channel, whatever it sees, and keeps what it saw."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = torch.tensor(values)[:, None]

    def forward(self, channels: Tensor) -> Tensor:
        self.seen = channels
        return self.values.expand(len(channels), -1, channels.shape[-1])


def test_channels_are_read_as_published() -> None:
    """The operator reads the second primal channel, its adjoint and the result the first ones."""
    primal, dual = Fixed(1.0, 2.0, 4.0), Fixed(3.0, 5.0)
    problem = Problem(Matrix(10 * torch.eye(6)), torch.full((1, 6), 7.0))
    solver = LearnedPrimalDual(primal, dual, primal=3, dual=2, axes=1, data_axes=1, norm=2.0)
    state = solver.init(problem)
    assert not state.primal.any()
    assert not state.dual.any()
    state, _ = solver.step(problem, state)
    assert dual.seen[0, :, 0].tolist() == [0, 0, 0, 3.5]
    assert primal.seen[0, :, 0].tolist() == [0, 0, 0, 15]
    assert state.x[0, 0] == 1
    solver.step(problem, state)
    assert dual.seen[0, :, 0].tolist() == [3, 5, 10, 3.5]
    assert primal.seen[0, :, 0].tolist() == [1, 2, 4, 30]


def test_with_the_residual_as_dual_a_linear_primal_update_is_gradient_descent() -> None:
    class Descent(nn.Module):
        def forward(self, channels: Tensor) -> Tensor:
            return -0.8 * channels[:, -1:]

    problem, _ = blur_1d(F64)
    size = problem.operator.norm()
    options = {"primal": 1, "dual": 1, "axes": 1, "data_axes": 1, "norm": size, "scale": 3.0}
    solver = LearnedPrimalDual(Descent(), ResidualDual(), **options)
    expected = solve(GradientDescent(step_size=0.8 / size**2), problem, iterations=9).x
    torch.testing.assert_close(solve(solver, problem, iterations=9).x, expected)


def test_learned_chambolle_pock_with_exact_proxes_is_the_method_of_its_name() -> None:
    class Dual(nn.Module):
        def forward(self, channels: Tensor) -> Tensor:
            moved, measured = channels.chunk(2, 1)
            return (moved - 0.5 * measured) / 1.5 - self.dual

    class Primal(nn.Module):
        def forward(self, moved: Tensor) -> Tensor:
            return soft_threshold(moved, 0.02) - self.primal

    problem, _ = blur_1d(F64)
    operator, y = problem.operator, problem.data
    x = ahead = torch.zeros_like(y)
    p = torch.zeros_like(y)
    first, second = Dual(), Primal()
    wrapped = ChambollePockPrimal(second, 0.5, 1.0), ChambollePockDual(first, 0.5)
    solver = LearnedPrimalDual(*wrapped, primal=2, dual=1, axes=1, data_axes=1)
    state = solver.init(problem)
    for _ in range(12):
        first.dual, second.primal = state.dual, state.primal[:, :1]
        state, _ = solver.step(problem, state)
        p = (p + 0.5 * (operator(ahead) - y)) / 1.5
        following = soft_threshold(x - 0.5 * operator.adjoint(p), 0.02)
        x, ahead = following, 2 * following - x
        torch.testing.assert_close(state.x, x, rtol=1e-12, atol=1e-12)


MAKERS = {
    "lpd": lambda problem: make_lpd(problem, depth=3, features=8, primal=3, dual=2),
    "learned-primal": lambda problem: make_learned_primal(problem, depth=3, features=8, primal=3),
    "learned-chambolle-pock": lambda problem: make_learned_chambolle_pock(
        problem, depth=3, features=8
    ),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", CASES)
def test_any_operator_will_do_and_a_step_down_the_gradient_helps(name: str, make: str) -> None:
    problem, truth = CASES[name]()
    network = MAKERS[make](problem)
    assert network(problem).dtype == truth.dtype
    before, after = fall_of_loss(network, problem, truth)
    assert after < before
    assert callable(host().get("networks", make))


def test_tied_layers_share_their_networks() -> None:
    problem, _ = sampled_fourier()
    network = make_lpd(problem, depth=3, features=4, tied=True)
    gradients = torch.autograd.grad(network(problem).abs().sum(), list(network.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)


class Square(Operator):
    linear = False

    def __init__(self) -> None:
        super().__init__(Space((9,)), Space((9,)))

    def forward(self, x: Tensor) -> Tensor:
        return x * x


def test_a_nonlinear_operator_is_taken_back_by_its_jacobian() -> None:
    problem = Problem(Square(), torch.ones(1, 9))
    with pytest.raises(SolverError, match="has no norm: give the network norm="):
        make_lpd(problem)
    primal = Fixed(1.0)
    solver = LearnedPrimalDual(
        primal, Fixed(1.0), primal=1, dual=1, axes=1, data_axes=1, norm=2.0, scale=3.0
    )
    state, _ = solver.step(problem, solver.init(problem))
    solver.step(problem, state)
    # h = 2 after two steps; x = 3, so that the Jacobian is 2x = 6; over the norm.
    assert primal.seen[0, -1, 0] == 6
    assert make_lpd(problem, norm=1.0, depth=2)(problem).isfinite().all()


def test_samples_of_weight_zero_are_not_seen() -> None:
    problem, _ = blur_1d()
    network = make_lpd(problem, depth=3)
    weights = torch.ones(21)
    weights[4] = 0
    spoiled = problem.data.clone()
    spoiled[..., 4] = 1e6
    clean = network(Problem(problem.operator, problem.data, weights=weights))
    assert torch.equal(network(Problem(problem.operator, spoiled, weights=weights)), clean)
    assert not torch.equal(network(problem), clean)


def test_the_dual_has_no_say_where_the_weight_is_zero() -> None:
    primal = Fixed(1.0)
    problem = Problem(Matrix(torch.eye(3)), torch.ones(1, 3), weights=torch.tensor([2.0, 0.0, 0.5]))
    solver = LearnedPrimalDual(primal, Fixed(3.0), primal=1, dual=1, axes=1, data_axes=1)
    solver.step(problem, solver.init(problem))
    assert primal.seen[0, -1].tolist() == [3, 0, 3]


def test_estimates_scale_with_the_object() -> None:
    problem, _ = blur_1d()
    large = Problem(problem.operator, 1000 * problem.data)
    one, other = make_lpd(problem, depth=3), make_lpd(large, depth=3, scale=1000.0)
    torch.testing.assert_close(other(large), 1000 * one(problem), rtol=1e-4, atol=1e-2)


def test_wrong_axes_and_numbers_are_refused() -> None:
    problem, _ = blur_1d()
    with pytest.raises(SolverError, match="2 axes of the data, which has 1"):
        Unrolled(LearnedPrimalDual(nn.Identity(), nn.Identity(), axes=1), 1)(problem)
    for option in ("primal", "dual", "depth", "features"):
        with pytest.raises(SolverError, match=option):
            make_lpd(problem, **{option: 0})
    with pytest.raises(SolverError, match="is zero"):
        make_lpd(Problem(Matrix(torch.zeros(3, 3)), torch.zeros(3)))
