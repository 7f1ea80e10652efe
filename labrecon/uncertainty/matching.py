"""The calibration of a reconstruction: which it is, and whether it is for this one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrecon.errors import RecipeError
from labrecon.io.changes import changes
from labrecon.job import Job
from labrecon.uncertainty.card import (
    INTERVALS,
    IntervalsCard,
    LevelRow,
    fingerprint,
    load_intervals,
    made_by,
)

__all__ = ["find_card", "of_another", "row_asked", "where_named"]


def find_card(job: Job) -> tuple[IntervalsCard | None, bool]:
    """The calibration, and whether the recipe names it."""
    given, model = job.recipe.uncertainty.calibration, job.plans[0].model
    if given is not None:
        return load_intervals(Path(given)), True
    if model is not None and (model.folder / INTERVALS).is_file():
        return load_intervals(model.folder / INTERVALS), False
    return None, False


def where_named(job: Job) -> str:
    """Where the calibration was named, or the file that lies beside the model."""
    model = job.plans[0].model
    if job.recipe.uncertainty.calibration is None and model is not None:
        return str(model.folder / INTERVALS)
    return job.recipe.where("uncertainty", "calibration")


def of_another(job: Job, card: IntervalsCard) -> str:
    """In words, that a calibration is not for this reconstruction; "" where it is."""
    plan = job.plans[0]
    if card.instrument == job.instrument.name and card.fingerprint == fingerprint(plan):
        return ""
    told = (
        f"the intervals were calibrated for {card.title} ({card.instrument}), and not for this "
        "reconstruction as it is now: "
    )
    found = "".join(
        f"\n  {line}" for line in changes(_brief(card.reconstruction), _brief(made_by(plan)))
    )
    if card.instrument != job.instrument.name or not card.reconstruction or not found:
        return f"{told}calibrate again with `labrecon intervals`"
    return f"{told.rstrip()}{found}\nset it as it was, or calibrate again with `labrecon intervals`"


def _brief(made: Mapping[str, Any]) -> dict[str, Any]:
    """With as much of a network's hash as a reader compares."""
    if "model" not in made:
        return dict(made)
    return {**made, "model": {**made["model"], "sha256": made["model"]["sha256"][:12]}}


def row_asked(job: Job, card: IntervalsCard) -> tuple[float, LevelRow]:
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
