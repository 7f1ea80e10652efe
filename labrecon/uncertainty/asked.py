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

__all__ = ["Asked", "error_bars", "heuristic"]


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


def error_bars(job: Job, geometry: BaseModel, operator: Operator) -> Asked | None:
    """What ``[uncertainty]`` asks for; None where it is off.

    A calibration that does not fit is refused where the recipe names it. Where it merely lies in
    the folder of the model, the error bars are made without, and a warning says why.

    Raises:
        RecipeError: the calibration is for something else, or a method that is not possible here.
        ModelError: a network of the ensemble is damaged, or another.
    """
    table = job.recipe.uncertainty
    if table.method == "none":
        return None
    card, named = _card(job)
    if card is None:
        return heuristic(job, geometry, operator)
    where = job.recipe.where("uncertainty", "calibration")
    if card.instrument != job.instrument.name or card.fingerprint != fingerprint(job.plans[0]):
        why = (
            f"the intervals were calibrated for {card.title} ({card.instrument}), and not for this "
            "reconstruction as it is now: calibrate again with `labrecon intervals`"
        )
        return _without(job, geometry, operator, f"{where}: {why}", refuse=named)
    _require_same_method(job, card)
    differing = card.differences(geometry, operator, job.instrument.tolerances)
    if differing:
        why = (
            "the intervals were calibrated for another acquisition (it differs in "
            f"{', '.join(differing)}): calibrate for this one with `labrecon intervals`"
        )
        refuse = named and not job.other_geometry
        return _without(job, geometry, operator, f"{where}: {why}", refuse=refuse)
    level = table.level if "level" in table.model_fields_set else card.strata_level
    row = card.at(level)
    if row is None:
        levels = ", ".join(f"{each.level:g}" for each in card.levels)
        raise RecipeError(
            f"{job.recipe.where('uncertainty', 'level')}: {level:g} was not calibrated; "
            f"there are {levels}"
        )
    runs: dict[str, str | None] = {member.run: member.sha256 for member in card.members}
    members = _members(job, geometry, operator, runs)
    return Asked(card.method, level, card.draws, members, card, row)


def heuristic(job: Job, geometry: BaseModel, operator: Operator) -> Asked | None:
    """The method of ``[uncertainty]`` without calibration; None where none is named or at hand.

    Raises:
        RecipeError: it is not possible with this solver.
        ModelError: a network of the ensemble can not be used.
    """
    table, plan = job.recipe.uncertainty, job.plans[0]
    sampler = _is_sampler(job, plan)
    where = job.recipe.where("uncertainty", "method")
    method = table.method
    if method == "auto":
        if not sampler:
            return None
        method = "langevin"
    if method == "langevin" and not sampler:
        raise RecipeError(
            f"{where}: the method 'langevin' takes the spread of a sampler's samples, and "
            f"{plan.title!r} is none: set solver.name = 'langevin', or take 'bootstrap'"
        )
    if method == "ensemble" and (plan.model is None or not table.members):
        raise RecipeError(
            f"{where}: an ensemble is of trained networks: give one as --model RUN, and the "
            "folders of the others as uncertainty.members"
        )
    runs = dict.fromkeys(table.members) if method == "ensemble" else {}
    members = _members(job, geometry, operator, runs)
    return Asked(method, table.level, table.draws, members, why=_NOT_RUN)


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


def _require_same_method(job: Job, card: IntervalsCard) -> None:
    table, where = job.recipe.uncertainty, job.recipe.where
    if table.method not in ("auto", card.method):
        raise RecipeError(
            f"{where('uncertainty', 'method')}: the intervals were calibrated for the method "
            f"{card.method!r}, not for {table.method!r}: leave it out, or calibrate again"
        )
    if "draws" in table.model_fields_set and table.draws != card.draws:
        raise RecipeError(
            f"{where('uncertainty', 'draws')}: the intervals were calibrated with {card.draws} "
            f"draws, not with {table.draws}: leave it out, or calibrate again"
        )
    if table.members and card.method == "ensemble":
        raise RecipeError(
            f"{where('uncertainty', 'members')}: the calibration names the members itself: leave "
            "it out, or calibrate again"
        )


def _is_sampler(job: Job, plan: Plan) -> bool:
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
