"""Plug and play: any solver with a denoiser in the place of its prior."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from labrecon import plugins
from labrecon.networks.denoiser_file import KINDS, SUFFIX, fitting_denoiser, read_denoiser
from labrecon.networks.unrolled import Start, Unrolled
from labrecon.options import number, whole
from labrecon.plugins import Host
from labrecon.prior import Prior
from labrecon.priors.channels import channel_count
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solver import Solver, SolverError

__all__ = ["make_pnp"]

#: The numbers of solvers that couple two copies of the object, in units of the curvature.
COUPLINGS = ("rho", "mu")


def make_pnp(
    problem: Problem,
    *,
    solver: str | Solver = "hqs",
    denoiser: str | nn.Module | Prior = "drunet",
    depth: int = 20,
    noise_level: float | None = None,
    weight: float | None = None,
    complex_as: str | None = None,
    low: float | None = None,
    high: float | None = None,
    coupling: float = 0.25,
    learn: Iterable[str] = (),
    start: Start = "initial",
    scale: float = 1.0,
    seed: int = 0,
    host: Host | None = None,
    **options: Any,
) -> Unrolled:
    """``depth`` steps of a solver whose prior is a denoiser, the same in all steps.

    One denoiser serves any operator. Train it by itself (learner "denoising"), which needs no
    instrument, or with the steps around it. It is random at first unless it is given trained. An
    unrolled network trained for one instrument gets further with less data.

    Args:
        problem: an example: its operator gives axes, dtype and step sizes.
        solver: a registered one ("admm", "hqs", "ista", "fista", …), or one whose prior is replaced
            in a copy.
        denoiser: "drunet", "dncnn", a file of `labrecon.networks.denoiser_file`, a network from
            real channels to real channels, or a prior: a `Denoiser` of your own, or a classical
            one, which makes it a classical solver.
        depth: number of steps.
        noise_level: ``σ`` in units of the object for a network that takes one; None for
            ``0.05 · scale``.
        weight: in its place: ``σ = √(weight · step)``, so that a coupling that grows, as of "hqs"
            with ``growth``, brings the noise level down (Zhang et al. 2021).
        complex_as: see `Denoiser`; None for "parts" where the network has one channel.
        low: lowest value of the object, at which the denoised one is cut; None for none.
        high: highest value.
        coupling: ``ρ`` of ADMM or ``μ`` of HQS in units of ``L``, where ``options`` and a solver
            that is given do not say.
        learn: numbers of the solver to learn, one for all steps, see `Unrolled`.
        start: as for `Unrolled`.
        scale: typical size of the object's values.
        seed: of the first weights of a denoiser by name.
        host: where names of solvers are looked up.
        **options: of the solver's constructor.

    Raises:
        UnknownNameError: nobody registers the solver.
        SolverError: the solver uses no prior, there is no such denoiser, or a number is wrong.
    """
    if isinstance(denoiser, Prior):
        prior = denoiser
        told = {"noise_level": noise_level, "weight": weight, "complex_as": complex_as}
        told |= {"low": low, "high": high}
        if given := [name for name, value in told.items() if value is not None]:
            raise SolverError(
                f"{', '.join(given)}: for networks; the prior that was given has its own"
            )
    else:
        if isinstance(denoiser, str):
            denoiser = _named(denoiser, problem, seed)
        if noise_level is None and weight is None and getattr(denoiser, "noise_channel", False):
            noise_level = 0.05 * scale
        prior = fitting_denoiser(
            denoiser,
            noise_level=noise_level,
            weight=weight,
            scale=scale,
            complex_as=complex_as,
            axes=min(2, problem.operator.domain.ndim),
            low=low,
            high=high,
        )
    if isinstance(solver, Solver):
        if options:
            raise SolverError(f"the solver is given as it is: {', '.join(options)} do not apply")
        if not hasattr(solver, "prior"):
            raise SolverError(f"{solver.name} uses no prior that a denoiser could replace")
        made = copy.deepcopy(solver)
        made.prior = prior
    else:
        made = _solver(problem, solver, prior, coupling, options, host or plugins.host())
    return Unrolled(
        made,
        whole("depth", depth, error=SolverError),
        tied=True,
        learn=learn,
        start=start,
        problem=problem,
    )


def _solver(
    problem: Problem,
    name: str,
    prior: Prior,
    coupling: float,
    options: dict[str, Any],
    host: Host,
) -> Solver:
    make = host.get("solvers", name)
    takes = inspect.signature(make).parameters
    if "prior" not in takes:
        raise SolverError(f"the solver {name!r} uses no prior that a denoiser could replace")
    for key in COUPLINGS:
        if key in takes and key not in options:
            share = number("coupling", coupling, above=0, error=SolverError)
            options[key] = share * float(torch.as_tensor(problem.lipschitz()).max())
    try:
        built: Solver = make(prior=prior, **options)
    except TypeError as error:
        raise SolverError(f"the solver {name!r}: {error}") from error
    return built


def _named(name: str, problem: Problem, seed: int) -> nn.Module:
    domain = problem.operator.domain
    if name.endswith(SUFFIX):
        return read_denoiser(name).to(domain.real_dtype)
    if name not in KINDS:
        raise SolverError(
            f"denoiser is a network, a prior, a file {SUFFIX}, or one of {', '.join(KINDS)}, got "
            f"{name!r}"
        )
    with seeded(seed):
        made = KINDS[name](channel_count(domain.dtype), axes=min(2, domain.ndim))
    return made.to(domain.real_dtype)
