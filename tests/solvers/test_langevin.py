"""Langevin against posteriors in closed form, and by quadrature."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from labrecon.io.states import load_state, save_state
from labrecon.noise import Gaussian, Poisson
from labrecon.operator import LinearityError, Operator
from labrecon.operators import Diagonal, Identity, Matrix
from labrecon.prior import Prior
from labrecon.priors import L1, TV, NonNegative, Tikhonov
from labrecon.priors.denoisers import Denoiser
from labrecon.problem import Problem, SolverError
from labrecon.solver import solve
from labrecon.solvers.langevin import Langevin
from labrecon.space import Space

CHAINS, DIM = 2500, 4
WEIGHT, SIGMA = 0.7, 0.5


def gaussian_problem(
    sigma: float = SIGMA, weight: float = WEIGHT
) -> tuple[Problem, Tensor, Tensor]:
    """A problem, and precision and mean of its posterior with the prior ``½ weight ‖x‖²``."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(6, DIM, dtype=torch.float64, generator=generator)
    data = torch.randn(6, dtype=torch.float64, generator=generator)
    precision = matrix.T @ matrix / sigma**2 + weight * torch.eye(DIM, dtype=torch.float64)
    mean = torch.linalg.solve(precision, matrix.T @ data / sigma**2)
    return Problem(Matrix(matrix), data, Gaussian(sigma)), precision, mean


@torch.no_grad()
def sampled(
    problem: Problem, prior: Prior | None, *, iterations: int = 200, chains: int = CHAINS, **options
) -> Tensor:
    """The last sample of each of many chains: independent draws."""
    solver = Langevin(prior=prior, chains=chains, burn_in=0, **options)
    return solve(solver, problem, iterations=iterations, check_every=iterations).state.x


def assert_covariance(samples: Tensor, expected: Tensor) -> None:
    """Within 4.5 standard errors of Wishart: ``Var S_ij = (C_ii C_jj + C_ij²) / n``."""
    error = ((expected.diagonal().outer(expected.diagonal()) + expected**2) / len(samples)).sqrt()
    assert ((torch.cov(samples.T) - expected).abs() <= 4.5 * error).all()


def assert_mean(samples: Tensor, expected: Tensor, covariance: Tensor) -> None:
    error = (covariance.diagonal() / len(samples)).sqrt()
    assert ((samples.mean(0) - expected).abs() <= 4.5 * error).all()


def test_ula_has_the_biased_covariance_that_theory_gives():
    """Of ``x ← (I − δH) x + √(2δ) n``: ``C = (H (I − δH/2))⁻¹``, not the posterior's."""
    problem, precision, mean = gaussian_problem()
    step = 0.8 / float(torch.linalg.eigvalsh(precision)[-1])
    samples = sampled(problem, Tikhonov(WEIGHT), step_size=step)
    eye = torch.eye(DIM, dtype=torch.float64)
    expected = torch.linalg.inv(precision @ (eye - step / 2 * precision))
    assert_covariance(samples, expected)
    assert_mean(samples, mean, expected)
    with pytest.raises(AssertionError):
        assert_covariance(samples, torch.linalg.inv(precision))


def test_metropolis_has_the_covariance_of_the_posterior():
    problem, precision, mean = gaussian_problem()
    step = 0.8 / float(torch.linalg.eigvalsh(precision)[-1])
    solver = Langevin(
        prior=Tikhonov(WEIGHT), chains=CHAINS, burn_in=0, step_size=step, metropolis=True
    )
    solution = solve(solver, problem, iterations=200, check_every=200)
    assert 0.3 < solution.history[-1]["acceptance"] < 0.95
    covariance = torch.linalg.inv(precision)
    assert_covariance(solution.state.x, covariance)
    assert_mean(solution.state.x, mean, covariance)


def test_running_mean_and_deviation_are_those_of_the_samples():
    problem, precision, mean = gaussian_problem()
    solver = Langevin(prior=Tikhonov(WEIGHT), chains=400, burn_in=100, metropolis=True)
    state = solve(solver, problem, iterations=250, check_every=250).state
    assert state.kept == 150
    variance = torch.linalg.inv(precision).diagonal()
    error = (variance / state.mixing().effective).sqrt()
    assert ((solver.estimate(state) - mean).abs() <= 4.5 * error).all()
    torch.testing.assert_close(state.deviation() ** 2, variance, rtol=0.12, atol=0)


def test_burn_in_and_thinning_keep_what_they_say():
    problem, _, _ = gaussian_problem()
    solver = Langevin(prior=Tikhonov(WEIGHT), chains=3, burn_in=4, thinning=3)
    kept = []
    state = solver.init(problem)
    for _ in range(14):
        state, _ = solver.step(problem, state)
        if state.k in (7, 10, 13):
            kept.append(state.x)
    assert state.kept == 3
    torch.testing.assert_close(state.mean, torch.stack(kept).mean(0))
    torch.testing.assert_close(state.scatter, 2 * torch.stack(kept).var(0))
    between = state.mean.var(0)
    expected = (2 / 3 * torch.stack(kept).var(0).mean(0) + between).sqrt()
    torch.testing.assert_close(state.deviation(), expected)


# -- priors that are not smooth, and operators that are not linear -------------------------------

GRID = torch.linspace(-12, 12, 200_001, dtype=torch.float64)


def moments(potential: Tensor) -> tuple[float, float]:
    """Mean and variance of ``exp(−potential)`` on the grid."""
    density = torch.exp(potential.min() - potential)
    density = density / density.sum()
    mean = float((GRID * density).sum())
    return mean, float(((GRID - mean) ** 2 * density).sum())


def one_number(y: float, sigma: float = 1.0) -> Problem:
    return Problem(
        Identity(Space((1,), torch.float64)),
        torch.tensor([y], dtype=torch.float64),
        Gaussian(sigma),
    )


def assert_moments(samples: Tensor, mean: float, variance: float, slack: float = 0.0) -> None:
    n = samples.numel()
    assert abs(float(samples.mean()) - mean) <= 4.5 * math.sqrt(variance / n) + slack
    # The kurtosis of these densities is below 6.
    assert abs(float(samples.var()) / variance - 1) <= 4.5 * math.sqrt(5 / n) + slack


def test_the_envelope_of_l1_samples_the_envelope():
    """MYULA's target is ``exp(−D − g_λ)`` with ``g_λ`` Huber's function."""
    weight, smoothing = 2.0, 0.3
    huber = torch.where(
        GRID.abs() <= weight * smoothing,
        GRID**2 / (2 * smoothing),
        weight * GRID.abs() - weight**2 * smoothing / 2,
    )
    samples = sampled(
        one_number(1.5), L1(weight), smoothing=smoothing, step_size=0.01, iterations=700
    )
    # Of a step of 0.01 with curvature 1 to 4.3, the bias of the variance is below 2.2 %.
    assert_moments(samples, *moments((GRID - 1.5) ** 2 / 2 + huber), slack=0.022)


def test_a_narrow_envelope_is_near_the_laplace_posterior():
    exact = moments((GRID - 1.5) ** 2 / 2 + 2 * GRID.abs())
    samples = sampled(one_number(1.5), L1(2.0), smoothing=0.02, step_size=0.004, iterations=1500)
    assert_moments(samples, *exact, slack=0.05)


def test_proximal_metropolis_has_no_bias_of_the_envelope():
    """The wide envelope of the test above proposes; the Laplace posterior decides."""
    exact = moments((GRID - 1.5) ** 2 / 2 + 2 * GRID.abs())
    samples = sampled(one_number(1.5), L1(2.0), smoothing=0.3, step_size=0.2, metropolis=True)
    assert_moments(samples, *exact)


class Square(Operator):
    """``y = x²``."""

    linear = False

    def __init__(self) -> None:
        super().__init__(Space((1,), torch.float64), Space((1,), torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def test_a_nonlinear_operator():
    data = torch.tensor([1.2], dtype=torch.float64)
    problem = Problem(Square(), data, Gaussian(0.8))
    expected = moments((GRID**2 - 1.2) ** 2 / (2 * 0.64) + 0.5 * 0.5 * GRID**2)
    samples = sampled(problem, Tikhonov(0.5), step_size=0.1, metropolis=True)
    assert_moments(samples, *expected)
    with pytest.raises(LinearityError, match="step_size"):
        sampled(problem, Tikhonov(0.5), iterations=1)


class Shrink(nn.Module):
    """The denoiser of least mean square error for objects ``N(0, s²)`` in noise ``N(0, ε)``."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_the_right_denoiser_samples_the_gaussian_posterior():
    """Tweedie: ``(x − D(x))/ε = x / (s² + ε)``, the prior seen through the denoiser's noise."""
    variance, level = 1.3, 0.4
    # Noise so strong that the prior has its say.
    problem, precision, mean = gaussian_problem(3.0, 1 / (variance + level**2))
    denoiser = Denoiser(Shrink(variance / (variance + level**2)), axes=1)
    eye = torch.eye(DIM, dtype=torch.float64)
    step = 0.3 / float(torch.linalg.eigvalsh(precision)[-1])
    samples = sampled(problem, denoiser, noise_level=level, step_size=step, iterations=300)
    expected = torch.linalg.inv(precision @ (eye - step / 2 * precision))
    assert_covariance(samples, expected)
    assert_mean(samples, mean, expected)


def test_a_box_pulls_back_into_it():
    """The target is ``exp(−D(x) − dist(x, box)² / 2λ)`` with ``λ = 1 / 2L``."""
    bound = one_number(3.0).lipschitz()
    outside = (GRID - GRID.clamp(0, 1)) ** 2
    expected = moments((GRID - 3.0) ** 2 / 2 + bound * outside)
    samples = sampled(one_number(3.0), None, box=[0.0, 1.0], step_size=0.01, iterations=500)
    assert_moments(samples, *expected, slack=0.02)


def test_complex_objects():
    """The deviation is that of both parts together; noise is ``σ`` in each."""
    space = Space((1,), torch.complex128)
    data = torch.tensor([1 + 2j], dtype=torch.complex128)
    problem = Problem(Identity(space), data, Gaussian(0.5))
    solver = Langevin(prior=Tikhonov(2.0), chains=4000, burn_in=100, metropolis=True)
    state = solve(solver, problem, iterations=200, check_every=200).state
    precision = 1 / 0.25 + 2.0
    torch.testing.assert_close(solver.estimate(state), data * 4 / precision, rtol=0, atol=0.01)
    assert float(state.deviation()) == pytest.approx(math.sqrt(2 / precision), rel=0.02)
    parts = torch.view_as_real(state.x).var(0).flatten()
    torch.testing.assert_close(parts, torch.full_like(parts, 1 / precision), rtol=0.12, atol=0)


def test_each_element_of_a_batch_has_its_own_posterior():
    """And its own step size, where its weights are others."""
    data = torch.tensor([[2.0], [2.0], [-1.0]], dtype=torch.float64)
    weights = torch.tensor([[1.0], [100.0], [1.0]], dtype=torch.float64)
    problem = Problem(Identity(Space((1,), torch.float64)), data, Gaussian(1.0), weights)
    solver = Langevin(prior=Tikhonov(1.0), chains=2000, burn_in=50, metropolis=True)
    state = solve(solver, problem, iterations=150, check_every=150).state
    assert state.x.shape == (2000, 3, 1)
    assert state.deviation().shape == (3, 1)
    expected = weights * data / (weights + 1)
    torch.testing.assert_close(solver.estimate(state), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(state.deviation(), (weights + 1) ** -0.5, rtol=0.03, atol=0)


# -- whether the chains agree --------------------------------------------------------------------


def flat_problem(scales: list[float], repeats: int) -> Problem:
    values = torch.tensor(scales, dtype=torch.float64).repeat(repeats)
    operator = Diagonal(Space(values.shape, values.dtype), values)
    return Problem(operator, torch.zeros_like(values), Gaussian(1.0))


def test_rhat_sees_chains_that_have_not_forgotten_where_they_began():
    solver = Langevin(chains=4, burn_in=50)
    problem = flat_problem([1.0, 0.02], 50)
    problem = dataclasses.replace(problem, data=problem.data + 1.0)
    short = solve(solver, problem, iterations=450).state.mixing()
    assert short.rhat > 1.2
    assert short.effective < 20
    solver = Langevin(chains=4, burn_in=50)
    quick = solve(solver, flat_problem([1.0, 0.5], 50), iterations=2000).state.mixing()
    assert quick.rhat < 1.02
    assert quick.rhat <= quick.rhat_worst < 1.1


def test_chains_that_start_together_drift_together():
    """What dispersion is for: without it R-hat sees nothing."""
    problem = flat_problem([0.01], 100)
    problem = dataclasses.replace(problem, data=problem.data + 1.0)
    x0 = torch.full((100,), 60.0, dtype=torch.float64)
    close = Langevin(chains=4, burn_in=0, dispersion=0.0, step_size=1.0)
    apart = Langevin(chains=4, burn_in=0, step_size=1.0)
    rhats = [
        solve(solver, problem, x0=x0, iterations=400).state.mixing().rhat
        for solver in (close, apart)
    ]
    assert rhats[1] > 1.5 * rhats[0]


def test_effective_samples_are_those_of_the_autoregression():
    """A Gaussian under ULA is AR(1) with ``ρ = 1 − δλ``: ``n (1 − ρ) / (1 + ρ)``."""
    solver = Langevin(chains=4, burn_in=200, step_size=0.1)
    mixing = solve(solver, flat_problem([1.0], 500), iterations=1200).state.mixing()
    expected = 4 * 1000 * 0.1 / 1.9
    assert mixing.effective == pytest.approx(expected, rel=0.15)


def test_one_chain_says_nothing_of_mixing():
    solver = Langevin(chains=1, burn_in=5)
    state = solve(solver, flat_problem([1.0], 3), iterations=50).state
    assert state.mixing() is None
    torch.testing.assert_close(state.deviation() ** 2, 44 / 45 * state.scatter[0] / 44)


# -- what every solver promises --------------------------------------------------------------------

CASES = {
    "ula": Langevin(prior=Tikhonov(0.3), burn_in=2, thinning=2),
    "mala": Langevin(prior=Tikhonov(0.3), burn_in=2, metropolis=True),
    "myula": Langevin(prior=TV(0.3, ndim=1), burn_in=2, seed=5),
    "pnp": Langevin(prior=Denoiser(Shrink(0.9), axes=1), noise_level=0.5, box=[-1, 1], burn_in=2),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stop", [1, 4])
def test_resuming_gives_the_same_bits(name, stop, tmp_path):
    solver, (problem, _, _) = CASES[name], gaussian_problem()
    through = solve(solver, problem, iterations=9, check_every=4).state
    save_state(tmp_path / "state", solve(solver, problem, iterations=stop, check_every=4).state)
    state = load_state(tmp_path / "state", solver.state_type)
    resumed = solve(solver, problem, state=state, iterations=9, check_every=4).state
    assert resumed.numbers() == through.numbers()
    for key, tensor in through.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[key]), key


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_pure_and_leaves_the_global_generator_alone(name):
    solver, (problem, _, _) = CASES[name], gaussian_problem()
    before = torch.random.get_rng_state()
    state = solve(solver, problem, iterations=4).state
    copies = {key: tensor.clone() for key, tensor in state.tensors().items()}
    first, second = (solver.step(problem, state)[0] for _ in range(2))
    for key, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[key]), key
        assert torch.equal(state.tensors()[key], copies[key]), key
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_gives_other_samples():
    problem, _, _ = gaussian_problem()
    first, second = (
        sampled(problem, Tikhonov(0.3), chains=2, iterations=3, seed=seed) for seed in (0, 1)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"chains": 0}, "chains"),
        ({"burn_in": -1}, "burn_in"),
        ({"thinning": 0}, "thinning"),
        ({"step_size": 0.0}, "step_size"),
        ({"smoothing": -1.0}, "smoothing"),
        ({"box": [1.0, 0.0]}, "box: high"),
        ({"box": [1.0]}, r"box is \[low, high\]"),
        ({"metropolis": "yes"}, "metropolis"),
        ({"seed": -1}, "seed"),
        ({"noise_level": 0.1}, "noise_level is for a denoiser, and the prior is Zero"),
        ({"prior": Denoiser(Shrink(0.9))}, "give noise_level"),
        ({"prior": Denoiser(Shrink(0.9)), "noise_level": 0.1, "smoothing": 1.0}, "smoothing is"),
        ({"prior": Denoiser(Shrink(0.9)), "noise_level": 0.1, "metropolis": True}, "density"),
        ({"metropolis": True, "box": [0.0, 1.0]}, "density"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(SolverError, match=told):
        Langevin(**options)


def test_what_can_not_be_sampled_is_refused():
    problem, _, _ = gaussian_problem()
    state = solve(Langevin(burn_in=20), problem, iterations=20).state
    with pytest.raises(SolverError, match="0 samples were kept of 20 iterations"):
        state.deviation()
    with pytest.raises(SolverError, match="does not allow where the chains start"):
        sampled(problem, NonNegative(), metropolis=True, chains=3)
    counts = Problem(Identity(Space((2,))), torch.ones(2), Poisson())
    with pytest.raises(SolverError, match="give smoothing"):
        sampled(counts, L1(0.1), step_size=0.1, chains=2)
    spectrum = Problem(Identity(Space((2,), torch.complex64)), torch.ones(2, dtype=torch.complex64))
    with pytest.raises(SolverError, match="no meaning for complex objects"):
        sampled(spectrum, None, box=[0.0, 1.0], chains=2)
