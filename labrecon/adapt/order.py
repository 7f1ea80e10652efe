"""One adaptation as it was asked for, checked before any long work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from labrecon import plugins, posing
from labrecon.adapt.checks import calibrated_named, require_alike, require_work, share_operator
from labrecon.adapt.reading import find_scans, posed_scan, prepared_scan, read_truths
from labrecon.adapt.recipe import AdaptRecipe
from labrecon.adapt.source import doubts
from labrecon.clock import Clock, Watcher
from labrecon.errors import ModelError, RecipeError
from labrecon.instrument import Instrument, Scan
from labrecon.io.call import path_of
from labrecon.io.model import SavedModel, load_model
from labrecon.operator import Operator
from labrecon.operator_cache import OperatorCache
from labrecon.plan import Plan, find_instrument, make_plans
from labrecon.plugins import Host
from labrecon.problem import Problem
from labrecon.recipe import load_recipe

__all__ = ["Order", "place_order"]

#: Operators that are kept, where a field that may differ does so from scan to scan.
KEPT = 8


@dataclass
class Order:
    """What is asked for, and what has been noted on the way.

    Attributes:
        parent: the trained model.
        recipe: as resolved.
        instrument: of the model and of the scans.
        asked: the instrument as it is found again: a registered name, or ``"module:Class"``.
        plan: how scans are prepared.
        files: of the scans.
        scans: as prepared.
        problems: one per scan, with the noise that it declares.
        truths: of each scan, where transfer learning is given them.
        old: geometry of the training.
        device: where to compute.
        host: the plugins.
        clock: seconds per stage.
        differences: what is not as in training, a line each.
        warnings: what went wrong without stopping it.
        truth_files: files of the truths.
        doubts: what speaks against the trained network; among the warnings, too.
        tell: is given a sentence on what is known before the work, or begins.
    """

    parent: SavedModel
    recipe: AdaptRecipe
    instrument: Instrument
    asked: str
    plan: Plan
    files: list[Path]
    scans: list[Scan]
    problems: list[Problem]
    truths: list[Tensor]
    old: BaseModel
    device: torch.device
    host: Host
    clock: Clock
    differences: list[str]
    warnings: list[str] = field(default_factory=list)
    truth_files: list[Path] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    tell: Callable[[str], None] | None = None

    @property
    def geometry(self) -> BaseModel:
        """That of the scans; fields that may differ are those of the first."""
        return self.scans[0].geometry

    @property
    def operator(self) -> Operator:
        """``A₁``, that of the first scan."""
        return self.problems[0].operator

    def old_operator(self) -> Operator:
        """``A₀``, that of the training."""
        card = self.parent.card
        return posing.make_operator(self.instrument, self.old, card.operator, self.device)


def place_order(
    run: str | Path,
    scans: Sequence[str | Path],
    recipe: AdaptRecipe,
    *,
    objects: str | Path | None = None,
    instrument: str | Instrument | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
    tell: Callable[[str], None] | None = None,
    host: Host | None = None,
) -> Order:
    """Read model and scans, and check everything that can be checked before any long work.

    Raises:
        ModelError: the run is not done or damaged, or its objects are other ones than the scans'.
        RecipeError: nothing to adapt to, or to calibrate; objects that no method takes.
        ScanError, ObjectsError: scans or objects can not be read, or do not fit.
        ReconstructionError: there is no such device.
    """
    host = host or plugins.host()
    parent = load_model(Path(run))
    card = parent.card
    if card.network in ("reused", "calibrated"):
        raise ModelError(
            f"{parent.folder} was adapted itself ({card.network}): adapt the run that it came from "
            "to the new scans; its provenance.json names it (parent)"
        )
    if (objects is None) != (recipe.method != "transfer"):
        raise RecipeError(
            "transfer learning, and no other method, needs the objects of the scans: give "
            "--method transfer and --objects FOLDER together"
        )
    known = doubts(parent.folder)
    for doubt in known:
        if tell is not None:
            tell(f"warning: {doubt}")
    asked, lab = _instrument(parent, instrument, host)
    chosen = posing.pick_device(device)
    clock = Clock(watcher=watcher)
    given = {"seed": card.seed, "prepare": card.prepare, "operator": card.operator}
    plan = make_plans(load_recipe(given, lab), lab, host, parent)[0]
    files = find_scans(scans, lab, host)
    with clock("read"):
        read = [prepared_scan(lab, path, plan, host) for path in files]
    cache = OperatorCache(KEPT)
    with clock("operator"):
        operators = [cache.get(lab, scan.geometry, plan.operator, chosen) for scan in read]
    recipe = calibrated_named(recipe, operators[0])
    pairs = zip(files, read, operators, strict=True)
    problems = [posed_scan(path, scan, operator, chosen) for path, scan, operator in pairs]
    differences = parent.differences(read[0].geometry, operators[0], lab.tolerances)
    order = Order(
        parent,
        recipe,
        lab,
        asked,
        plan,
        files,
        read,
        problems,
        [],
        _old_geometry(parent, lab),
        chosen,
        host,
        clock,
        differences,
        warnings=[*known],
        doubts=known,
        tell=tell,
    )
    require_work(order)
    require_alike(order)
    share_operator(order)
    if objects is not None:
        order.truth_files, order.truths = read_truths(files, problems, Path(objects))
    return order


def _instrument(
    parent: SavedModel, given: str | Instrument | None, host: Host
) -> tuple[str, Instrument]:
    if isinstance(given, Instrument):
        asked, found = path_of(given), given
    else:
        asked = given or parent.card.instrument
        try:
            found = find_instrument(asked, host)
        except RecipeError as error:
            raise RecipeError(
                f"the instrument of {parent.folder}: {error}; --instrument module:Class says where "
                "one is that no plugin registers"
            ) from error
    parent.require_instrument(found.name)
    return asked, found


def _old_geometry(parent: SavedModel, instrument: Instrument) -> BaseModel:
    try:
        held = instrument.Geometry.model_validate(parent.card.geometry)
    except ValidationError as error:
        raise ModelError(
            f"the geometry in {parent.folder}/model.json is none of {instrument.name!r} as it is "
            f"now: {error.errors()[0]['msg']}"
        ) from error
    return instrument.designed(held, parent.designs) if parent.designs else held
