"""What every solver promises: pure steps, exact resume, batches, derivatives of second order."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace

import pytest
import torch
from solver_cases import CASES, COLUMNS, Case, nominal_data, nominal_matrix
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import labrecon.solvers
from labrecon.io.states import load_state, save_state
from labrecon.solver import Solver, SolverError, solve

#: Tested by themselves: one is made around another solver, one is for bursts alone.
OWN = {labrecon.solvers.Alternating, labrecon.solvers.LucasKanade}

every_solver = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def test_every_solver_is_in_the_list() -> None:
    tested = {type(case.solver()) for case in CASES}
    assert tested == {getattr(labrecon.solvers, name) for name in labrecon.solvers.__all__} - OWN


@every_solver
def test_a_step_is_pure(case: Case) -> None:
    solver, problem = case.solver(), case.problem()
    state = solve(solver, problem, iterations=3).state
    before = {name: t.clone() for name, t in state.tensors().items()}
    attributes = {k: v for k, v in vars(solver).items() if not k.startswith("_")}
    first, _ = solver.step(problem, state)
    second, _ = solver.step(problem, state)
    assert first.numbers() == second.numbers()
    for name, tensor in first.tensors().items():
        assert bits(tensor, second.tensors()[name]), name
    for name, tensor in state.tensors().items():
        assert bits(tensor, before[name]), f"the step changed {name} of the state it was given"
    assert {k: v for k, v in vars(solver).items() if not k.startswith("_")} == attributes


@every_solver
@pytest.mark.parametrize("stop", [1, 2, 5, 6])
def test_resuming_gives_the_same_bits(case: Case, stop: int, tmp_path) -> None:
    solver, problem = case.solver(), case.problem(nominal_data(3))
    through = solve(solver, problem, iterations=9, check_every=4)
    part = solve(solver, problem, iterations=stop, check_every=4)
    save_state(tmp_path / "state", part.state)
    state = load_state(tmp_path / "state", solver.state_type)
    resumed = solve(case.solver(), problem, state=state, iterations=9, check_every=4)
    assert resumed.state.k == through.state.k
    assert resumed.state.numbers() == through.state.numbers()
    for name, tensor in through.state.tensors().items():
        assert bits(tensor, resumed.state.tensors()[name]), name


@every_solver
def test_batch_elements_do_not_know_of_each_other(case: Case) -> None:
    data = nominal_data(3) * torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64)
    # One step size for the batch is what backtracking promises.
    if case.name == "ista-backtracking":
        pytest.skip("the search is over the whole batch")
    # Exposures may differ by orders of magnitude within a batch.
    exposure = torch.tensor([[1.0], [100.0], [1e-3]], dtype=torch.float64)
    for weights in (None, exposure * torch.rand_like(data)):
        problem = replace(case.problem(data), weights=weights)
        together = solve(case.solver(), problem, iterations=6).x
        for i, y in enumerate(data):
            own = None if weights is None else weights[i]
            single = replace(case.problem(y), weights=own)
            alone = solve(case.solver(), single, iterations=6).x
            torch.testing.assert_close(together[i], alone, rtol=1e-10, atol=1e-12)


@every_solver
def test_a_long_solve_ends_at_a_fixed_point(case: Case) -> None:
    solver, problem = case.solver(), case.problem()
    if case.name == "hqs":
        pytest.skip("mu grows for ever")
    end = solve(solver, problem, iterations=30000, check_every=100, tolerance=1e-14)
    x = solver.estimate(end.state)
    again = solver.estimate(solver.step(problem, end.state)[0])
    assert (again - x).norm() <= 1e-8 * x.norm()


@every_solver
def test_step_has_first_and_second_derivatives(case: Case) -> None:
    """By data, operator, prior weight and every tensor of the state that is not a constant."""
    nominal = case.problem()
    solver = case.solver()
    state = solver.init(nominal)
    # Two steps and a displacement lead away from zeros, ties and kinks.
    for _ in range(2):
        state, _ = solver.step(nominal, state)
    generator = torch.Generator().manual_seed(5)
    moving = state.tensors(constants=False)
    points = [
        t.detach() + 0.05 * torch.rand(t.shape, dtype=t.dtype, generator=generator)
        for t in moving.values()
    ]

    def step(data: Tensor, matrix: Tensor, weight: Tensor, *tensors: Tensor):
        changes: dict[str, object] = {}
        for name, tensor in zip(moving, tensors, strict=True):
            stem, _, index = name.partition(".")
            changes[stem] = (*changes.get(stem, ()), tensor) if index else tensor
        problem = case.problem(data, matrix)
        following, _ = case.solver(weight).step(problem, state.replace(**changes))
        return tuple(following.tensors(constants=False).values())

    inputs = [nominal_data(), nominal_matrix(), torch.tensor(0.05, dtype=torch.float64), *points]
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert gradcheck(step, leaves, atol=1e-6)
        assert gradgradcheck(step, leaves, atol=1e-5, gen_non_contig_grad_outputs=False)


@every_solver
def test_operator_of_another_space_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="x0"):
        case.solver().init(case.problem(), torch.zeros(COLUMNS + 1, dtype=torch.float64))


SOLVERS = [
    getattr(labrecon.solvers, name)
    for name in labrecon.solvers.__all__
    if name != "Alternating"  # made around a solver by the table [calibrate]
]


@pytest.mark.parametrize("kind", SOLVERS, ids=lambda kind: kind.__name__)
def test_options_are_plain_keywords_with_defaults(kind: type[Solver]) -> None:
    """A recipe builds a solver from a name and a table."""
    kind()
    for parameter in inspect.signature(kind).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is not parameter.empty


@pytest.mark.parametrize("kind", SOLVERS, ids=lambda kind: kind.__name__)
def test_docstring_says_when_not_to_use_it(kind: type[Solver]) -> None:
    assert kind.__doc__ is not None
    assert "not" in kind.__doc__.lower().split(), kind.__name__


BAD = [
    ("GradientDescent", {"step_size": 0.0}),
    ("GradientDescent", {"step_size": float("nan")}),
    ("GradientDescent", {"step_size": "fast"}),
    ("GradientDescent", {"momentum": 1.0}),
    ("GradientDescent", {"momentum": "heavy"}),
    ("CG", {"rho": -1.0}),
    ("CG", {"rho": float("nan")}),
    ("CG", {"rho": "much"}),
    ("ISTA", {"step_size": -0.1}),
    ("FISTA", {"restart": "yes"}),
    ("FISTA", {"backtracking": "no"}),
    ("ADMM", {"rho": 0.0}),
    ("ADMM", {"rho": None}),
    ("ADMM", {"inner": 0}),
    ("ADMM", {"inner": 2.5}),
    ("HQS", {"mu": -1.0}),
    ("HQS", {"growth": 0.5}),
    ("PDHG", {"ratio": 0.0}),
    ("PDHG", {"ratio": "auto"}),
    ("PDHG", {"preconditioned": "yes"}),
    ("SIRT", {"relaxation": 2.0}),
    ("SIRT", {"relaxation": "mild"}),
    ("SIRT", {"nonneg": "yes"}),
]


@pytest.mark.parametrize(("name", "options"), BAD, ids=lambda v: str(v))
def test_wrong_options_are_refused_by_name(name: str, options: dict[str, object]) -> None:
    with pytest.raises(SolverError, match=next(iter(options)).replace("_", "[_ ]")):
        getattr(labrecon.solvers, name)(**options)
