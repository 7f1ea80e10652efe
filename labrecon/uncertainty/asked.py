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
from labrecon.uncertainty.card import (
    INTERVALS,
    IntervalsCard,
    LevelRow,
    fingerprint,
    load_intervals,
)

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
    card, named = _card(job)
    if card is None:
        _method(job)
        return
    why = _of_another(job, card)
    if why and named:
        raise RecipeError(f"{job.recipe.where('uncertainty', 'calibration')}: {why}")
    if not why:
        _row(job, card)


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
    card, named = _card(job)
    if card is None:
        return heuristic(job, geometry, operator)
    where = job.recipe.where("uncertainty", "calibration")
    if why := _of_another(job, card):
        return _without(job, geometry, operator, f"{where}: {why}", refuse=named)
    level, row = _row(job, card)
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


def _card(job: Job) -> tuple[IntervalsCard | None, bool]:
    """The calibration, and whether the recipe names it."""
    given, model = job.recipe.uncertainty.calibration, job.plans[0].model
    if given is not None:
        return load_intervals(Path(given)), True
    if model is not None and (model.folder / INTERVALS).is_file():
        return load_intervals(model.folder / INTERVALS), False
    return None, False


def _of_another(job: Job, card: IntervalsCard) -> str:
    """In words, that a calibration is not for this reconstruction; "" where it is."""
    if card.instrument == job.instrument.name and card.fingerprint == fingerprint(job.plans[0]):
        return ""
    return (
        f"the intervals were calibrated for {card.title} ({card.instrument}), and not for this "
        "reconstruction as it is now: calibrate again with `labrecon intervals`"
    )


def _row(job: Job, card: IntervalsCard) -> tuple[float, LevelRow]:
    """The level that is asked for, and its row."""
    _require_same_method(job, card)
    table = job.recipe.uncertainty
    level = card.strata_level if table.level is None else table.level
    row = card.at(level)
    if row is None:
        levels = ", ".join(f"{each.level:g}" for each in card.levels)
        raise RecipeError(
            f"{job.recipe.where('uncertainty', 'level')}: {level:g} was not calibrated; "
            f"there are {levels}"
        )
    return level, row


def _require_same_method(job: Job, card: IntervalsCard) -> None:
    table, where = job.recipe.uncertainty, job.recipe.where
    if table.method not in ("auto", card.method):
        raise RecipeError(
            f"{where('uncertainty', 'method')}: the intervals were calibrated for the method "
            f"{card.method!r}, not for {table.method!r}: leave it out, or calibrate again"
        )
    if table.draws not in (None, card.draws):
        raise RecipeError(
            f"{where('uncertainty', 'draws')}: the intervals were calibrated with {card.draws} "
            f"draws, not with {table.draws}: leave it out, or calibrate again"
        )
    if table.members:
        names = "names the members itself" if card.method == "ensemble" else "is of no ensemble"
        raise RecipeError(
            f"{where('uncertainty', 'members')}: the calibration {names}: leave it out, or "
            "calibrate again"
        )


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
