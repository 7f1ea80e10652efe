"""Networks of registered solvers and priors."""

from __future__ import annotations

import pytest
import torch

from labrecon import Problem, solve
from labrecon.networks.by_name import make_equilibrium, make_unrolled
from labrecon.operators import Matrix
from labrecon.plugins import UnknownNameError
from labrecon.priors import L1, TV
from labrecon.solver import SolverError
from labrecon.solvers import ADMM, FISTA, ISTA


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    return Problem(Matrix(matrix), torch.randn(4, 30, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [("ista", ISTA, {}), ("fista", FISTA, {}), ("admm", ADMM, {"rho": 3.0})],
)
def test_untrained_it_is_the_solver(problem, name, kind, options):
    learn = ["prior.weight", *(["rho"] if options else ["step_size"])]
    network = make_unrolled(
        problem,
        solver=name,
        prior="l1",
        depth=7,
        threshold=0.02,
        scale=1.5,
        learn=learn,
        start="zero",
        solver_options=options,
    )
    weight = 0.02 * 1.5 * problem.lipschitz()
    classical = kind(prior=L1(weight), **options)
    expected = solve(classical, problem, iterations=7).x
    # What is learned is kept in single precision.
    torch.testing.assert_close(network(problem).detach(), expected, rtol=1e-4, atol=1e-6)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 14


def test_a_step_size_gives_the_weight_where_no_bound_is_known(problem):
    network = make_unrolled(problem, prior="l1", threshold=0.1, solver_options={"step_size": 0.5})
    weights = [float(network.solver.prior[k].weight.detach()) for k in range(10)]
    assert weights == pytest.approx([0.2] * 10)
    own = make_unrolled(problem, prior="l1", prior_options={"weight": 7.0}, tied=True)
    assert float(own.solver.prior.weight.detach()) == pytest.approx(7.0)


def test_priors_look_along_as_many_axes_as_there_are(problem):
    network = make_unrolled(problem, prior="tv", tied=True)
    assert isinstance(network.solver.prior, TV)
    assert network.solver.prior.ndim == 1


def test_the_fixed_point_is_the_minimiser(problem):
    network = make_equilibrium(
        problem,
        prior="l1",
        threshold=0.02,
        equilibrium_options={"tolerance": 1e-10, "iterations": 5000},
    )
    weight = 0.02 * problem.lipschitz()
    expected = solve(FISTA(prior=L1(weight)), problem, iterations=5000, tolerance=1e-13).x
    torch.testing.assert_close(network(problem).detach(), expected, rtol=1e-6, atol=1e-8)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 2


def test_wrong_names_and_numbers_are_told(problem):
    with pytest.raises(
        UnknownNameError, match=r"no solver is called 'fisat' .*did you mean 'fista'"
    ):
        make_unrolled(problem, solver="fisat")
    with pytest.raises(UnknownNameError, match="no prior is called 'tw'"):
        make_unrolled(problem, prior="tw")
    with pytest.raises(SolverError, match="'cg' uses no prior: set prior to 'zero'"):
        make_unrolled(problem, solver="cg", learn=[])
    with pytest.raises(ValueError, match="threshold must be a number > 0"):
        make_unrolled(problem, prior="l1", threshold=0.0)
