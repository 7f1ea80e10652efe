"""Reuse and regularise: a network trained for one operator as the prior of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from labrecon import plugins
from labrecon.instrument import Instrument
from labrecon.networks.modl import DataConsistency
from labrecon.networks.unrolled import Unrolled
from labrecon.noise import Gaussian, Noise
from labrecon.operator import Operator
from labrecon.options import number, whole
from labrecon.plugins import Host, resolve
from labrecon.priors.reused import Reused
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.schedule import Schedule
from labrecon.solver import SolverError

__all__ = ["make_reused", "reuse"]


def reuse(
    network: Reconstructor,
    operator: Operator,
    problem: Problem,
    *,
    coupling: float = 0.1,
    iterations: int = 30,
    noise: Noise | None = None,
) -> Unrolled:
    """R&R: ``x ← (A₁ᴴA₁ + λ)⁻¹ (A₁ᴴy + λ R₀(A₀ x))`` (Gilton, Ongie and Willett 2021).

    Half-quadratic splitting whose prior is the network `Reused`, from the operator's own first
    estimate. Nothing is trained; what can be, is what the network learned (R&R+).

    Args:
        network: ``R₀``, trained for ``operator``.
        operator: ``A₀``.
        problem: an example of those to come: its operator is ``A₁``.
        coupling: ``λ`` for ``‖A₁‖ = 1``.
        iterations: how many.
        noise: the data term that ``R₀`` was trained with.

    Raises:
        SolverError: objects of the two operators are not alike, the new one is not linear, or a
            number is out of range.
    """
    old, new = operator.domain, problem.operator.domain
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        raise SolverError(
            f"the network was trained for objects {old}, those of {problem.operator.name} are "
            f"{new}: reconstruct on the grid of the training"
        )
    share = number("reused: coupling", coupling, above=0, error=SolverError)
    depth = whole("reused: iterations", iterations, error=SolverError)
    size = share * float(torch.as_tensor(problem.lipschitz()).max())
    solver = DataConsistency(prior=Reused(network, operator, noise), coupling=Schedule(size))
    solver.check(problem)
    return Unrolled(solver, depth, start="initial").to(new.real_dtype)


def make_reused(
    problem: Problem,
    *,
    network: str,
    instrument: str,
    geometry: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    operator: Mapping[str, Any] | None = None,
    data_term: Literal["unit", "noise"] = "unit",
    coupling: float = 0.1,
    iterations: int = 30,
    scale: float = 1.0,
    seed: int = 0,
    host: Host | None = None,
) -> Unrolled:
    """`reuse` of a registered network, built for the acquisition that it was trained for.

    What `labrecon adapt` writes; its tensors are those of the wrapped network.

    Args:
        problem: an example of those to come.
        network: a registered one.
        instrument: a registered name, or ``"module:Class"``.
        geometry: of the training.
        options: of the network.
        operator: options of the instrument's operator in training.
        data_term: of the training.
        coupling: ``λ`` for ``‖A₁‖ = 1``.
        iterations: how many.
        scale: typical size of the object's values.
        seed: of first weights.
        host: where names are looked up.

    Raises:
        UnknownNameError: nobody registers the network or the instrument.
        SolverError: see `reuse`.
    """
    host = host or plugins.host()
    # A name with a colon is a plugin's, or a module's.
    module, colon, _ = instrument.partition(":")
    known = not colon or module in host.reports
    found = host.get("instruments", instrument) if known else resolve(instrument)
    lab: Instrument = found() if isinstance(found, type) else found
    held = lab.Geometry.model_validate(dict(geometry))
    old = lab.operator(held, **dict(operator or {})).to(problem.data.device)
    noise: Noise = lab.noise(held) if data_term == "noise" else Gaussian()
    noise = noise.to(problem.data.device)
    example = Problem(old, old.range.zeros(*problem.batch, device=problem.data.device), noise)
    make = host.get("networks", network)
    made: Reconstructor = make(example, scale=scale, seed=seed, **dict(options or {}))
    return reuse(made, old, problem, coupling=coupling, iterations=iterations, noise=noise)
