"""Layers undone: inverses, waypoints, and the refusal of a reversal that is off."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from solver_cases import COLUMNS, Dense, nominal_data, nominal_matrix
from torch import Tensor, nn

from labrecon.networks import Unrolled
from labrecon.networks.meter import Meter
from labrecon.networks.reversed import ReversalError, departure
from labrecon.operators import Convolution, FiniteDifference, Matrix
from labrecon.prior import NotInvertibleError, Prior, PriorError, Zero, residual_inverse
from labrecon.priors import L1, TV, Tikhonov
from labrecon.priors.leaky import LeakyL1
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solver import Solver
from labrecon.solvers import ADMM, CG, FISTA, HQS, ISTA, GradientDescent
from labrecon.solvers.hqs import HQSState
from labrecon.space import Space

F64, C128 = torch.float64, torch.complex128


def draw(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# -- priors ----------------------------------------------------------------------------------------

PRIORS: list[tuple[str, Callable[[Tensor | float], Prior], list[torch.dtype]]] = [
    ("zero", lambda w: Zero(), [F64, C128]),
    ("leaky", lambda w: LeakyL1(w, slope=0.3), [F64, C128]),
    ("tikhonov", Tikhonov, [F64, C128]),
    (
        "tikhonov-smooth",
        lambda w: Tikhonov(w, operator=FiniteDifference(Space((4, 5), F64))),
        [F64],
    ),
]


@pytest.mark.parametrize(
    ("make", "dtype"),
    [(make, dtype) for _, make, dtypes in PRIORS for dtype in dtypes],
    ids=[f"{name}-{str(dtype)[6:]}" for name, _, dtypes in PRIORS for dtype in dtypes],
)
def test_a_prox_is_undone(make: Callable[[Tensor | float], Prior], dtype: torch.dtype) -> None:
    x = draw(3, 4, 5, dtype=dtype)
    x[0, 0, 0] = 0
    for step in (0.7, torch.tensor(0.7, dtype=F64)):
        prior = make(0.8)
        torch.testing.assert_close(prior.inverse(prior.prox(x, step), step), x)
        torch.testing.assert_close(prior.prox(prior.inverse(x, step), step), x)


def test_leaky_soft_thresholding_by_hand() -> None:
    prior = LeakyL1(2.0, slope=0.25)
    x = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.4, 1.0, 2.0])
    expected = torch.tensor([-2.25, -0.25, -0.125, 0.0, 0.1, 0.25, 1.25])
    torch.testing.assert_close(prior.prox(x, 0.5), expected)


@pytest.mark.parametrize("slope", [0.0, 1.0, -0.1, float("nan"), "steep", True])
def test_a_slope_out_of_bounds_is_refused(slope: object) -> None:
    with pytest.raises(PriorError, match="slope"):
        LeakyL1(1.0, slope=slope)


@pytest.mark.parametrize("prior", [L1(1.0), TV(1.0)], ids=lambda p: type(p).__name__)
def test_what_forgets_has_no_inverse(prior: Prior) -> None:
    with pytest.raises(NotInvertibleError, match=type(prior).__name__):
        prior.inverse(draw(4, 4), 1.0)


def test_a_residual_is_undone() -> None:
    # Elements that differ by orders of magnitude are each undone to their own rounding.
    x = draw(3, 1, 20) * torch.tensor([1.0, 1e-6, 1e6], dtype=F64).reshape(3, 1, 1)

    undone = residual_inverse(lambda v: 0.5 * v.flip(-1), x + 0.5 * x.flip(-1), 2)
    error = (undone - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert float(error.max()) <= 1e-14


@pytest.mark.parametrize("factor", [1.0, 1.3, -1.1])
def test_an_expansion_is_not_undone(factor: float) -> None:
    with pytest.raises(NotInvertibleError, match="contract"):
        residual_inverse(lambda v: factor * v, draw(5))


def test_what_leads_to_zero_is_undone() -> None:
    """Near zero, rounding is that of the terms which cancel."""
    x = residual_inverse(lambda v: 0.3 * v - 1.0, torch.full((4,), -1.0))
    assert float(x.abs().max()) <= 1e-6


# -- solvers ---------------------------------------------------------------------------------------

SOLVERS: list[tuple[str, Callable[[], Solver]]] = [
    ("gradient", lambda: GradientDescent(step_size=0.02)),
    ("gradient-schedule", lambda: GradientDescent(step_size=Schedule([0.02, 0.01, 0.03]).double())),
    ("heavy-ball", lambda: GradientDescent(step_size=0.02, momentum=0.7)),
    ("nesterov", lambda: GradientDescent(step_size=0.02, momentum=0.7, nesterov=True)),
    ("ista", lambda: ISTA(prior=LeakyL1(0.5), step_size=0.02)),
    ("ista-automatic", lambda: ISTA(prior=Tikhonov(0.5), step_size=0.03)),
    ("fista", lambda: FISTA(prior=LeakyL1(0.5), step_size=0.02)),
    (
        "fista-extrapolation",
        lambda: FISTA(
            prior=LeakyL1(0.5), step_size=0.02, extrapolation=Schedule([0.3, 0.6]).double()
        ),
    ),
    ("hqs", lambda: HQS(prior=LeakyL1(0.5), mu=3.0, growth=1.2, inner=20)),
    (
        "hqs-per-layer",
        lambda: HQS(prior=nn.ModuleList([LeakyL1(0.1 * k) for k in range(1, 4)]), mu=3.0, inner=20),
    ),
]


@pytest.mark.parametrize("make", [m for _, m in SOLVERS], ids=[name for name, _ in SOLVERS])
def test_steps_are_undone(make: Callable[[], Solver]) -> None:
    solver, problem = make(), Problem(Dense(nominal_matrix()), nominal_data(3))
    states = [solver.init(problem, draw(3, COLUMNS))]
    for _ in range(4):
        states.append(solver.step(problem, states[-1])[0])
    for before, after in pairwise(states):
        undone = solver.inverse(problem, after)
        assert undone.k == before.k
        for name, value in before.tensors().items():
            torch.testing.assert_close(undone.tensors()[name], value, rtol=1e-9, atol=1e-11)
        for name, value in before.numbers().items():
            assert undone.numbers()[name] == pytest.approx(value), name


def test_steps_that_differ_in_a_batch_are_undone() -> None:
    data = nominal_data(3)
    weights = torch.tensor([[1.0], [30.0], [1e-3]], dtype=F64) * torch.ones_like(data)
    problem = Problem(Dense(nominal_matrix()), data, weights=weights)
    # Schedules are a part of 1/L; here by weights.
    slow = Problem(problem.operator, data, weights=weights / 4)
    solver = ISTA(prior=LeakyL1(0.5))
    state = solver.init(problem, draw(3, COLUMNS))
    after, _ = solver.step(slow, state)
    undone = solver.inverse(slow, after)
    torch.testing.assert_close(undone.x, state.x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("solver", "told"),
    [
        (FISTA(prior=LeakyL1(0.5), step_size=0.02, restart=True), "restart"),
        (ISTA(prior=LeakyL1(0.5), step_size=0.02, backtracking=True), "backtracking"),
        (ISTA(prior=LeakyL1(0.5), step_size=1.0), "size 1"),
        (
            FISTA(
                prior=LeakyL1(0.5),
                step_size=0.02,
                extrapolation=Schedule([0.5, 0.0], constraint=None),
            ),
            "momentum in layer 1",
        ),
    ],
    ids=["restart", "backtracking", "too-far", "no-momentum"],
)
def test_what_can_not_be_undone_says_so(solver: Solver, told: str) -> None:
    problem = Problem(Dense(nominal_matrix()), nominal_data(3))
    state = solver.init(problem)
    for _ in range(2):
        state, _ = solver.step(problem, state)
    with pytest.raises(NotInvertibleError, match=told):
        solver.inverse(problem, state)


@pytest.mark.parametrize(
    ("solver", "told"),
    [
        (ISTA(prior=L1(0.1)), "L1.*LeakyL1.*checkpoint"),
        (HQS(prior=nn.ModuleList([LeakyL1(0.1), TV(0.1)])), "TV.*checkpoint"),
        (CG(), "CG.*checkpoint"),
        (ADMM(prior=LeakyL1(0.1)), "ADMM.*checkpoint"),
    ],
    ids=["L1", "TV", "CG", "ADMM"],
)
def test_a_network_that_can_not_be_inverted_is_refused_when_made(solver: Solver, told: str) -> None:
    with pytest.raises(NotInvertibleError, match=told):
        Unrolled(solver, 3, memory="invert")


# -- waypoints -------------------------------------------------------------------------------------


MATRIX = draw(21, 30, seed=3)


def deep(depth: int, step: float = 0.3, dtype: torch.dtype = F64, **options: object) -> Unrolled:
    tau = step / float(torch.linalg.matrix_norm(MATRIX, 2)) ** 2
    solver = ISTA(prior=LeakyL1(0.1 / tau, slope=0.3), step_size=tau)
    return Unrolled(solver, depth, learn=["prior.weight"], memory="invert", **options).to(dtype)


def problem_of(dtype: torch.dtype = F64) -> Problem:
    return Problem(Matrix(MATRIX.to(dtype)), draw(3, 21).to(dtype))


def test_a_reversal_that_is_off_is_refused() -> None:
    x = deep(60, waypoints=0)(problem_of())
    with pytest.raises(ReversalError, match=r"layer 0 .*waypoints closer.*checkpoint"):
        x.sum().backward()


def test_the_first_waypoint_that_is_off_is_named() -> None:
    x = deep(120, waypoints=60)(problem_of())
    with pytest.raises(ReversalError, match="before layer 60 is off"):
        x.sum().backward()


def test_one_element_of_a_batch_that_is_off_is_enough() -> None:
    """Its error would hide in the norm of brighter ones."""
    true, recomputed = (HQSState(1, x, x) for x in (torch.ones(2, 5), torch.ones(2, 5)))
    true.x[1] *= 1e9
    recomputed.x[1] *= 1e9
    recomputed.x[0] += 1e-3
    assert departure(recomputed, true, true, (2,)) == pytest.approx(1e-3, rel=1e-3)
    assert departure(recomputed, true, true, ()) < 1e-10


@pytest.mark.slow
def test_waypoints_are_found_where_they_are_needed() -> None:
    """Few in double precision, more in single; deeper than any reversal without."""
    found = {}
    for dtype in (F64, torch.float32):
        network = deep(60, dtype=dtype)
        expected = Unrolled(network.solver, 60)
        loss, stored = (net(problem_of(dtype)).square().sum() for net in (network, expected))
        parameter = next(p for p in network.parameters() if p.requires_grad)
        (g,) = torch.autograd.grad(loss, parameter)
        (h,) = torch.autograd.grad(stored, parameter)
        torch.testing.assert_close(g, h, rtol=1e-3, atol=1e-6)
        found[dtype] = int(network.placed.sum())
    assert 1 <= found[F64] < found[torch.float32] < 59


def test_waypoints_are_part_of_what_is_saved() -> None:
    network = deep(60)
    network(problem_of())
    other = deep(60)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.placed, network.placed)
    assert bool((other.placed >= 0).all())


@pytest.mark.slow
def test_waypoints_are_placed_anew_when_training_has_moved_them() -> None:
    network = deep(40, tolerance=1e-4)
    network(problem_of()).sum().backward()
    assert -1 not in network.placed.tolist()
    network._watch(0.5e-4)
    assert network.placed.tolist() == [-1] * 40
    network(problem_of()).sum().backward()
    assert -1 not in network.placed.tolist()


def test_steps_too_long_for_any_waypoint_are_refused_in_forward() -> None:
    with pytest.raises(ReversalError, match=r"layer 0 can not be undone.*checkpoint"):
        deep(5, step=1.1)(problem_of())


# -- memory ----------------------------------------------------------------------------------------


def peak(depth: int, waypoints: int) -> int:
    """Bytes alive at once in a training step of gentle layers on a 64×64 image."""
    operator = Convolution(Space((64, 64), F64), torch.full((3, 3), 1 / 9, dtype=F64))
    solver = ISTA(prior=LeakyL1(0.01, slope=0.98), step_size=0.02)
    network = Unrolled(
        solver, depth, learn=["step_size"], tied=True, memory="invert", waypoints=waypoints
    )
    problem = Problem(operator, draw(64, 64))
    with Meter() as meter:
        network(problem).square().mean().backward()
    return meter.peak


def test_memory_does_not_grow_with_depth() -> None:
    assert peak(80, 0) <= 1.05 * peak(8, 0)


def test_memory_grows_by_a_state_per_waypoint() -> None:
    image = 8 * 64 * 64
    waypoints = 59 // 10 - 19 // 10
    assert abs(peak(60, 10) - peak(20, 10) - waypoints * image) <= 0.05 * peak(20, 10)
