"""The loop: limits, records, interruption, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon.noise import NoiseError, Poisson
from labrecon.operator import Operator
from labrecon.operators import Matrix
from labrecon.priors import L1
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solver import DivergenceError, SolverError, solve
from labrecon.solvers import FISTA, ISTA, Direct, GradientDescent
from labrecon.space import Space, SpaceError

F64 = torch.float64


def problem() -> Problem:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(8, 5, dtype=F64, generator=generator)
    return Problem(Matrix(a), torch.randn(8, dtype=F64, generator=generator))


def test_tolerance_ends_the_loop_at_a_check() -> None:
    solution = solve(FISTA(), problem(), iterations=5000, tolerance=1e-6, check_every=10)
    assert solution.status == "converged"
    assert solution.state.k % 10 == 0
    assert solution.state.k < 5000
    assert solution.history[-1]["change"] <= 1e-6


def test_limits_of_iterations_and_time() -> None:
    assert solve(FISTA(), problem(), iterations=7).status == "iterations"
    solution = solve(FISTA(), problem(), iterations=10**9, seconds=0.05, check_every=5)
    assert solution.status == "time"
    assert 0.05 <= solution.seconds < 5


def test_records_are_made_at_multiples_and_at_the_end() -> None:
    history = solve(FISTA(), problem(), iterations=25, objective=True).history
    assert [record["iteration"] for record in history] == [10, 20, 25]
    assert all({"seconds", "change", "objective"} <= record.keys() for record in history)


def test_a_callback_stops_it() -> None:
    solution = solve(FISTA(), problem(), callbacks=[lambda state, _: state.k >= 30])
    assert (solution.status, solution.state.k) == ("stopped", 30)


class Interrupting(Matrix):
    """Presses Ctrl-C in a chosen call."""

    calls = 0
    at = 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().forward(x)


def test_ctrl_c_leaves_the_last_complete_state() -> None:
    given = problem()
    solver = FISTA(prior=L1(0.1), step_size=0.01)
    through = solve(solver, given, iterations=40)
    operator = Interrupting(given.operator.matrix.detach())
    operator.at = 13
    stopped = solve(solver, Problem(operator, given.data), iterations=40)
    assert stopped.status == "interrupted"
    assert stopped.state.k == 12
    resumed = solve(solver, given, state=stopped.state, iterations=40)
    assert torch.equal(resumed.x, through.x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_refused(bad: float) -> None:
    given = problem()
    data = given.data.clone()
    data[2] = bad
    with pytest.raises(SolverError, match="1 of 8 measured samples"):
        solve(FISTA(), Problem(given.operator, data))


def test_negative_counts_and_weights_are_refused() -> None:
    given = problem()
    with pytest.raises(NoiseError, match="negative"):
        solve(FISTA(), Problem(given.operator, given.data - 100, Poisson(1.0)))
    with pytest.raises(SolverError, match="weights"):
        solve(FISTA(), Problem(given.operator, given.data, weights=-torch.ones(8, dtype=F64)))


def test_divergence_is_told() -> None:
    with pytest.raises(DivergenceError, match="step size is too large"):
        solve(GradientDescent(step_size=1e6), problem(), iterations=1000)


def test_wrong_limits_and_starts_are_refused() -> None:
    for limits in ({"iterations": 0}, {"check_every": 0}):
        with pytest.raises(SolverError, match="at least 1"):
            solve(FISTA(), problem(), **limits)
    with pytest.raises(SpaceError, match="x0"):
        solve(FISTA(), problem(), x0=torch.zeros(5))


def test_a_one_step_method_makes_one_step() -> None:
    given = problem()
    solution = solve(Direct(), given, iterations=50)
    assert solution.state.k == 1
    assert torch.equal(solution.x, given.operator.initial(given.data))


def test_history_of_a_batch_sums_its_objective() -> None:
    given = problem()
    batch = Problem(given.operator, torch.stack([given.data, 2 * given.data]))
    last = solve(FISTA(), batch, iterations=10, objective=True).history[-1]["objective"]
    alone = [
        solve(FISTA(), Problem(given.operator, y), iterations=10, objective=True).history[-1]
        for y in batch.data
    ]
    assert last == pytest.approx(sum(record["objective"] for record in alone))


@pytest.mark.parametrize("kind", [ISTA, GradientDescent])
def test_gradients_reach_a_learned_step_size(kind) -> None:
    given = problem()
    schedule = Schedule(0.02, layers=3, learn=True).double()
    solver = kind(step_size=schedule)

    def loss() -> Tensor:
        return solve(solver, given, iterations=3).x.square().sum()

    (g,) = torch.autograd.grad(loss(), schedule.raw)
    for i in range(3):
        values = []
        for h in (1e-5, -1e-5):
            with torch.no_grad():
                schedule.raw[i] += h
                values.append(float(loss()))
                schedule.raw[i] -= h
        assert float(g[i]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_a_schedule_by_law_and_past_its_end() -> None:
    law = Schedule(2.0, law=lambda value, k: value / (k + 1))
    assert float(law(3)) == pytest.approx(0.5)
    layers = Schedule([1.0, -2.0], constraint=None)
    assert [float(layers(k)) for k in range(4)] == [1.0, -2.0, -2.0, -2.0]
    with pytest.raises(SolverError, match="positive"):
        Schedule([1.0, -2.0])


def test_nothing_global_is_touched() -> None:
    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    rng = torch.get_rng_state()
    solve(FISTA(prior=L1(0.1)), problem(), iterations=5)
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == before
    assert torch.equal(torch.get_rng_state(), rng)


class Cut(Operator):
    """Returns the wrong number of samples."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :-1]


def test_an_operator_that_breaks_its_word_is_named() -> None:
    operator = Cut(Space((4,), F64), Space((4,), F64))
    with pytest.raises(SpaceError, match="Cut: output of forward"):
        solve(ISTA(step_size=0.1), Problem(operator, torch.zeros(4, dtype=F64)))
