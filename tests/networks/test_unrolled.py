"""An unrolled solver is the solver; every mode of memory has the gradients of plain autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from solver_cases import CASES, COLUMNS, Case, Dense, nominal_data, nominal_matrix
from torch import Tensor, nn
from torch.autograd import gradcheck

from labrecon.networks import Unrolled
from labrecon.networks.recompute import RecomputationError
from labrecon.noise import Poisson
from labrecon.operator import Operator
from labrecon.prior import Prior
from labrecon.priors import L1
from labrecon.priors.leaky import LeakyL1
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solver import Solver, SolverError, solve
from labrecon.solvers import ADMM, FISTA, HQS, ISTA, PDHG, GradientDescent
from labrecon.space import Space

F64 = torch.float64
every_solver = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


# -- untrained, it is the classical algorithm ------------------------------------------------------


@every_solver
@pytest.mark.parametrize("depth", [1, 6])
def test_untrained_it_is_the_solver(case: Case, depth: int) -> None:
    solver, problem = case.solver(), case.problem(nominal_data(3))
    if solver.one_step and depth > 1:
        pytest.skip("one iteration is all there is")
    expected = solve(solver, problem, iterations=depth)
    assert torch.equal(Unrolled(solver, depth)(problem), expected.x)


NUMBERS = [
    (lambda: GradientDescent(), ["step_size"]),
    (lambda: GradientDescent(momentum=0.6), ["step_size", "momentum"]),
    (lambda: ISTA(prior=L1(0.05)), ["step_size", "prior.weight"]),
    (lambda: FISTA(prior=L1(0.05)), ["step_size", "prior.weight"]),
    (lambda: ADMM(prior=L1(0.05), rho=0.5, inner=4), ["rho", "dual_step", "prior.weight"]),
    (lambda: HQS(prior=L1(0.05), mu=0.5, inner=4), ["mu", "prior.weight"]),
]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("make", "learn"), NUMBERS)
def test_learned_numbers_start_at_the_classical_ones(
    make: Callable[[], Solver], learn: list[str], tied: bool
) -> None:
    problem = Problem(Dense(nominal_matrix()), nominal_data(3))
    solver = make()
    network = Unrolled(solver, 5, learn=learn, tied=tied, problem=problem).double()
    expected = solve(solver, problem, iterations=5).x
    # Parameters begin in the default precision, single.
    torch.testing.assert_close(network(problem), expected, rtol=1e-5, atol=1e-6)
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert count == len(learn) * (1 if tied else 5)
    assert not any(p.requires_grad for p in solver.parameters())


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("make", "learn"), NUMBERS)
def test_all_that_is_learned_has_a_gradient(
    make: Callable[[], Solver], learn: list[str], tied: bool
) -> None:
    problem = Problem(Dense(nominal_matrix()), nominal_data(3))
    network = Unrolled(make(), 3, learn=learn, tied=tied, problem=problem)
    network(problem).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


def test_a_step_found_from_the_operator_needs_an_example() -> None:
    with pytest.raises(SolverError, match="problem="):
        Unrolled(ISTA(prior=L1(0.1)), 3, learn=["step_size"])


@pytest.mark.parametrize(
    ("learn", "told"),
    [(["speed"], "speed"), (["prior.colour"], "colour"), (["restart"], "restart")],
)
def test_what_is_not_there_can_not_be_learned(learn: list[str], told: str) -> None:
    with pytest.raises(SolverError, match=told):
        Unrolled(FISTA(prior=L1(0.1), step_size=0.1), 3, learn=learn)


def test_a_weight_of_zero_can_not_be_learned() -> None:
    with pytest.raises(SolverError, match="positive"):
        Unrolled(ISTA(prior=L1(0.0), step_size=0.1), 3, learn=["prior.weight"])


# -- starts ----------------------------------------------------------------------------------------


class Guess(nn.Module):
    def forward(self, data: Tensor) -> Tensor:
        return data[..., :COLUMNS]


@pytest.mark.parametrize("start", ["zero", "adjoint", "initial", Guess()], ids=str)
def test_starts(start: str | nn.Module) -> None:
    problem = CASES[4].problem(nominal_data(2))
    operator, data = problem.operator, problem.data
    first = {
        "zero": torch.zeros(2, COLUMNS, dtype=F64),
        "adjoint": operator.adjoint(data),
        "initial": operator.initial(data),
    }.get(start if isinstance(start, str) else "", data[..., :COLUMNS])
    expected = solve(ISTA(), problem, x0=first, iterations=2).x
    assert torch.equal(Unrolled(ISTA(), 2, start=start)(problem), expected)
    given = torch.ones(2, COLUMNS, dtype=F64)
    expected = solve(ISTA(), problem, x0=given, iterations=2).x
    assert torch.equal(Unrolled(ISTA(), 2, start=start)(problem, given), expected)


# -- modes of memory -------------------------------------------------------------------------------


class Told(LeakyL1):
    """Tells a loss per layer, as learned transforms do."""

    def prox_and_losses(self, x: Tensor, step: Tensor | float) -> tuple[Tensor, dict[str, Tensor]]:
        u = self.prox(x, step)
        return u, {"size": u.square().mean()}


class Squared(Operator):
    """A nonlinear operator, whose gradient is found by autograd within the step."""

    linear = False

    def __init__(self) -> None:
        super().__init__(Space((COLUMNS,), F64), Space((COLUMNS,), F64))
        self.nuisance("gain", torch.full((COLUMNS,), 1.1, dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * (x + 0.3 * x.square())


@dataclass(frozen=True)
class Net:
    """A network and a problem, with everything that has gradients."""

    name: str
    solver: Callable[[Prior], Solver]
    learn: tuple[str, ...]
    invertible: bool = True

    def gradients(self, depth: int, tied: bool, **options: object) -> dict[str, Tensor | None]:
        """By the weights, the design behind operator and data, the data and the start."""
        network = Unrolled(
            self.solver(Told(0.05, slope=0.7)), depth, learn=self.learn, tied=tied, **options
        ).double()
        design = nominal_matrix().requires_grad_()
        noise = torch.full((3, len(design)), 0.1, dtype=F64, requires_grad=True)
        start = torch.full((3, COLUMNS), 0.2, dtype=F64, requires_grad=True)
        operator = Dense(nominal_matrix()).at(matrix=design * design.sum() / design.sum().detach())
        data = operator(torch.linspace(0, 1, 3 * COLUMNS, dtype=F64).reshape(3, COLUMNS)) + noise
        result = network.reconstruct(Problem(operator, data), start, trace=True)
        assert len(result.trace) == depth
        loss = result.x.square().sum() + 0.1 * result.trace[0].sin().sum()
        loss = loss + 0.3 * sum(result.losses.values())
        loss.backward()
        leaves = {"design": design, "noise": noise, "start": start}
        leaves |= dict(network.named_parameters())
        told = {name: leaf.grad for name, leaf in leaves.items() if leaf.requires_grad}
        return {"x": result.x.detach(), **told}


NETS = [
    Net("gradient", lambda prior: GradientDescent(step_size=0.03), ("step_size",)),
    Net(
        "heavy-ball",
        lambda prior: GradientDescent(step_size=0.03, momentum=0.6),
        ("step_size", "momentum"),
    ),
    Net(
        "nesterov",
        lambda prior: GradientDescent(step_size=0.03, momentum=0.6, nesterov=True),
        ("step_size", "momentum"),
    ),
    Net("ista", lambda prior: ISTA(prior=prior, step_size=0.03), ("step_size", "prior.weight")),
    Net("fista", lambda prior: FISTA(prior=prior, step_size=0.03), ("step_size", "prior.weight")),
    Net(
        "fista-extrapolation",
        lambda prior: FISTA(
            prior=prior, step_size=0.03, extrapolation=Schedule([0.4, 0.5, 0.6], learn=True)
        ),
        ("step_size", "prior.weight"),
    ),
    Net("hqs", lambda prior: HQS(prior=prior, mu=4.0, inner=8), ("mu", "prior.weight")),
    Net("admm", lambda prior: ADMM(prior=prior, rho=2.0), ("rho", "prior.weight"), False),
    Net("pdhg", lambda prior: PDHG(prior=prior), ("prior.weight",), False),
]
MODES = [
    *({"memory": "checkpoint", "every": every} for every in (None, 2)),
    *({"memory": "invert", "waypoints": every} for every in (None, 0, 2)),
]


@pytest.mark.parametrize(("depth", "tied"), [(1, True), (5, True), (5, False)])
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_every_mode_has_the_gradients_of_autograd(net: Net, depth: int, tied: bool) -> None:
    expected = net.gradients(depth, tied)
    assert len(expected) >= 4
    for options in MODES:
        if options["memory"] == "invert" and not net.invertible:
            continue
        got = net.gradients(depth, tied, **options)
        assert got.keys() == expected.keys()
        rounding = 1e-7 if options["memory"] == "invert" else 0.0
        for name, value in expected.items():
            if value is None:
                assert got[name] is None, name
                continue
            assert (got[name] - value).norm() <= rounding * value.norm(), (name, options)


@pytest.mark.parametrize("mode", ["checkpoint", "invert"])
def test_steps_may_call_autograd_themselves(mode: str) -> None:
    """A nonlinear operator with noise that is not Gaussian: derivatives of second order."""
    operator = Squared()
    operator.learn("gain")
    data = operator(torch.linspace(0.5, 1.5, 2 * COLUMNS, dtype=F64).reshape(2, -1)).detach()
    problem = Problem(operator, data, Poisson(0.5))
    found = []
    for memory in ("store", mode):
        prior = LeakyL1(0.02, slope=0.7)
        network = Unrolled(
            ISTA(prior=prior, step_size=0.1), 6, learn=["step_size"], memory=memory
        ).double()
        x = network(problem, torch.ones(2, COLUMNS, dtype=F64))
        x.square().sum().backward()
        parameters = [*network.parameters(), operator.gain]
        found.append([p.grad.clone() for p in parameters if p.grad is not None])
        operator.gain.grad = None
    assert len(found[0]) == 2
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=0)


@pytest.mark.parametrize("mode", ["checkpoint", "invert"])
def test_a_step_that_calls_autograd_is_computed_twice_in_all(mode: str) -> None:
    """Once forward, once again in backward, besides what the inverse needs."""
    operator = Squared()
    calls = []
    operator.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    problem = Problem(operator, torch.ones(COLUMNS, dtype=F64))
    network = Unrolled(GradientDescent(step_size=0.1), 4, learn=["step_size"], memory=mode)
    x = network.double()(problem, torch.full((COLUMNS,), 0.5, dtype=F64))
    calls.clear()
    x = network(problem, torch.full((COLUMNS,), 0.5, dtype=F64))
    assert len(calls) == 4
    x.sum().backward()
    if mode == "checkpoint":
        assert len(calls) == 8


@pytest.mark.parametrize("mode", ["checkpoint", "invert"])
def test_backward_twice(mode: str) -> None:
    network = Unrolled(
        ISTA(prior=LeakyL1(0.05, slope=0.7), step_size=0.03), 5, learn=["step_size"], memory=mode
    ).double()
    loss = network(CASES[4].problem(nominal_data(3))).square().sum()
    (parameter,) = (p for p in network.parameters() if p.requires_grad)
    (first,) = torch.autograd.grad(loss, parameter, retain_graph=True)
    (second,) = torch.autograd.grad(loss, parameter)
    assert torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["checkpoint", "invert"])
def test_first_derivatives_of_a_part_and_second_ones(mode: str) -> None:
    network = Unrolled(ISTA(prior=LeakyL1(0.05, slope=0.7), step_size=0.03), 3, memory=mode)
    case = CASES[4]

    def run(data: Tensor, matrix: Tensor) -> Tensor:
        return network(case.problem(data, matrix))

    data = nominal_data().requires_grad_()
    matrix = nominal_matrix().requires_grad_()
    assert gradcheck(run, (data, nominal_matrix()))
    assert gradcheck(run, (nominal_data(), matrix))
    loss = run(data, matrix).square().sum()
    (g,) = torch.autograd.grad(loss, data, create_graph=True)
    (second,) = torch.autograd.grad(g.square().sum(), matrix)
    stored = Unrolled(ISTA(prior=LeakyL1(0.05, slope=0.7), step_size=0.03), 3)
    loss = stored(case.problem(data, matrix)).square().sum()
    (g,) = torch.autograd.grad(loss, data, create_graph=True)
    (expected,) = torch.autograd.grad(g.square().sum(), matrix)
    torch.testing.assert_close(second, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["checkpoint", "invert"])
def test_mixed_precision_is_as_it_was(mode: str) -> None:
    """Backward runs outside of autocast; what is computed again must not."""
    grads = []
    for memory in ("store", mode):
        torch.manual_seed(0)
        prior = Residual(5)
        network = Unrolled(
            ISTA(prior=prior, step_size=0.03),
            4,
            learn=["prior"],
            tied=True,
            memory=memory,
            tolerance=0.1,
        )
        problem = Problem(Dense(nominal_matrix().float()), nominal_data(3).float())
        with torch.autocast("cpu", torch.bfloat16):
            x = network(problem)
        x.square().sum().backward()
        grads.append([p.grad for p in network.parameters() if p.grad is not None])
    assert grads[0]
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() <= (0.05 if mode == "invert" else 0.0) * a.norm()


class Residual(Prior):
    """``x − f(x)`` with a layer that mixed precision computes in half."""

    def __init__(self, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(size, size, bias=False)
        self.linear.weight = nn.Parameter(0.1 * torch.randn(size, size, generator=generator))

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        return x - self.linear(x).to(x.dtype).tanh()

    def inverse(self, u: Tensor, step: Tensor | float) -> Tensor:
        x = u
        for _ in range(30):
            x = u + self.linear(x).to(x.dtype).tanh()
        return x


@pytest.mark.parametrize("mode", ["checkpoint", "invert"])
def test_without_gradients_nothing_is_kept(mode: str) -> None:
    network = Unrolled(ISTA(prior=LeakyL1(0.1), step_size=0.03), 4, memory=mode)
    with torch.no_grad():
        x = network(CASES[4].problem())
    assert torch.equal(x, solve(network.solver, CASES[4].problem(), iterations=4).x)


@pytest.mark.parametrize("mode", ["checkpoint", "invert"])
def test_parameters_changed_before_backward_are_noticed(mode: str) -> None:
    network = Unrolled(
        ISTA(prior=LeakyL1(0.1), step_size=0.03), 4, learn=["step_size"], memory=mode
    ).double()
    x = network(CASES[4].problem())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    with pytest.raises(RecomputationError, match="before the optimiser's step"):
        x.sum().backward()


def test_layers_that_draw_random_numbers_are_noticed() -> None:
    class Moody(LeakyL1):
        calls = 0

        def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
            type(self).calls += 1
            return super().prox(x, step) if self.calls <= 4 else x.sin()

    network = Unrolled(
        ISTA(prior=Moody(0.1), step_size=0.03), 4, learn=["step_size"], memory="checkpoint"
    ).double()
    x = network(CASES[4].problem())
    with pytest.raises(RecomputationError, match="store"):
        x.sum().backward()


BAD: list[tuple[dict[str, object], str]] = [
    ({"depth": 0}, "depth"),
    ({"depth": 2.5}, "depth"),
    ({"start": "far"}, "start"),
    ({"memory": "forget"}, "memory"),
    ({"every": 0}, "every"),
    ({"waypoints": -1}, "waypoints"),
    ({"waypoints": 1.5}, "waypoints"),
    ({"tolerance": 0.0}, "tolerance"),
    ({"budget": 0}, "budget"),
]


@pytest.mark.parametrize(("options", "told"), BAD)
def test_wrong_options_are_refused_by_name(options: dict[str, object], told: str) -> None:
    with pytest.raises(SolverError, match=told):
        Unrolled(GradientDescent(), **{"depth": 3, **options})


def test_weights_serve_in_any_mode_and_depth_of_memory() -> None:
    def make(memory: str) -> Unrolled:
        solver = ISTA(prior=LeakyL1(0.1), step_size=0.03)
        return Unrolled(solver, 4, learn=["step_size"], memory=memory).double()

    problem = CASES[4].problem()
    networks = {memory: make(memory) for memory in ("store", "checkpoint", "invert", "auto")}
    networks["invert"](problem)
    for trained in networks.values():
        for other in networks.values():
            other.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert networks["invert"].placed.tolist() == [0, 0, 0, 0]


def test_the_operator_is_checked_as_in_solve() -> None:
    problem = CASES[0].problem()
    with pytest.raises(SolverError, match="needs a linear operator"):
        Unrolled(HQS(), 2)(replace(problem, operator=Squared(), data=problem.data[:COLUMNS]))
