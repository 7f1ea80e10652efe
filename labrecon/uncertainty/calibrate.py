"""Calibration of intervals on held-out objects, and the coverage that comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from labrecon import posing, reading
from labrecon.clock import Watcher
from labrecon.errors import ModelError, ObjectsError, OutputError, RecipeError
from labrecon.instrument import Instrument
from labrecon.io.atomic import write_file
from labrecon.io.model import SavedModel
from labrecon.job import Job, assemble_job
from labrecon.operator import Operator
from labrecon.plugins import Host
from labrecon.uncertainty.asked import DRAWS, LEVEL, Asked, heuristic
from labrecon.uncertainty.card import INTERVALS, IntervalsCard
from labrecon.uncertainty.conformal import fewest_objects
from labrecon.uncertainty.heldout import held_out, objects_in_all
from labrecon.uncertainty.looked import look
from labrecon.uncertainty.measured import card_of

__all__ = ["Calibrated", "calibrate_intervals"]


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate_intervals` made.

    Attributes:
        path: of ``intervals.json``.
        card: its content.
        warnings: what went wrong without stopping it.
    """

    path: Path
    card: IntervalsCard
    warnings: list[str] = field(default_factory=list)


def calibrate_intervals(
    instrument: str | Instrument,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Mapping[str, Any] = "recon",
    overrides: Iterable[str] = (),
    model: str | Path | None = None,
    objects: str | Path | None = None,
    dataset: str | None = None,
    unit: float = 1.0,
    count: int = 60,
    geometry: str | Path | None = None,
    scan: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    watcher: Watcher | None = None,
    host: Host | None = None,
) -> Calibrated:
    """Calibrate the error bars of a recipe, or of a trained network, on held-out objects.

    Scans of the objects are simulated and reconstructed, each with its deviation (the recipe's
    ``[uncertainty]``, by default the bootstrap). Two thirds of them give the factor of each level,
    see `labrecon.uncertainty.conformal.conformal_factor`; on the others coverage is measured.

    Args:
        instrument: a registered name, or an instrument.
        out: file to write; by default ``intervals.json`` in the folder of the model.
        recipe: of the reconstruction, see `labrecon.recon.reconstruct`.
        overrides: dotted assignments on top of it: ``"uncertainty.level=0.95"``.
        model: run folder of `labrecon train`: its network is calibrated.
        objects: folder of objects that it was not trained on; by default the instrument's own.
        dataset: array of an HDF5 or ``.npz`` file that holds several.
        unit: what a file's 1 is in the instrument's unit.
        count: number of simulated objects.
        geometry: JSON file of the acquisition; by default that of the model, or the example.
        scan: a measured file whose geometry is taken.
        device: a torch device, or ``"auto"`` for the first GPU if there is one.
        force: replace an earlier calibration.
        watcher: is told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        RecipeError: recipe, names or options; or no file to write; exit code 2.
        ModelError: the model can not be used; 2.
        ObjectsError: too few objects, or not such as the operator takes; 3.
        ReconstructionError: memory, divergence; 4.
        OutputError: the file is there, or can not be written; 5.
    """
    job = assemble_job(
        instrument,
        recipe=recipe,
        overrides=overrides,
        device=device,
        force=force,
        watcher=watcher,
        host=host,
        model=model,
    )
    path = _path(job, out, force)
    acquired = _geometry(job, geometry, scan)
    operator = posing.make_operator(job.instrument, acquired, job.plans[0].operator, job.device)
    saved = job.plans[0].model
    if saved is not None:
        _require_trained_for(job, saved, acquired, operator)
        operator = saved.as_calibrated(operator)
    asked = _asked(job, acquired, operator)
    with job.clock("objects"):
        folder = None if objects is None else Path(objects)
        held = held_out(
            job, acquired, operator, objects=folder, dataset=dataset, unit=unit, count=count
        )
    _require_enough(len(held.calibrate), asked.level, simulated=objects is None)
    with job.clock("calibrate"), torch.no_grad():
        order = [*held.calibrate, *held.measure]
        looked = []
        for i in order:
            looked.append(look(job, asked, acquired, operator, held.objects[i], i))
            if job.clock.watcher is not None:
                done = {"iteration": float(len(looked)), "loss": looked[-1].error}
                job.clock.watcher.step("calibrating", done, len(order))
    card = card_of(job, asked, acquired, operator, held, looked)
    write_file(path, card.model_dump_json(indent=2), force=force)
    return Calibrated(path, card, job.warnings)


def _path(job: Job, out: str | Path | None, force: bool) -> Path:
    model = job.plans[0].model
    if out is None and model is None:
        raise RecipeError("name the file to write (-o FILE): without a model there is no folder")
    path = Path(out) if out is not None else model.folder / INTERVALS  # type: ignore[union-attr]
    if path.exists() and not force:
        raise OutputError(f"{path} exists; name another file, or use --force to replace it")
    return path


def _geometry(job: Job, geometry: str | Path | None, scan: str | Path | None) -> BaseModel:
    model = job.plans[0].model
    given = [
        name
        for name, there in (("--geometry", geometry), ("--scan", scan), ("--model", model))
        if there is not None
    ]
    if len(given) > 1:
        raise RecipeError(f"{' and '.join(given)} each give a geometry: take one of them")
    if model is not None:
        return job.instrument.Geometry.model_validate(model.card.geometry)
    if geometry is not None:
        return job.instrument.assumed(reading.read_geometry(job.instrument, Path(geometry)))
    if scan is not None:
        read = reading.read(job.instrument, Path(scan), job.host)
        return reading.prepare(job.instrument, read, job.plans[0]).geometry
    return job.instrument.example()


def _require_trained_for(
    job: Job, model: SavedModel, geometry: BaseModel, operator: Operator
) -> None:
    found = model.differences(geometry, operator, job.instrument.tolerances)
    if found:
        raise ModelError(f"the model in {model.folder} does not fit: {'; '.join(found)}")


def _asked(job: Job, geometry: BaseModel, operator: Operator) -> Asked:
    table = job.recipe.uncertainty
    if table.calibration is not None:
        raise RecipeError(
            f"{job.recipe.where('uncertainty', 'calibration')}: this is what is being made: leave "
            "it out"
        )
    if table.method == "none":
        raise RecipeError(
            f"{job.recipe.where('uncertainty', 'method')}: 'none' leaves nothing to calibrate"
        )
    return heuristic(job, geometry, operator) or Asked(
        "bootstrap", table.level or LEVEL, table.draws or DRAWS
    )


def _require_enough(count: int, level: float, *, simulated: bool) -> None:
    needed = fewest_objects(level)
    if count < needed:
        total = objects_in_all(needed)
        give = (
            f"use --count {total} or more"
            if simulated
            else f"give about {total} objects, each in a file of its own"
        )
        raise ObjectsError(
            f"{count} objects to calibrate on are too few for intervals of {level:g}: they need "
            f"{needed}: {give} (a third is to measure coverage on), or take a lower level "
            "(uncertainty.level)"
        )
