"""Jacobian-free training of each kind of step: gradient, proximal gradient, ADMM and HQS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from learned_iteration_cases import CASES, objects
from torch import Tensor

from labrecon.networks.deep_equilibrium import RegularisedGradient, make_de_grad, make_de_prox
from labrecon.networks.deep_splitting import make_de_admm, make_de_hqs
from labrecon.networks.equilibrium import Equilibrium
from labrecon.networks.unrolled import Unrolled
from labrecon.noise import Poisson
from labrecon.operators import Diagonal, Fourier, Matrix
from labrecon.plugins import host
from labrecon.prior import Prior
from labrecon.priors import L1, Tikhonov
from labrecon.problem import Problem
from labrecon.solver import Solver, SolverError
from labrecon.solvers import ADMM, HQS, ISTA
from labrecon.space import Space

F64 = torch.float64
NETS = {
    "de-grad": make_de_grad,
    "de-prox": make_de_prox,
    "de-admm": make_de_admm,
    "de-hqs": make_de_hqs,
}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)
splitting = pytest.mark.parametrize("make", [make_de_admm, make_de_hqs], ids=["admm", "hqs"])
SMALL: dict[str, Any] = {"layers": 3, "features": 4, "iterations": 200, "tolerance": 1e-4}
START: dict[str, Any] = {"start": "initial"}

Make = Callable[..., Equilibrium]
Case = Callable[..., tuple[Problem, Tensor]]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def real_line() -> tuple[Problem, Tensor]:
    """Untrained denoisers leave what an operator does not see to itself: all is seen here."""
    truth = objects(2, 12, dtype=F64)
    generator = torch.Generator().manual_seed(7)
    matrix = torch.randn(60, 12, dtype=F64, generator=generator) / 60**0.5
    operator = Matrix(matrix)
    return Problem(operator, operator(truth)), truth


def complex_image() -> tuple[Problem, Tensor]:
    truth = objects(2, 5, 6, dtype=torch.complex128)
    operator = 0.8 * Fourier(Space((5, 6), torch.complex128))
    return Problem(operator, operator(truth)), truth


every_case = pytest.mark.parametrize("case", [real_line, complex_image])


# -- against closed forms ----------------------------------------------------------------------

GAINS = torch.tensor([0.4, 0.7, 1.0, 1.3], dtype=F64)
DATA = torch.tensor([1.0, -0.6, 0.3, 2.0], dtype=F64)
TRUTH = torch.tensor([0.5, 0.2, -0.4, 1.0], dtype=F64)
WEIGHT = torch.tensor([0.3, 0.1, 0.5, 0.2], dtype=F64)
STEP, COUPLING = 0.4, 0.6


@dataclass(frozen=True)
class Known:
    """A diagonal operator with Tikhonov's prior, whose fixed point is ``z = a y / D``.

    Attributes:
        solver: from the prior.
        divisor: ``D``.
        slope: ``∂D/∂w``, so that the true ``∂z/∂w = −z D′ / D``.
        attached: the same of one step from the fixed point, in units of ``−z``.
    """

    solver: Callable[[Prior], Solver]
    divisor: Tensor
    slope: Tensor
    attached: Tensor


KNOWN = {
    "gradient": Known(
        lambda prior: RegularisedGradient(prior=prior, step_size=STEP, weight=COUPLING),
        GAINS**2 + COUPLING * WEIGHT / (1 + WEIGHT),
        COUPLING / (1 + WEIGHT) ** 2,
        STEP * COUPLING / (1 + WEIGHT) ** 2,
    ),
    "proximal gradient": Known(
        lambda prior: ISTA(prior=prior, step_size=STEP),
        GAINS**2 + WEIGHT,
        torch.ones(4, dtype=F64),
        1 / (1 / STEP + WEIGHT),
    ),
    "admm": Known(
        lambda prior: ADMM(prior=prior, rho=COUPLING),
        GAINS**2 + WEIGHT,
        torch.ones(4, dtype=F64),
        1 / (COUPLING + WEIGHT),
    ),
    "hqs": Known(
        lambda prior: HQS(prior=prior, mu=COUPLING),
        GAINS**2 * (1 + WEIGHT / COUPLING) + WEIGHT,
        GAINS**2 / COUPLING + 1,
        1 / (COUPLING + WEIGHT),
    ),
}


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("find", ["picard", "anderson", "broyden"])
def test_gradients_by_the_weight_of_a_prior_in_closed_form(known: Known, find: str) -> None:
    operator = Diagonal(Space((4,), F64), GAINS)
    weight = WEIGHT.clone().requires_grad_()
    options = {"find": find, "iterations": 3000, "tolerance": 1e-13}
    z = GAINS * DATA / known.divisor
    expected = {
        "implicit": -(z - TRUTH) * z * known.slope / known.divisor,
        "jfb": -(z - TRUTH) * z * known.attached,
    }
    for backward, gradient in expected.items():
        net = Equilibrium(known.solver(Tikhonov(weight)), backward=backward, **options)
        x = net(Problem(operator, DATA))
        torch.testing.assert_close(x.detach(), z, rtol=1e-9, atol=1e-9)
        (g,) = torch.autograd.grad(0.5 * (x - TRUTH).square().sum(), weight)
        torch.testing.assert_close(g, gradient, rtol=1e-8, atol=1e-10)
    assert cosine(expected["jfb"], expected["implicit"]) > 0.5


# -- with denoising networks -------------------------------------------------------------------


@every_net
@every_case
def test_the_attached_step_points_with_the_gradient_and_reaches_every_parameter(
    make: Make, case: Case
) -> None:
    problem, truth = case()
    net = make(problem, **SMALL)
    found = {}
    for backward in ("jfb", "implicit"):
        same = Equilibrium(net.solver, backward=backward, iterations=300, tolerance=1e-9, **START)
        loss = (same(problem) - truth).abs().square().mean()
        parts = torch.autograd.grad(loss, list(net.parameters()))
        assert all(float(part.abs().max()) > 0 for part in parts)
        found[backward] = torch.cat([part.flatten() for part in parts])
    assert cosine(found["jfb"], found["implicit"]) > 0


@pytest.mark.slow
@every_net
def test_jacobian_free_steps_descend(make: Make) -> None:
    """Towards a smoother object than was measured, from three seeds."""
    problem, truth = real_line()
    target = 0.8 * truth
    for seed in (1, 2, 3):
        net = make(problem, backward="jfb", seed=seed, **{**SMALL, "iterations": 12})
        net.on_failure = "ignore"
        optimiser = torch.optim.Adam(net.parameters(), 3e-3)
        losses = []
        for _ in range(50):
            loss = (net(problem) - target).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert sum(losses[-15:]) < 0.9 * sum(losses[:15]), seed


@every_net
@pytest.mark.parametrize("backward", ["jfb", "implicit"])
def test_a_training_step_keeps_as_much_whatever_the_iterations(make: Make, backward: str) -> None:
    problem, _ = real_line()
    net = make(problem, backward=backward, layers=3, features=4)

    def saved(iterations: int) -> int:
        same = Equilibrium(
            net.solver,
            backward=backward,
            iterations=iterations,
            tolerance=1e-30,
            on_failure="ignore",
        )
        sizes: list[int] = []

        def pack(t: Tensor) -> Tensor:
            sizes.append(t.numel() * t.element_size())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            same(problem).abs().square().sum().backward()
        assert sizes
        return sum(sizes)

    assert saved(3) == saved(12)


# -- the splitting networks --------------------------------------------------------------------


@splitting
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_over_any_operator(make: Make, case: Case) -> None:
    problem, truth = case()
    net = make(problem, layers=3, features=4, backward="jfb", iterations=3, inner=3)
    net.on_failure = "ignore"
    found = net.reconstruct(problem)
    assert found.x.shape == truth.shape
    assert found.x.dtype == truth.dtype
    found.x.abs().square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@every_case
def test_de_admm_and_de_prox_have_the_same_fixed_points(case: Case) -> None:
    """``∇D(x) = −ρ u`` makes ``z = P(x + u)`` a proximal gradient step of size ``1/ρ``."""
    problem, _ = case()
    options = {**SMALL, "iterations": 300, "tolerance": 1e-10, "seed": 3}
    split = make_de_admm(problem, coupling=1.25, **options).eval()
    stepped = make_de_prox(problem, step=0.8, **options).eval()
    torch.testing.assert_close(split(problem), stepped(problem), rtol=1e-6, atol=1e-7)


def test_fixed_point_of_de_hqs() -> None:
    """The data step of it, by a dense solve, leads through the denoiser back to it."""
    problem, _ = real_line()
    options = {**SMALL, "iterations": 300, "tolerance": 1e-10, "inner": 30}
    net = make_de_hqs(problem, **options).eval()
    z = net(problem).detach()
    matrix = problem.operator(torch.eye(12, dtype=F64)).mT
    mu = 0.25 * float(problem.lipschitz())
    system = matrix.mT @ matrix + mu * torch.eye(12, dtype=F64)
    x = torch.linalg.solve(system, (problem.data @ matrix + mu * z).mT).mT
    torch.testing.assert_close(net.solver.prior.prox(x, 1.0).detach(), z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [ADMM, HQS])
def test_gradients_stay_finite_where_the_data_step_has_long_converged(make: Any) -> None:
    """Twenty conjugate-gradient steps where five do: residuals whose inverse square overflows."""
    space = Space((5, 6), torch.complex64)
    gains = torch.linspace(0.95, 1, 30).reshape(5, 6).to(space.dtype)
    operator = Fourier(space) @ Diagonal(space, gains)
    data = operator.range.random(2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = Unrolled(make(prior=L1(0.1), inner=20), 3)(Problem(operator, data))
    (gradient,) = torch.autograd.grad(x.abs().square().sum(), data)
    assert bool(torch.view_as_real(gradient).isfinite().all())
    assert float(gradient.abs().max()) > 0


def test_they_are_registered() -> None:
    for name, make in NETS.items():
        assert host().get("networks", name) is make


@splitting
@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_scale_of_object_and_operator_drop_out(make: Make, factor: float) -> None:
    problem, _ = real_line()
    options = {**SMALL, "tolerance": 1e-6}
    expected = make(problem, **options)(problem).detach()
    operator = problem.operator
    larger = Problem(operator, factor * problem.data)
    ours = make(larger, scale=factor, **options)(larger).detach()
    torch.testing.assert_close(ours / factor, expected, rtol=1e-3, atol=1e-3)
    gained = Problem(factor * operator, factor * problem.data)
    ours = make(gained, **options)(gained).detach()
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@splitting
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"coupling": 0.0}, "coupling"),
        ({"inner": 0}, "inner"),
        ({"layers": 1}, "depth"),
        ({"scale": -1.0}, "scale"),
        ({"backward": "no"}, "backward"),
    ],
)
def test_wrong_options_are_refused_by_name(make: Make, options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(real_line()[0], **{**SMALL, **options})


@splitting
def test_counts_are_refused_before_training(make: Make) -> None:
    """The data step is a least-squares solve."""
    problem, _ = real_line()
    counts = Problem(problem.operator, 1 + problem.data.abs(), Poisson(1.0))
    with pytest.raises(SolverError, match="Gaussian"):
        make(counts, **SMALL)
    net = make(problem, **SMALL)
    with pytest.raises(SolverError, match="Gaussian"):
        net(counts)
