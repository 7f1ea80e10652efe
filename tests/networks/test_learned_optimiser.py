"""Learned steps and momentum: as good as Chebyshev's polynomials, safe beyond their training."""

from __future__ import annotations

import math

import pytest
import torch
from learned_iteration_cases import CASES, fall_of_loss
from torch import Tensor

from labrecon.networks import Unrolled
from labrecon.networks.learned_momentum import LearnedMomentum, make_learned_momentum
from labrecon.operators import Diagonal, Matrix
from labrecon.plugins import host
from labrecon.priors import L1, NonNegative
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solver import DivergenceError, SolverError, solve
from labrecon.solvers import FISTA, GradientDescent
from labrecon.space import Space

F64 = torch.float64
SMALLEST, LARGEST, STEPS = 0.05, 1.0, 6
#: Where the map of [μ, L] to [−1, 1] sends 0.
AT_ZERO = (LARGEST + SMALLEST) / (LARGEST - SMALLEST)


def chebyshev(k: int) -> float:
    """``T_k`` at the place of 0."""
    return math.cosh(k * math.acosh(AT_ZERO))


#: The least mean of ``p(λ)²`` over the arcsine law, ``p`` of degree K with ``p(0) = 1``:
#: Christoffel's function ``1 / Σ q_k(0)²`` of the orthonormal polynomials ``1, √2 T_k``.
BEST_MEAN = 1 / (1 + 2 * sum(chebyshev(k) ** 2 for k in range(1, STEPS + 1)))
#: The least maximum of ``|p(λ)|`` over [μ, L].
BEST_WORST = 1 / chebyshev(STEPS)


def nodes(n: int) -> Tensor:
    """Curvatures of the arcsine law: means over them are exact for polynomials below degree 2n."""
    angles = (torch.arange(n, dtype=F64) + 0.5) * math.pi / n
    return (LARGEST + SMALLEST) / 2 + (LARGEST - SMALLEST) / 2 * angles.cos()


def quadratic(curvatures: Tensor, truth: Tensor) -> Problem:
    operator = Diagonal(Space(curvatures.shape, F64), curvatures.sqrt())
    return Problem(operator, operator(truth))


def errors(net: Unrolled, curvatures: Tensor) -> Tensor:
    """``|p(λ)|``, what is left of an error of 1."""
    truth = torch.ones_like(curvatures)
    with torch.no_grad():
        return (net(quadratic(curvatures, truth)) - truth).abs()


def untrained(**options) -> Unrolled:
    problem = quadratic(nodes(8), torch.ones(8, dtype=F64))
    return make_learned_momentum(problem, depth=STEPS, start="zero", **options)


def trained(net: Unrolled, curvatures: Tensor, power: float = 2, iterations: int = 150) -> Unrolled:
    """By L-BFGS on signs at random, whose error is ``|p(λ)|`` whatever the sign."""
    signs = torch.randint(2, (4, *curvatures.shape), generator=torch.Generator().manual_seed(1))
    truth = 2.0 * signs.to(F64) - 1
    problem = quadratic(curvatures, truth)
    optimiser = torch.optim.LBFGS(
        net.parameters(), max_iter=iterations, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (net(problem) - truth).abs().pow(power).mean().pow(1 / power).log()
        loss.backward()
        return loss

    optimiser.step(closure)
    return net


@pytest.fixture(scope="module", params=[False, True], ids=["heavy ball", "nesterov"])
def learned(request) -> Unrolled:
    return trained(untrained(nesterov=request.param), nodes(24))


def test_the_mean_error_is_christoffels(learned: Unrolled) -> None:
    mean = float(errors(learned, nodes(200)).square().mean())
    assert BEST_MEAN * (1 - 1e-9) <= mean < 1.01 * BEST_MEAN


def test_the_worst_error_is_chebyshevs() -> None:
    net = untrained()
    for power in (2, 8, 32):
        trained(net, nodes(60), power)
    grid = torch.linspace(SMALLEST, LARGEST, 2000, dtype=F64)
    assert BEST_WORST * (1 - 1e-6) <= float(errors(net, grid).max()) < 1.08 * BEST_WORST


def test_better_than_the_best_of_fixed_numbers(learned: Unrolled) -> None:
    """Polyak's, the best in the long run, and the best of a grid for so many steps."""
    roots = SMALLEST**0.5 + LARGEST**0.5
    polyak = (4 / roots**2, ((LARGEST**0.5 - SMALLEST**0.5) / roots) ** 2)
    grid = [(t, b) for t in torch.linspace(0.5, 3, 11).tolist() for b in (0, 0.2, 0.4, 0.6)]
    means = []
    for step, momentum in [polyak, *grid]:
        fixed = Unrolled(GradientDescent(step_size=step, momentum=momentum), STEPS)
        means.append(float(errors(fixed, nodes(200)).square().mean()))
    assert min(means) > 1.5 * BEST_MEAN
    assert float(errors(learned, nodes(200)).square().mean()) < 0.7 * min(means)


def test_it_holds_for_unseen_problems_of_the_same_spectrum(learned: Unrolled) -> None:
    """Dense matrices with turned singular vectors and other curvatures of the same law."""
    generator = torch.Generator().manual_seed(5)
    angles = math.pi * torch.rand(40, dtype=F64, generator=generator)
    curvatures = (LARGEST + SMALLEST) / 2 + (LARGEST - SMALLEST) / 2 * angles.cos()
    left, right = (
        torch.linalg.qr(torch.randn(40, 40, dtype=F64, generator=generator))[0] for _ in range(2)
    )
    operator = Matrix(left @ torch.diag(curvatures.sqrt()) @ right.mT)
    truth = torch.randn(300, 40, dtype=F64, generator=generator)
    made = learned(Problem(operator, operator(truth))).detach()
    mean = float((made - truth).square().sum() / truth.square().sum())
    assert mean == pytest.approx(BEST_MEAN, rel=0.25)


def test_chebyshevs_numbers_give_chebyshevs_polynomial() -> None:
    """The recurrence of the scaled ``T_k`` written as steps and momenta."""
    steps, momenta = [2 / (LARGEST + SMALLEST)], [0.5]
    for k in range(1, STEPS):
        ratio = chebyshev(k) / chebyshev(k + 1)
        steps.append(4 / (LARGEST - SMALLEST) * ratio)
        momenta.append(chebyshev(k - 1) / chebyshev(k + 1))
    solver = LearnedMomentum(
        step_size=Schedule(steps), momentum=Schedule(momenta, constraint="unit"), cycle=STEPS
    ).double()
    grid = torch.linspace(SMALLEST, LARGEST, 500, dtype=F64)
    left = errors(Unrolled(solver, STEPS), grid)
    place = (LARGEST + SMALLEST - 2 * grid) / (LARGEST - SMALLEST)
    expected = torch.cos(STEPS * torch.acos(place.clamp(-1, 1))).abs() / chebyshev(STEPS)
    torch.testing.assert_close(left, expected, rtol=1e-5, atol=1e-6)


# -- beyond the steps of the training ----------------------------------------------------------


def test_cycles_go_on_where_they_are_good(learned: Unrolled) -> None:
    """Each multiplies the error by the same polynomial."""
    curvatures = nodes(50)
    truth = torch.ones(50, dtype=F64)
    once = errors(learned, curvatures)
    solver = learned.solver
    made = solve(solver, quadratic(curvatures, truth), iterations=4 * STEPS, check_every=STEPS)
    torch.testing.assert_close((made.x - truth).abs(), once**4, rtol=1e-6, atol=1e-12)
    assert not bool(made.state.plain.any())


def test_a_problem_it_was_not_trained_for_is_solved_all_the_same(learned: Unrolled) -> None:
    """Twice the curvature: the learned steps alone diverge, the checked ones do not."""
    curvatures = 2.2 * nodes(50)
    truth = torch.ones(50, dtype=F64)
    problem = quadratic(curvatures, truth)
    solver = learned.solver
    repeated = LearnedMomentum(
        step_size=solver.step_size, momentum=solver.momentum, cycle=STEPS, nesterov=solver.nesterov
    )
    state = repeated.init(problem)
    for _ in range(40 * STEPS):
        # As without the check: no cycle is the first one's successor.
        state, _ = repeated.step(problem, state.replace(k=state.k % STEPS))
    assert not float((state.x - truth).abs().max().detach()) < 1e3
    made = solve(solver, problem, iterations=80 * STEPS, check_every=STEPS)
    plain = solve(GradientDescent(), problem, iterations=40 * STEPS)
    torch.testing.assert_close(made.x, truth, rtol=0, atol=2 * float((plain.x - truth).abs().max()))


def test_each_batch_element_is_judged_for_itself(learned: Unrolled) -> None:
    solver = learned.solver
    truth = torch.ones(3, 50, dtype=F64)
    gains = torch.tensor([1.0, 2.2, 1.0], dtype=F64)[:, None]
    operator = Diagonal(Space((50,), F64), nodes(50).sqrt())
    # Weights of the data make the curvature an element's own.
    problem = Problem(operator, operator(truth), weights=gains.expand(3, 50))
    made = solve(solver, problem, iterations=STEPS + 1)
    assert made.state.plain.tolist() == [False, True, False]
    for one in range(3):
        alone = Problem(operator, problem.data[one], weights=problem.weights[one])
        x = solve(solver, alone, iterations=STEPS + 1).x
        torch.testing.assert_close(made.x[one], x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("prior", [L1(0.05), NonNegative()], ids=["l1", "nonneg"])
def test_with_a_prior_it_ends_where_fista_ends(prior, learned: Unrolled) -> None:
    generator = torch.Generator().manual_seed(3)
    operator = Matrix(torch.randn(60, 12, dtype=F64, generator=generator))
    truth = torch.randn(2, 12, dtype=F64, generator=generator)
    problem = Problem(operator, operator(truth) + 0.1)
    numbers = learned.solver
    solver = LearnedMomentum(
        step_size=numbers.step_size, momentum=numbers.momentum, cycle=STEPS, prior=prior
    )
    expected = solve(FISTA(prior=prior), problem, iterations=300).x
    made = solve(solver, problem, iterations=50 * STEPS)
    torch.testing.assert_close(made.x, expected, rtol=1e-6, atol=1e-8)


def test_it_begins_as_nesterovs_method() -> None:
    """``βₖ = k / (k + 3)``; the first has no effect."""
    problem = quadratic(nodes(8), torch.ones(8, dtype=F64))
    net = make_learned_momentum(problem, depth=5, nesterov=True, start="zero")
    step = 1 / float(problem.lipschitz())
    x = before = torch.zeros(8, dtype=F64)
    for k in range(5):
        v = x + k / (k + 3) * (x - before)
        x, before = v - step * problem.gradient(v), x
    torch.testing.assert_close(net(problem).detach(), x, rtol=1e-6, atol=1e-7)


# -- as a network ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_any_operator_will_do_and_a_step_down_the_gradient_helps(name: str) -> None:
    problem, truth = CASES[name]()
    net = make_learned_momentum(problem, depth=4, prior="l1")
    estimate = net(problem)
    assert (estimate.shape, estimate.dtype) == (truth.shape, truth.dtype)
    before, after = fall_of_loss(net, problem, truth)
    assert after < before


def test_a_weight_can_be_learned_besides_and_decides_where_it_ends() -> None:
    """One for all layers: with one each, checked cycles would end at the solution of none."""
    generator = torch.Generator().manual_seed(3)
    operator = Matrix(torch.randn(60, 12, dtype=F64, generator=generator))
    truth = torch.randn(2, 12, dtype=F64, generator=generator)
    problem = Problem(operator, operator(truth) + 0.1)
    net = make_learned_momentum(problem, depth=3, prior="l1", learn=["prior.weight"])
    (net(problem) - truth).square().sum().backward()
    (weight,) = [p for name, p in net.named_parameters() if "prior" in name]
    assert abs(float(weight.grad)) > 0
    with torch.no_grad():
        weight += 2
    prior = L1(float(net.solver.prior.weight.detach()))
    expected = solve(FISTA(prior=prior), problem, iterations=300).x
    made = solve(net.solver, problem, iterations=200).x
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)


def test_a_prior_per_layer_is_refused() -> None:
    problem, _ = CASES["real 1D"]()
    net = make_learned_momentum(problem, depth=3, prior="l1")
    several = Unrolled(net.solver, 3, learn=["prior.weight"])
    with pytest.raises(SolverError, match="tied"):
        several(problem)


def test_a_diverging_start_is_told() -> None:
    problem = quadratic(nodes(8), torch.ones(8, dtype=F64))
    net = make_learned_momentum(problem, depth=200, step_size=1e3)
    with pytest.raises(DivergenceError, match="step size"):
        solve(net.solver, problem, iterations=200)


def test_it_is_registered() -> None:
    assert host().get("networks", "learned-momentum") is make_learned_momentum


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"depth": 0}, "depth"),
        ({"step_size": -1.0}, "step_size"),
        ({"nesterov": "yes"}, "nesterov"),
        ({"learn": ["rho"]}, "rho"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make_learned_momentum(CASES["real 1D"]()[0], **options)


@pytest.mark.parametrize("options", [{"cycle": 0}, {"cycle": 3, "decrease": 1.0}])
def test_wrong_numbers_are_refused(options: dict) -> None:
    with pytest.raises(SolverError):
        LearnedMomentum(step_size=Schedule(1.0), momentum=Schedule(0.5), **options)
