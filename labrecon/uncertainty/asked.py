"""Which error bars a recipe asks for, checked before any long work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from labrecon.errors import ModelError, RecipeError
from labrecon.io.model import load_model
from labrecon.job import Job
from labrecon.operator import Operator
from labrecon.plan import Plan, make_plans
from labrecon.solvers.chains import ChainState
from labrecon.uncertainty.card import IntervalsCard, LevelRow
from labrecon.uncertainty.matching import find_card, of_another, row_asked, where_named

__all__ = ["Asked", "check_asked", "error_bars", "heuristic", "is_sampler"]


#: Where neither the recipe nor a calibration says otherwise.
LEVEL, DRAWS = 0.9, 20
_NOT_RUN = "`labrecon intervals` was not run for this reconstruction"


@dataclass(frozen=True)
class Asked:
    """Error bars to be made.

    Attributes:
        method: of the deviation.
        level: share of samples to be covered.
        draws: of the bootstrap.
        members: of the ensemble, the main network apart.
        card: the calibration; None where there is none that fits.
        row: of the level in it.
        why: there is no calibration, in words.
    """

    method: str
    level: float
    draws: int
    members: tuple[Plan, ...] = ()
    card: IntervalsCard | None = None
    row: LevelRow | None = None
    why: str = ""


def check_asked(job: Job) -> None:
    """Refuse, before a scan is read, what `error_bars` would refuse of every scan.

    Raises:
        RecipeError: the calibration that is named is for something else; a method, or a level, that
            is not possible.
    """
    if job.recipe.uncertainty.method == "none":
        return
    card, named = find_card(job)
    if card is None:
        _method(job)
        return
    why = of_another(job, card)
    if why and named:
        raise RecipeError(f"{where_named(job)}: {why}")
    if not why:
        row_asked(job, card)


def error_bars(job: Job, geometry: BaseModel, operator: Operator) -> Asked | None:
    """What ``[uncertainty]`` asks for; None where it is off.

    A calibration that does not fit is refused where the recipe names it. Where it merely lies in
    the folder of the model, the error bars are made without, and a warning says why.

    Raises:
        RecipeError: the calibration is for something else, or a method that is not possible here.
        ModelError: a network of the ensemble is damaged, or another.
    """
    if job.recipe.uncertainty.method == "none":
        return None
    card, named = find_card(job)
    if card is None:
        return heuristic(job, geometry, operator)
    where = where_named(job)
    if why := of_another(job, card):
        return _without(job, geometry, operator, f"{where}: {why}", refuse=named)
    level, row = row_asked(job, card)
    differing = card.differences(geometry, operator, job.instrument.tolerances)
    if differing:
        why = (
            "the intervals were calibrated for another acquisition (it differs in "
            f"{', '.join(differing)}): calibrate for this one with `labrecon intervals`"
        )
        refuse = named and not job.other_geometry
        return _without(job, geometry, operator, f"{where}: {why}", refuse=refuse)
    runs: dict[str, str | None] = {member.run: member.sha256 for member in card.members}
    members = _members(job, geometry, operator, runs)
    return Asked(card.method, level, card.draws, members, card, row)


def heuristic(job: Job, geometry: BaseModel, operator: Operator) -> Asked | None:
    """The method of ``[uncertainty]`` without calibration; None where none is named or at hand.

    Raises:
        RecipeError: it is not possible with this solver.
        ModelError: a network of the ensemble can not be used.
    """
    table, method = job.recipe.uncertainty, _method(job)
    if method is None:
        return None
    runs = dict.fromkeys(table.members) if method == "ensemble" else {}
    members = _members(job, geometry, operator, runs)
    return Asked(method, table.level or LEVEL, table.draws or DRAWS, members, why=_NOT_RUN)


def _method(job: Job) -> str | None:
    """The method where there is no calibration."""
    table, plan = job.recipe.uncertainty, job.plans[0]
    sampler = is_sampler(job, plan)
    where = job.recipe.where("uncertainty", "method")
    method = table.method
    if method == "auto":
        if not sampler and not table.members:
            return None
        method = "ensemble" if table.members else "posterior"
    if method == "posterior" and not sampler:
        raise RecipeError(
            f"{where}: the method 'posterior' takes the spread of a sampler's samples, and "
            f"{plan.title!r} is none: set solver.name = 'perturb-optimise' or 'langevin', or take "
            "the method 'bootstrap'"
        )
    if method == "ensemble" and (plan.model is None or not table.members):
        raise RecipeError(
            f"{where}: an ensemble is of trained networks: give one as --model RUN, and the "
            "folders of the others as uncertainty.members"
        )
    if table.members and method != "ensemble":
        raise RecipeError(
            f"{job.recipe.where('uncertainty', 'members')}: the method {method!r} has no use of "
            "other networks: set uncertainty.method = 'ensemble', or leave them out"
        )
    return method


def _without(
    job: Job, geometry: BaseModel, operator: Operator, why: str, *, refuse: bool
) -> Asked | None:
    if refuse:
        raise RecipeError(why)
    job.warnings.append(why)
    found = heuristic(job, geometry, operator)
    return None if found is None else replace(found, why=why)


def is_sampler(job: Job, plan: Plan) -> bool:
    """Whether the solver draws samples of the posterior."""
    if plan.model is not None:
        return False
    kind = getattr(job.host.get("solvers", plan.solver.name), "state_type", None)
    return isinstance(kind, type) and issubclass(kind, ChainState)


def _members(
    job: Job, geometry: BaseModel, operator: Operator, runs: Mapping[str, str | None]
) -> tuple[Plan, ...]:
    """Plans of the networks in run folders, each with the hash that it should have."""
    plans = []
    for run, digest in runs.items():
        model = load_model(Path(run))
        model.require_instrument(job.instrument.name)
        if digest is not None and model.card.sha256 != digest:
            raise ModelError(
                f"{run} holds another network than the intervals were calibrated with: calibrate "
                "again with `labrecon intervals`"
            )
        differing = model.differences(geometry, operator, job.instrument.tolerances)
        if differing and not job.other_geometry:
            raise ModelError(
                f"the model in {run} was trained for another acquisition: {'; '.join(differing)}"
            )
        plans.append(make_plans(job.recipe, job.instrument, job.host, model)[0])
    return tuple(plans)
