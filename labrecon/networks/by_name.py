"""Networks of any registered solver and prior, by their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from labrecon import plugins
from labrecon.networks.unrolled import Memory, Unrolled
from labrecon.options import number
from labrecon.plugins import Host
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.seeds import seeded
from labrecon.solver import Solver, SolverError

__all__ = ["make_equilibrium", "make_unrolled", "solver_by_name"]

Options = Mapping[str, Any]


def make_unrolled(
    problem: Problem,
    *,
    solver: str = "fista",
    prior: str = "tv",
    depth: int = 10,
    threshold: float = 0.01,
    learn: tuple[str, ...] | list[str] = ("step_size", "prior.weight"),
    tied: bool = False,
    start: str = "initial",
    memory: Memory = "store",
    solver_options: Options | None = None,
    prior_options: Options | None = None,
    scale: float = 1.0,
    seed: int = 0,
    host: Host | None = None,
) -> Unrolled:
    """Any registered solver with any registered prior as a network; a few numbers are learned.

    Untrained it is the solver, stopped after ``depth`` iterations. The one to try first where
    objects to train on are few; networks with learned convolutions need more and go further.

    Args:
        problem: an example: its operator gives step sizes and weights.
        solver: a registered one.
        prior: a registered one.
        depth: number of layers.
        threshold: the prior's first weight as a fraction of ``scale · L``: what soft thresholding
            would take from the object in a step of ``1 / L``.
        learn: see `labrecon.networks.learnable.with_learned`.
        tied: one value for all layers.
        start: "zero", "adjoint" or "initial".
        memory: see `Unrolled`.
        solver_options: of the solver's constructor.
        prior_options: of the prior's constructor; a ``weight`` there stands for ``threshold``.
        scale: typical size of the object's values.
        seed: of the first weights of a prior that has some.
        host: where names are looked up.

    Raises:
        UnknownNameError: nobody registers the solver or the prior.
        SolverError: a number is wrong, or a name in ``learn``.
    """
    built = solver_by_name(
        problem, solver, prior, threshold * scale, solver_options, prior_options, seed, host
    )
    built = built.to(problem.operator.domain.real_dtype)
    return Unrolled(
        built, depth, tied=tied, learn=learn, start=start, problem=problem, memory=memory
    )


def make_equilibrium(
    problem: Problem,
    *,
    solver: str = "ista",
    prior: str = "tv",
    threshold: float = 0.01,
    learn: tuple[str, ...] | list[str] = ("step_size", "prior.weight"),
    solver_options: Options | None = None,
    prior_options: Options | None = None,
    equilibrium_options: Options | None = None,
    scale: float = 1.0,
    seed: int = 0,
    host: Host | None = None,
) -> Reconstructor:
    """The fixed point of any registered solver with any registered prior, as a network.

    Args:
        problem: an example: its operator gives step sizes and weights.
        solver: a registered one that is a fixed-point iteration.
        prior: a registered one.
        threshold: as for `make_unrolled`.
        learn: as for `make_unrolled`.
        solver_options: of the solver's constructor.
        prior_options: of the prior's constructor.
        equilibrium_options: of `labrecon.networks.equilibrium.Equilibrium`: find, backward, ….
        scale: typical size of the object's values.
        seed: of the first weights of a prior that has some.
        host: where names are looked up.

    Raises:
        UnknownNameError: nobody registers the solver or the prior.
        SolverError: a number is wrong, or a name in ``learn``.
    """
    from labrecon.networks.equilibrium import Equilibrium
    from labrecon.networks.learnable import with_learned

    built = solver_by_name(
        problem, solver, prior, threshold * scale, solver_options, prior_options, seed, host
    )
    built = built.to(problem.operator.domain.real_dtype)
    learned = with_learned(built, learn, 1, tied=True, problem=problem)
    return Equilibrium(learned, **dict(equilibrium_options or {}))


def solver_by_name(
    problem: Problem,
    solver: str,
    prior: str,
    threshold: float,
    solver_options: Options | None,
    prior_options: Options | None,
    seed: int,
    host: Host | None,
) -> Solver:
    """A registered solver with a registered prior, whose weight is ``threshold · L``."""
    host = host or plugins.host()
    make, make_prior = host.get("solvers", solver), host.get("priors", prior)
    of_solver, of_prior = dict(solver_options or {}), dict(prior_options or {})
    given: dict[str, Any] = {}
    with seeded(seed):
        if "prior" in inspect.signature(make).parameters:
            if "weight" in _names(make_prior) and "weight" not in of_prior:
                share = number(f"unrolled {solver}: threshold", threshold, above=0)
                of_prior["weight"] = share * _lipschitz(problem, of_solver)
            if "ndim" in _names(make_prior):
                of_prior.setdefault("ndim", min(2, problem.operator.domain.ndim))
            given["prior"] = make_prior(**of_prior)
        elif prior != "zero":
            raise SolverError(f"the solver {solver!r} uses no prior: set prior to 'zero'")
        built: Solver = make(**of_solver, **given)
    return built


def _names(factory: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(factory).parameters)


def _lipschitz(problem: Problem, options: Options) -> float:
    """``L``, or that which a step size stands for."""
    step = options.get("step_size")
    if isinstance(step, int | float) and step > 0:
        return 1 / step
    largest = problem.lipschitz()
    return largest if isinstance(largest, float) else float(largest.max())
