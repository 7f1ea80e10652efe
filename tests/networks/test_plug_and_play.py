"""Plug and play: with true proxes it is the classical method; with denoisers, a fixed point."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from learned_iteration_cases import CASES, blur_1d, fall_of_loss, sampled_fourier
from torch import Tensor, nn

from labrecon.networks import Unrolled
from labrecon.networks.plug_and_play import make_pnp
from labrecon.operators import Convolution, Matrix
from labrecon.plugins import UnknownNameError, host
from labrecon.prior import Prior
from labrecon.priors import TV, WaveletL1
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solver import SolverError, solve
from labrecon.solvers import ADMM, CG, ISTA
from labrecon.space import Space

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


class ProxAt(nn.Module):
    """A denoiser that knows no step: the prox of a prior at one step, on real channels."""

    def __init__(self, prior: Prior, step: float) -> None:
        super().__init__()
        self.prior, self.step = prior, step

    def forward(self, x: Tensor) -> Tensor:
        return self.prior.prox(x, self.step)


def small() -> tuple[Problem, np.ndarray, np.ndarray]:
    """A well-conditioned matrix, whose minimiser is unique and quickly found."""
    matrix = draw(256, 64) / 16
    y = draw(256, seed=1)
    return Problem(Matrix(matrix, Space((8, 8), F64)), y), matrix.numpy(), y.numpy()


WEIGHT = 0.3


def tv_minimiser() -> Tensor:
    import cvxpy as cp

    _, matrix, y = small()
    x = cp.Variable((8, 8))
    down = cp.vstack([x[1:] - x[:-1], np.zeros((1, 8))])
    right = cp.hstack([x[:, 1:] - x[:, :-1], np.zeros((8, 1))])
    stacked = cp.vstack([cp.vec(down, order="C"), cp.vec(right, order="C")])
    tv = cp.sum(cp.norm(stacked, 2, axis=0))
    fit = 0.5 * cp.sum_squares(matrix @ cp.vec(x, order="C") - y)
    options = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11)
    cp.Problem(cp.Minimize(fit + WEIGHT * tv)).solve(cp.CLARABEL, **options)
    return torch.from_numpy(np.asarray(x.value))


def wavelet_minimiser() -> Tensor:
    """In coefficients c = W x: the support from cvxpy, the values on it from their equations."""
    import cvxpy as cp

    _, matrix, y = small()
    transform = WaveletL1(wavelet="haar", levels=2).transform(torch.zeros(8, 8, dtype=F64))
    synthesis = transform.adjoint(torch.eye(64, dtype=F64).reshape(64, 8, 8)).reshape(64, 64).mT
    a = matrix @ synthesis.numpy()
    c = cp.Variable(64)
    fit = 0.5 * cp.sum_squares(a @ c - y)
    cp.Problem(cp.Minimize(fit + WEIGHT * cp.norm1(c))).solve(cp.CLARABEL)
    signs = np.sign(c.value) * (np.abs(c.value) > 1e-5)
    on = signs != 0
    exact = np.zeros(64)
    exact[on] = np.linalg.solve(a[:, on].T @ a[:, on], a[:, on].T @ y - WEIGHT * signs[on])
    slope = a.T @ (y - a @ exact)
    assert 5 < on.sum() < 60
    np.testing.assert_allclose(slope[on], WEIGHT * signs[on], atol=1e-12)
    assert np.abs(slope[~on]).max() < WEIGHT
    return (synthesis @ torch.from_numpy(exact)).reshape(8, 8)


PRIORS = {
    "tv": (TV(WEIGHT, iterations=350), tv_minimiser),
    "wavelet": (WaveletL1(WEIGHT, wavelet="haar", levels=2), wavelet_minimiser),
}


@pytest.mark.parametrize("name", [pytest.param("tv", marks=pytest.mark.slow), "wavelet"])
@pytest.mark.parametrize("solver", ["admm", "fista"])
def test_denoisers_that_are_proxes_lead_to_the_minimiser(name: str, solver: str) -> None:
    """The denoiser is a network that knows only its one step, that of the solver."""
    problem = small()[0]
    prior, minimiser = PRIORS[name]
    step = 1 / float(problem.lipschitz())
    network = ProxAt(prior, step)
    numbers = {"rho": 1 / step} if solver == "admm" else {"step_size": step}
    pnp = make_pnp(problem, solver=solver, denoiser=network, depth=120, start="zero", **numbers)
    torch.testing.assert_close(pnp(problem), minimiser(), rtol=0, atol=1e-6)


def test_the_limit_depends_on_the_step_of_the_solver_unless_the_denoiser_follows_it() -> None:
    problem = small()[0]
    prior, minimiser = PRIORS["wavelet"]
    step = 1 / float(problem.lipschitz())
    wanted = minimiser()

    def limit(denoiser: nn.Module | Prior, factor: float) -> Tensor:
        return make_pnp(
            problem, solver="ista", denoiser=denoiser, depth=150, step_size=factor * step
        )(problem)

    for factor in (0.5, 1.0):
        torch.testing.assert_close(limit(prior, factor), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(limit(ProxAt(prior, step), 1.0), wanted, rtol=0, atol=1e-6)
    # At half the step the same denoiser is a prior of twice the weight.
    half = limit(ProxAt(prior, step), 0.5)
    doubled = WaveletL1(2 * WEIGHT, wavelet="haar", levels=2)
    torch.testing.assert_close(half, limit(doubled, 1.0), rtol=0, atol=1e-6)
    assert float((half - wanted).abs().max()) > 0.01


def test_the_order_of_the_released_code_has_the_same_limit() -> None:
    """Ryu et al. reflect the data step: x = D(2v − x − u), with v the prox of the data term."""
    problem, matrix, y = small()
    rho = 0.5 * float(problem.lipschitz())
    lowpass = Convolution(Space((8, 8), F64), torch.full((3, 3), 1 / 12, dtype=F64))

    class Smooth(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(lowpass(x)) * 0.9

    pnp = make_pnp(
        problem, solver="admm", denoiser=Smooth(), depth=60, start="zero", rho=rho, inner=20
    )
    system = torch.from_numpy(matrix.T @ matrix) + rho * torch.eye(64, dtype=F64)
    back = torch.from_numpy(matrix.T @ y)
    x, u = torch.zeros(8, 8, dtype=F64), torch.zeros(8, 8, dtype=F64)
    for _ in range(60):
        v = torch.linalg.solve(system, back + rho * (x + u).flatten()).reshape(8, 8)
        x, u = Smooth()((2 * v - x - u)[None, None])[0, 0], u + x - v
    torch.testing.assert_close(pnp(problem), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", ["admm", "hqs", "ista", "fista", "pdhg"])
def test_it_is_the_registered_solver_stopped_after_its_depth(solver: str) -> None:
    problem, _ = blur_1d()
    prior = TV(0.02, ndim=1)
    pnp = make_pnp(problem, solver=solver, denoiser=prior, depth=7, coupling=2.0)
    numbers = {"admm": {"rho": 2.0}, "hqs": {"mu": 2.0}}.get(solver, {})
    numbers = {k: v * float(problem.lipschitz()) for k, v in numbers.items()}
    classical = host().get("solvers", solver)(prior=prior, **numbers)
    expected = Unrolled(classical, 7, start="initial")(problem)
    torch.testing.assert_close(pnp(problem), expected)


@pytest.mark.parametrize("denoiser", ["drunet", "dncnn"])
@pytest.mark.parametrize("name", CASES)
def test_any_operator_will_do_and_a_step_down_the_gradient_helps(name: str, denoiser: str) -> None:
    problem, truth = CASES[name]()
    pnp = make_pnp(problem, denoiser=denoiser, depth=2, inner=3)
    estimate = pnp(problem)
    assert (estimate.shape, estimate.dtype) == (truth.shape, truth.dtype)
    before, after = fall_of_loss(pnp, problem, truth)
    assert after < before


def test_a_solver_that_is_given_keeps_its_prior_and_its_numbers() -> None:
    problem, _ = blur_1d()
    solver, prior = ISTA(prior=TV(0.1), step_size=0.7), TV(0.02, ndim=1)
    pnp = make_pnp(problem, solver=solver, denoiser=prior, depth=3)
    assert isinstance(solver.prior, TV)
    assert solver.prior.ndim == 2
    expected = Unrolled(ISTA(prior=prior, step_size=0.7), 3, start="initial")(problem)
    torch.testing.assert_close(pnp(problem), expected)


def test_a_number_of_the_solver_is_learned_once_for_all_steps() -> None:
    problem, truth = blur_1d()
    pnp = make_pnp(problem, solver="admm", depth=3, learn=["rho"], denoiser=TV(0.02, ndim=1))
    rho = pnp.solver.rho
    assert isinstance(rho, Schedule)
    assert rho.raw.numel() == 1
    assert float(rho(0).detach()) == pytest.approx(0.25 * float(problem.lipschitz()), rel=1e-5)
    before, after = fall_of_loss(pnp, problem, truth)
    assert after < before


def test_one_denoiser_is_shared_by_all_steps_and_comes_from_the_seed() -> None:
    problem, _ = sampled_fourier()
    before = torch.get_rng_state()
    first, second, third = (make_pnp(problem, depth=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first(problem), second(problem))
    assert bool((first(problem) != third(problem)).any())
    deeper = make_pnp(problem, depth=9)
    sizes = {sum(p.numel() for p in net.parameters()) for net in (first, deeper)}
    assert len(sizes) == 1


def test_the_noise_level_is_in_units_of_the_object() -> None:
    problem, _ = blur_1d()
    for scale, given, expected in ((1.0, None, 0.05), (100.0, None, 5.0), (100.0, 2.0, 2.0)):
        pnp = make_pnp(problem, scale=scale, noise_level=given)
        prior = pnp.solver.prior
        assert isinstance(prior, Denoiser)
        assert (prior.noise_level, prior.scale) == (pytest.approx(expected), scale)
    network = DnCNN(axes=1, depth=2, features=3)
    assert make_pnp(problem, denoiser=network).solver.prior.network is network
    with pytest.raises(ValueError, match="one noise level"):
        make_pnp(problem, denoiser=network, noise_level=0.1)
    with pytest.raises(SolverError, match="its own"):
        make_pnp(problem, denoiser=TV(0.1), noise_level=0.1)


def test_wrong_options() -> None:
    problem, _ = blur_1d()
    for options, match in (
        ({"solver": "cg"}, "uses no prior"),
        ({"solver": CG()}, "uses no prior"),
        ({"solver": ADMM(), "rho": 2.0}, "rho"),
        ({"denoiser": "bm3d"}, "drunet, dncnn"),
        ({"depth": 0}, "depth"),
        ({"coupling": 0.0}, "coupling"),
        ({"solver": "fista", "speed": 3}, "speed"),
        ({"solver": "fista", "learn": ["rho"]}, "rho"),
    ):
        with pytest.raises(SolverError, match=match):
            make_pnp(problem, **options)
    with pytest.raises(UnknownNameError, match="admm"):
        make_pnp(problem, solver="amdm")


def test_it_is_registered() -> None:
    assert host().get("networks", "pnp") is make_pnp


def test_it_is_what_solve_repeats() -> None:
    problem, _ = blur_1d()
    pnp = make_pnp(problem, solver="hqs", depth=4).eval()
    x0 = problem.operator.initial(problem.data)
    torch.testing.assert_close(pnp(problem), solve(pnp.solver, problem, x0=x0, iterations=4).x)


@pytest.mark.cuda
@pytest.mark.parametrize("network", ["ista-net", "ista-net-plus", "fista-net", "pnp"])
def test_on_a_gpu_it_is_as_on_the_cpu(network: str) -> None:
    problem, truth = sampled_fourier(torch.complex128)
    made = host().get("networks", network)(problem, depth=3)
    there = Problem(problem.operator.to("cuda"), problem.data.cuda())
    copied = copy.deepcopy(made).cuda()
    error = (copied(there) - truth.cuda()).abs().square().mean()
    error.backward()
    here = Problem(problem.operator.to("cpu"), problem.data)
    expected = (made(here) - truth).abs().square().mean()
    expected.backward()
    torch.testing.assert_close(error.cpu(), expected)
    for p, q in zip(copied.parameters(), made.parameters(), strict=True):
        if q.grad is not None:
            torch.testing.assert_close(p.grad.cpu(), q.grad, rtol=1e-6, atol=1e-9)
