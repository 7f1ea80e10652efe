"""What an adaptation needs, checked before any long work."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel

from labrecon.adapt.recipe import AdaptRecipe
from labrecon.calibration.unknowns import nuisance_named
from labrecon.errors import ModelError, RecipeError, ScanError
from labrecon.io.model import SavedModel, SpaceCard, unequal_fields
from labrecon.io.plain import brief
from labrecon.operator import Operator

if TYPE_CHECKING:
    from labrecon.adapt.order import Order

__all__ = ["calibrated_named", "require_alike", "require_work", "share_operator"]

#: Two operators whose predictions differ by less, relative to the largest, are one.
SAME = 1e-4


def calibrated_named(recipe: AdaptRecipe, operator: Operator) -> AdaptRecipe:
    """The recipe with full names of what is calibrated; the last part of a dotted one suffices.

    Raises:
        RecipeError: the operator has no such nuisance, or several; or one is named twice.
    """
    try:
        names = [nuisance_named(operator, name) for name in recipe.calibrate]
    except ValueError as error:
        raise RecipeError(f"{recipe.where('calibrate')}: {error}") from error
    if len(set(names)) < len(names):
        raise RecipeError(f"{recipe.where('calibrate')}: {', '.join(names)}: one is there twice")
    return recipe.model_copy(update={"calibrate": names})


def require_work(order: Order) -> None:
    """Raise where there is nothing to adapt to.

    Raises:
        RecipeError: there is nothing.
    """
    recipe, known = order.recipe, order.operator.nuisances
    if order.differences or recipe.calibrate or recipe.method == "transfer":
        return
    run = order.parent.folder
    free = _unequal(order.old, order.geometry, order.instrument.tolerances)
    within = (
        f" What differs needs no adaptation, as the network is given the operator of each scan: "
        f"{'; '.join(free)}."
        if free
        else ""
    )
    hidden = (
        f"name the nuisance that changed (--calibrate, of {', '.join(known)}), or " if known else ""
    )
    raise RecipeError(
        f"nothing to adapt: the geometry of the scans is one that {run} was trained for.{within} "
        f"`labrecon recon {order.asked} SCAN -o OUT --model {run}` reconstructs them as it is. If "
        "the instrument has changed in something that neither the files nor the preparation tell, "
        f"{hidden}give a few scans whose objects are known (--method transfer --objects FOLDER)"
    )


def require_alike(order: Order) -> None:
    """Raise where scans are of several acquisitions, or of other objects than in training.

    Raises:
        ModelError: other objects.
        ScanError: several acquisitions.
    """
    card, operator = order.parent.card, order.operator
    now = SpaceCard.of(operator.domain)
    if now != card.domain:
        raise ModelError(
            f"{order.parent.folder} was trained for objects {card.domain.shape} "
            f"({', '.join(card.domain.axes)}, {card.domain.dtype}), those of the scans are "
            f"{now.shape} ({', '.join(now.axes)}, {now.dtype}): reconstruct on the grid of the "
            "training, or train anew"
        )
    held = order.geometry.model_dump(mode="json")
    space = SpaceCard.of(operator.range)
    like = card.model_copy(update={"geometry": held, "range": space})
    first = SavedModel(order.parent.folder, like, {}, {})
    for path, scan, problem in zip(order.files, order.scans, order.problems, strict=True):
        other = first.differences(scan.geometry, problem.operator, order.instrument.tolerances)
        if other:
            told = "; ".join(line.replace("trained with", "the first has") for line in other)
            raise ScanError(
                f"{path} is of another acquisition than {order.files[0]} ({told}): adapt to one "
                "at a time"
            )


def share_operator(order: Order) -> None:
    """One operator for all scans where something of it is calibrated.

    Files, or a step that finds a centre in each scan, may give them slightly different values of
    what is calibrated: the fit starts from those of the first.

    Raises:
        ScanError: the operators differ in something else, too.
    """
    names, first = order.recipe.calibrate, order.operator
    if not names:
        return
    for i, (path, scan, problem) in enumerate(
        zip(order.files, order.scans, order.problems, strict=True)
    ):
        if problem.operator is first:
            continue
        if not _same_but_for(names, first, problem.operator):
            lines = _unequal(order.geometry, scan.geometry, None)
            told = "; ".join(line.replace("trained with", "the first has") for line in lines)
            what = f" ({told})" if told else ""
            raise ScanError(
                f"{path} has another operator than {order.files[0]}, and not in "
                f"{', '.join(names)} alone{what}: what is calibrated is found for one. Give "
                f"one of the scans (--scans {order.files[0]}), or some of equal geometry"
            )
        order.problems[i] = replace(problem, operator=first)


def _same_but_for(names: Iterable[str], first: Operator, other: Operator) -> bool:
    """Whether two operators predict the same, once the nuisances of one are the other's."""
    if (first.domain, first.range) != (other.domain, other.range):
        return False
    placed = copy.deepcopy(other)
    placed.place(first.current(*names))
    device = next(iter(first.current(*names).values())).device
    x = first.domain.random(generator=torch.Generator().manual_seed(0), device=device)
    with torch.no_grad():
        here, there = first(x), placed(x)
    return float((here - there).abs().max()) <= SAME * float(here.abs().max())


def _unequal(old: BaseModel, new: BaseModel, only: Iterable[str] | None) -> list[str]:
    """Fields in which two geometries differ at all, a line each."""
    before, after = (json.loads(one.model_dump_json()) for one in (old, new))
    return [
        f"{name}: trained with {brief(then)}, the scan has {brief(now)}"
        for name, then, now in unequal_fields(before, after, {})
        if only is None or name in only
    ]
