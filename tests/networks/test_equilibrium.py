"""Equilibria of every solver: the same solution, and the gradient of an endless unrolled net."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from solver_cases import CASES, COLUMNS, ROWS, Case, Dense, nominal_matrix
from torch import Tensor, nn

from labrecon.networks import Unrolled
from labrecon.networks.equilibrium import Equilibrium
from labrecon.networks.fixed_point import ConvergenceError, ConvergenceWarning
from labrecon.operators import Convolution, Fourier, Identity, MaskedFourier
from labrecon.prior import soft_threshold
from labrecon.priors import L1
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstruction
from labrecon.schedule import Schedule
from labrecon.solver import DivergenceError, Solver, SolverError, State, solve
from labrecon.solvers import ADMM, CG, FISTA, HQS, ISTA, GradientDescent
from labrecon.space import Space

FINDERS = ("picard", "anderson", "broyden")
every_finder = pytest.mark.parametrize("find", FINDERS)
every_solver = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

F64 = torch.float64


def random(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def flat_gradient(loss: Tensor, inputs: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    pairs = zip(inputs, found, strict=True)
    return torch.cat([(torch.zeros_like(t) if g is None else g).flatten() for t, g in pairs])


# -- all solvers -------------------------------------------------------------------------------


def conditioned_matrix() -> Tensor:
    """Non-negative, and well enough conditioned for 2000 steps of any method to converge."""
    return nominal_matrix() + 2 * torch.eye(ROWS, COLUMNS, dtype=F64)


def case_gradient(case: Case, make: Callable[[Solver], Any]) -> tuple[Reconstruction, Tensor]:
    """By data, matrix (a value given to `at`) and weight of the prior, none of them a leaf."""
    matrix = conditioned_matrix()
    data = random(3, COLUMNS).abs() @ matrix.mT
    leaves = [t.clone().requires_grad_() for t in (data, matrix, torch.tensor(0.05, dtype=F64))]
    data, matrix, weight = (1 * leaf for leaf in leaves)
    solver = case.solver(weight)
    if isinstance(solver, HQS):
        # A coupling that grows for ever has no fixed point; an equilibrium holds it.
        solver.growth = 1.0
    reconstruction = make(solver).reconstruct(case.problem(data, matrix))
    loss = (reconstruction.x - torch.linspace(0, 1, COLUMNS, dtype=F64)).square().sum()
    return reconstruction, flat_gradient(loss, leaves)


def unrolled(case: Case, depth: int) -> Callable[[Solver], Unrolled]:
    if case.name == "cg":
        # At the solution after as many steps as there are unknowns; beyond, rounding errors are
        # divided by each other, also in the derivative.
        depth = COLUMNS
    if case.name in ("admm", "admm-tv", "hqs"):
        # Four inner iterations each: dear, and converged long before (0.9 per layer).
        depth = min(depth, 400)
    return lambda solver: Unrolled(solver, depth)


@pytest.mark.slow
@every_solver
def test_gradients_are_those_of_2000_tied_layers(case: Case) -> None:
    reference, expected = case_gradient(case, unrolled(case, 2000))
    options = {"iterations": 4000, "tolerance": 1e-11}
    for find in FINDERS:
        if case.name == "mlem" and find == "broyden":
            # A sample at 0 is a fixed point of a multiplicative step, wherever the solution is.
            continue
        found, ours = case_gradient(case, lambda s: Equilibrium(s, find=find, **options))  # noqa: B023
        assert found.status == "done", find
        assert error(found.x.detach(), reference.x.detach()) < 1e-6
        assert cosine(ours, expected) > 0.9999
        assert error(ours, expected) < 1e-5
    _, jfb = case_gradient(case, lambda s: Equilibrium(s, backward="jfb", **options))
    _, phantom = case_gradient(case, lambda s: Equilibrium(s, backward="phantom", **options))
    assert cosine(jfb, expected) > 0.4
    assert cosine(phantom, expected) >= cosine(jfb, expected) - 1e-9
    assert cosine(phantom, expected) > 0.8


@every_solver
def test_the_fixed_point_is_the_solution(case: Case) -> None:
    solver = case.solver()
    if case.name == "hqs":
        solver.growth = 1.0
    matrix = conditioned_matrix()
    problem = case.problem(random(2, COLUMNS).abs() @ matrix.mT, matrix)
    expected = solve(solver, problem, iterations=1000, check_every=100, tolerance=1e-12).x
    net = Equilibrium(solver, tolerance=1e-9, iterations=500)
    found = net.reconstruct(problem)
    assert found.status == "done"
    assert found.told["residual"] <= 1e-9
    assert error(found.x, expected) < 1e-6
    assert torch.equal(net(problem), found.x)


# -- the map of systems.md, 23 B ---------------------------------------------------------------


@dataclass(frozen=True)
class Vector(State):
    x: Tensor


class TanhMap(Solver):
    """``T(z) = γ tanh(W z) + U y`` with ``‖W‖ = 1``: a contraction by γ."""

    def __init__(self, gamma: float, n: int = 20) -> None:
        super().__init__()
        w = random(n, n, seed=1)
        self.gamma = gamma
        self.w = nn.Parameter(w / torch.linalg.matrix_norm(w, 2))
        self.u = nn.Parameter(0.5 * random(n, n, seed=2))

    def init(self, problem: Problem, x0: Tensor | None = None) -> Vector:
        return Vector(0, self.start(problem, x0))

    def step(self, problem: Problem, state: Vector) -> tuple[Vector, dict[str, Any]]:
        x = self.gamma * torch.tanh(state.x @ self.w.mT) + problem.data @ self.u.mT
        return Vector(state.k + 1, x), {}


def tanh_problem(samples: int = 16, n: int = 20) -> Problem:
    return Problem(Identity(Space((n,), F64)), random(samples, n, seed=3))


def tanh_gradient(make: Callable[[Solver], Any], gamma: float) -> Tensor:
    solver = TanhMap(gamma)
    x = make(solver)(tanh_problem())
    return flat_gradient((x - random(16, 20, seed=4)).square().sum(), [solver.w, solver.u])


EXACT = {"iterations": 3000, "tolerance": 1e-13}


@pytest.mark.parametrize("gamma", [0.3, 0.6, 0.9, 0.99])
def test_implicit_jfb_and_neumann_gradients_of_a_known_contraction(gamma: float) -> None:
    expected = tanh_gradient(lambda s: Unrolled(s, 400), gamma)
    for find in FINDERS:
        ours = tanh_gradient(lambda s: Equilibrium(s, find=find, **EXACT), gamma)  # noqa: B023
        assert error(ours, expected) < 1e-9
    jfb = tanh_gradient(lambda s: Equilibrium(s, backward="jfb", **EXACT), gamma)
    assert cosine(jfb, expected) > 0.5
    neumann = tanh_gradient(
        lambda s: Equilibrium(s, backward="phantom", phantom_steps=5, **EXACT), gamma
    )
    assert cosine(neumann, expected) > 0.999


def test_phantom_gradient_is_a_truncated_neumann_series() -> None:
    """``Σ_{j<k} (Jᵀ)ʲ g``, written out with the Jacobian of one sample."""
    solver, problem = TanhMap(0.9, 6), tanh_problem(1, 6)
    net = Equilibrium(solver, backward="phantom", phantom_steps=3, **EXACT)
    z = net(problem)
    (ours,) = torch.autograd.grad(z.square().sum() / 2, solver.u)
    w = solver.w.detach()
    z = z.detach()
    jacobian = 0.9 * (1 - torch.tanh(z[0] @ w.mT).square())[:, None] * w
    total = sum(torch.linalg.matrix_power(jacobian.mT, j) @ z[0] for j in range(3))
    torch.testing.assert_close(ours, total[:, None] * problem.data, rtol=1e-9, atol=1e-12)


def test_damped_phantom_steps_mix_point_and_image() -> None:
    """``T((1 − β) z + β T(z))``: the series with ``(1 − β) + β J`` in place of ``J``."""
    solver, problem = TanhMap(0.9, 6), tanh_problem(1, 6)
    net = Equilibrium(solver, backward="phantom", phantom_steps=2, beta=0.5, **EXACT)
    z = net(problem)
    (ours,) = torch.autograd.grad(z.square().sum() / 2, solver.u)
    z, w = z.detach(), solver.w.detach()
    jacobian = 0.9 * (1 - torch.tanh(z[0] @ w.mT).square())[:, None] * w
    total = z[0] + 0.5 * jacobian.mT @ z[0]
    torch.testing.assert_close(ours, total[:, None] * problem.data, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("part", ["x", "z", "u"])
def test_admm_gradients_by_every_part_of_the_state(part: str) -> None:
    """``x`` is not read by the next step, and ``u`` is no estimate of anything: all count."""

    class Reading(ADMM):
        def estimate(self, state: Any) -> Tensor:
            return state.x if part == "x" else getattr(state, part)[0]

    kernel = torch.tensor([0.15, 0.7, 0.1], dtype=F64)
    data = random(2, 16, seed=1)

    def gradient(make: Callable[[Solver], Any]) -> Tensor:
        weight = torch.tensor(0.1, dtype=F64, requires_grad=True)
        leaves = [kernel.clone().requires_grad_(), data.clone().requires_grad_(), weight]
        operator = Convolution(Space((16,), F64), kernel).at(kernel=leaves[0])
        solver = Reading(prior=L1(weight), rho=0.5)
        x = make(solver)(Problem(operator, leaves[1]))
        return flat_gradient((x - 0.1).square().sum(), leaves)

    expected = gradient(lambda s: Unrolled(s, 150))
    for find in FINDERS:
        ours = gradient(lambda s: Equilibrium(s, find=find, **EXACT))  # noqa: B023
        assert error(ours, expected) < 1e-9


def test_jfb_ends_in_the_trainable_block() -> None:
    """Reading ADMM's ``x``, found before the prior acts, would leave the prior no gradient."""
    case = next(case for case in CASES if case.name == "admm")
    weight = torch.tensor(0.05, dtype=F64, requires_grad=True)
    x = Equilibrium(case.solver(weight), backward="jfb")(case.problem())
    (g,) = torch.autograd.grad(x.sum(), weight)
    assert abs(float(g)) > 1e-3


# -- where gradients reach ---------------------------------------------------------------------


def test_a_gradient_reaches_a_design_through_simulated_data_and_operator() -> None:
    """The same as by finite differences of the whole chain: design → data → fixed point → loss."""
    operator = Dense(conditioned_matrix())
    operator.learn("matrix")
    truth = random(4, COLUMNS).abs()
    net = Equilibrium(ISTA(prior=L1(0.05)), **EXACT)

    def loss() -> Tensor:
        data = operator(truth) + 0.1
        return (net(Problem(operator, data)) - truth).square().sum()

    (g,) = torch.autograd.grad(loss(), operator.matrix)
    direction = random(ROWS, COLUMNS, seed=7)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            operator.matrix.add_(sign * 1e-5 * direction)
            ends.append(float(loss()))
            operator.matrix.sub_(sign * 1e-5 * direction)
    assert float((g * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_learned_numbers_are_those_of_unrolled() -> None:
    problem = Problem(Dense(conditioned_matrix()), random(2, ROWS))
    classical = ISTA(prior=L1(0.05))
    net = Equilibrium(
        classical, learn=["step_size", "prior.weight"], problem=problem, tolerance=1e-6
    )
    assert sorted(n for n, _ in net.named_parameters()) == [
        "solver.prior.parametrizations.weight.original",
        "solver.step_size.raw",
    ]
    assert not list(classical.parameters())
    untrained = Equilibrium(classical, tolerance=1e-6)(problem)
    torch.testing.assert_close(net(problem).detach(), untrained, rtol=1e-5, atol=1e-6)
    net(problem).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


class WithLoss(L1):
    """A prior that tells a loss, as ISTA-Net's does."""

    def prox_and_losses(self, x: Tensor, step: Tensor | float) -> tuple[Tensor, dict[str, Tensor]]:
        return self.prox(x, step), {"size": x.abs().mean()}


def test_losses_are_those_of_the_attached_step() -> None:
    case = next(case for case in CASES if case.name == "ista")
    found = Equilibrium(ISTA(prior=WithLoss(0.0)), **EXACT).reconstruct(case.problem())
    assert list(found.losses) == ["size"]
    torch.testing.assert_close(found.losses["size"], found.x.abs().mean(), rtol=1e-6, atol=0)


def test_nothing_is_attached_without_gradients() -> None:
    case = next(case for case in CASES if case.name == "admm")
    assert not Equilibrium(case.solver())(case.problem()).requires_grad
    weight = torch.tensor(0.05, dtype=F64, requires_grad=True)
    with torch.no_grad():
        assert not Equilibrium(case.solver(weight))(case.problem()).requires_grad


def test_second_derivatives_are_refused() -> None:
    solver = TanhMap(0.5)
    x = Equilibrium(solver, **EXACT)(tanh_problem())
    (g,) = torch.autograd.grad(x.square().sum(), solver.w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


# -- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", ["implicit", "jfb", "phantom"])
def test_memory_of_a_training_step_does_not_depend_on_iterations(backward: str) -> None:
    def saved(iterations: int) -> int:
        solver = TanhMap(0.99)
        net = Equilibrium(
            solver,
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
            x = net(tanh_problem(2))
            forward = sum(sizes)
            x.sum().backward()
        assert solver.w.grad is not None
        assert forward > 0
        return sum(sizes)

    assert saved(20) == saved(200)


def test_a_graph_that_is_never_used_is_freed() -> None:
    """A hook on the attached step's output would hold the graph that holds the hook."""
    solver, problem = TanhMap(0.5), tanh_problem()
    watched = weakref.ref(problem)
    gc.disable()
    try:
        x = Equilibrium(solver)(problem)
        assert x.requires_grad
        del problem
        assert watched() is not None
        del x
        assert watched() is None
    finally:
        gc.enable()


def test_one_backward_pass_may_follow_another() -> None:
    solver = TanhMap(0.9)
    x = Equilibrium(solver, **EXACT)(tanh_problem())
    once = torch.autograd.grad(x.square().sum(), solver.w, retain_graph=True)
    again = torch.autograd.grad(x.square().sum(), solver.w)
    assert torch.equal(once[0], again[0])


# -- complex images, batches -------------------------------------------------------------------


@every_finder
def test_complex_states(find: str) -> None:
    """L1 with a unitary transform: the fixed point is a soft threshold, and so is its gradient."""
    operator = Fourier(Space((4, 6), torch.complex128))
    y = random(2, 3, 4, 6, dtype=torch.complex128).requires_grad_()
    net = Equilibrium(FISTA(prior=L1(0.3), step_size=0.7), find=find, **EXACT)
    found = net.reconstruct(Problem(operator, y))
    norm = operator.norm()
    expected = soft_threshold(operator.adjoint(y) / norm**2, 0.3 / norm**2)
    assert found.status == "done"
    torch.testing.assert_close(found.x, expected, rtol=1e-9, atol=1e-10)
    target = random(4, 6, dtype=torch.complex128, seed=5)
    (ours,) = torch.autograd.grad((found.x - target).abs().square().sum(), y, retain_graph=True)
    (exact,) = torch.autograd.grad((expected - target).abs().square().sum(), y)
    torch.testing.assert_close(ours, exact, rtol=1e-7, atol=1e-9)


def test_complex_states_of_different_shapes() -> None:
    """CG's state: complex images, and a real number per element."""
    mask = (random(8) > -0.5).double()
    operator = MaskedFourier(Space((8,), torch.complex128), mask)
    y = operator(random(3, 8, dtype=torch.complex128)).requires_grad_()
    rho = 0.1
    found = Equilibrium(CG(rho=rho), **EXACT).reconstruct(Problem(operator, y))
    expected = operator.adjoint(y) / (1 + rho)
    torch.testing.assert_close(found.x, expected, rtol=1e-9, atol=1e-10)
    (ours,) = torch.autograd.grad(found.x.abs().square().sum(), y, retain_graph=True)
    (exact,) = torch.autograd.grad(expected.abs().square().sum(), y)
    torch.testing.assert_close(ours, exact, rtol=1e-7, atol=1e-9)


@every_finder
def test_elements_of_a_batch_converge_for_themselves(find: str) -> None:
    matrix = conditioned_matrix()
    # Scales far apart, and one element without anything in it.
    scale = torch.tensor([1.0, 1e4, 1e-4, 0.0], dtype=F64)[:, None]
    data = scale * (random(4, COLUMNS) @ matrix.mT)
    net = Equilibrium(
        ADMM(prior=L1(0.01), rho=5.0, inner=6), find=find, tolerance=1e-9, iterations=200
    )
    together = net.reconstruct(Problem(Dense(matrix), data))
    assert together.status == "done"
    for i, y in enumerate(data):
        alone = net.reconstruct(Problem(Dense(matrix), y))
        assert alone.x.shape == (COLUMNS,)
        bound = 1e-7 * float(alone.x.norm()) + 1e-15
        torch.testing.assert_close(together.x[i], alone.x, rtol=0, atol=bound)


def test_batches_of_several_axes() -> None:
    matrix = conditioned_matrix()
    data = random(2, 3, ROWS)
    net = Equilibrium(ISTA(prior=L1(0.05)), tolerance=1e-8)
    x = net(Problem(Dense(matrix), data))
    assert x.shape == (2, 3, COLUMNS)
    torch.testing.assert_close(x[1], net(Problem(Dense(matrix), data[1])), rtol=1e-6, atol=1e-8)


# -- what is told ------------------------------------------------------------------------------


def slow_problem() -> Problem:
    return Problem(Dense(nominal_matrix()), random(2, ROWS))


def test_what_is_told() -> None:
    """Picard's contraction is that of Landweber's iteration: ``1 − λ_min / L``."""
    matrix = conditioned_matrix()
    solver = GradientDescent(step_size=1 / float(torch.linalg.matrix_norm(matrix, 2)) ** 2)
    net = Equilibrium(solver, find="picard", iterations=500, tolerance=1e-10)
    found = net.reconstruct(Problem(Dense(matrix), random(ROWS)), trace=True)
    values = torch.linalg.svdvals(matrix)
    assert found.status == "done"
    assert found.told["contraction"] == pytest.approx(
        float(1 - (values[-1] / values[0]) ** 2), abs=1e-3
    )
    assert found.told["distance"] == pytest.approx(
        found.told["residual"] / (1 - found.told["contraction"])
    )
    assert found.told["iterations"] == len(found.trace)
    steps = Unrolled(solver, 3).reconstruct(Problem(Dense(matrix), random(ROWS)), trace=True)
    for ours, theirs in zip(found.trace, steps.trace, strict=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@every_finder
def test_not_converging_is_never_silent(find: str) -> None:
    options = {"find": find, "iterations": 3, "tolerance": 1e-12}
    net = Equilibrium(GradientDescent(), **options)
    with pytest.warns(ConvergenceWarning, match=r"after 3 iterations.*2 of 2 batch"):
        found = net.reconstruct(slow_problem())
    assert found.status == "not converged"
    assert found.told["residual"] > 1e-12
    with pytest.warns(ConvergenceWarning):
        net(slow_problem())
    with pytest.raises(ConvergenceError, match="asked for was 1e-12"):
        Equilibrium(GradientDescent(), on_failure="raise", **options)(slow_problem())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet = Equilibrium(GradientDescent(), on_failure="ignore", **options)
        assert quiet.reconstruct(slow_problem()).status == "not converged"


def test_a_gradient_that_was_not_found_is_told() -> None:
    solver = TanhMap(0.99)
    options = {"iterations": 3000, "tolerance": 1e-9, "backward_iterations": 2}
    x = Equilibrium(solver, **options)(tanh_problem())
    with pytest.warns(ConvergenceWarning, match="the gradient has a residual of"):
        x.sum().backward()
    x = Equilibrium(solver, on_failure="raise", **options)(tanh_problem())
    with pytest.raises(ConvergenceError, match="the gradient has a residual of"):
        x.sum().backward()


def test_the_gradient_has_a_tolerance_of_its_own() -> None:
    expected = tanh_gradient(lambda s: Unrolled(s, 400), 0.9)
    fine = {"iterations": 3000, "tolerance": 1e-13}
    loose = tanh_gradient(lambda s: Equilibrium(s, backward_tolerance=1e-2, **fine), 0.9)
    assert 1e-6 < error(loose, expected) < 1e-1


@every_finder
def test_a_state_that_is_not_finite_is_an_error(find: str) -> None:
    matrix = conditioned_matrix()
    data = random(3, ROWS)
    data[1, 2] = float("nan")
    net = Equilibrium(GradientDescent(), find=find)
    with pytest.raises(DivergenceError, match=r"batch elements \[1\]"):
        net(Problem(Dense(matrix), data))


def test_a_diverging_solver_does_not_end_silently() -> None:
    net = Equilibrium(GradientDescent(step_size=10.0), find="picard", iterations=2000)
    with pytest.raises(DivergenceError, match="not finite"):
        net(slow_problem())


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"find": "newton"}, "find is one of picard, anderson, broyden"),
        ({"backward": "bptt"}, "backward is one of implicit, jfb, phantom"),
        ({"on_failure": "shrug"}, "on_failure is one of warn, raise, ignore"),
        ({"start": "random"}, "start is a module or one of"),
        ({"iterations": 0}, "iterations must be a whole number"),
        ({"tolerance": 0.0}, "tolerance must be a number > 0"),
        ({"tolerance": float("nan")}, "tolerance must be"),
        ({"backward_iterations": 0}, "backward_iterations must be"),
        ({"backward_tolerance": -1.0}, "backward_tolerance must be"),
        ({"memory": 0}, "memory must be a whole number"),
        ({"beta": 0.0}, "beta must be a number > 0"),
        ({"beta": 1.5}, "beta must be a number > 0 and ≤ 1"),
        ({"phantom_steps": 0}, "phantom_steps must be"),
        ({"learn": ["speed"]}, "no number 'speed'"),
        ({"learn": ["step_size"]}, "give problem="),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(SolverError, match=told):
        Equilibrium(ISTA(prior=L1(0.1)), **options)


def test_parameters_per_layer_are_refused() -> None:
    with pytest.raises(SolverError, match="step_size has 3 values, one per layer"):
        Equilibrium(ISTA(step_size=Schedule([0.1, 0.2, 0.3])))
    with pytest.raises(SolverError, match="prior has 2 modules, one per layer"):
        Equilibrium(ISTA(prior=nn.ModuleList([L1(0.1), L1(0.2)])))


def test_a_first_estimate_of_another_batch_is_refused() -> None:
    with pytest.raises(SolverError, match="give x0 the batch of the data"):
        Equilibrium(ISTA())(slow_problem(), torch.zeros(COLUMNS, dtype=F64))


@pytest.mark.parametrize("start", ["zero", "adjoint", "initial"])
def test_the_start_does_not_change_the_fixed_point(start: str) -> None:
    problem = Problem(Dense(conditioned_matrix()), random(2, ROWS))
    options = {"tolerance": 1e-10, "iterations": 500}
    expected = Equilibrium(ISTA(prior=L1(0.05)), **options)(problem)
    found = Equilibrium(ISTA(prior=L1(0.05)), start=start, **options)(problem)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    near = Equilibrium(ISTA(prior=L1(0.05)), **options).reconstruct(problem, expected)
    assert near.told["iterations"] <= 2


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_on_a_gpu_as_on_the_cpu(case: Case) -> None:
    matrix = conditioned_matrix()
    data = random(3, COLUMNS).abs() @ matrix.mT
    results = []
    for device in ("cpu", "cuda"):
        solver = case.solver().to(device)
        if case.name == "hqs":
            solver.growth = 1.0
        y = data.to(device).requires_grad_()
        problem = Problem(Dense(matrix).to(device), y, case.problem().noise.to(device))
        x = Equilibrium(solver, iterations=500, tolerance=1e-10)(problem)
        results.append([x.cpu(), torch.autograd.grad(x.square().sum(), y)[0].cpu()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
