"""Objects that nothing was trained on, and simulated scans of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.errors import ObjectsError, RecipeError
from labrecon.instrument import Scan
from labrecon.io.model import SavedModel
from labrecon.io.objects import object_files, read_objects
from labrecon.io.provenance import hash_inputs
from labrecon.job import Job
from labrecon.learners.samples import sample_generator, split
from labrecon.operator import Operator

__all__ = ["HeldOut", "held_out", "simulated_scan"]

#: Of the generators, so that these objects are not those of a training with the same seed.
_OBJECTS, _NOISE = -11, -12
#: Share of the objects that coverage is measured on.
_MEASURED = 1 / 3


@dataclass(frozen=True)
class HeldOut:
    """Objects, dealt into those to calibrate on and those to measure coverage on.

    Attributes:
        objects: ``(n, *domain.shape)``.
        calibrate: indices.
        measure: indices; objects of one file are never dealt to both.
        told: where they are from.
        inputs: the files.
    """

    objects: Tensor
    calibrate: Sequence[int]
    measure: Sequence[int]
    told: str
    inputs: Sequence[Path] = ()


def held_out(
    job: Job,
    geometry: BaseModel,
    operator: Operator,
    *,
    objects: Path | None,
    dataset: str | None,
    unit: float,
    count: int,
    share: float = _MEASURED,
) -> HeldOut:
    """Objects of a folder, or the instrument's own.

    Raises:
        ObjectsError: they are not such as the operator takes, of a single file, or a file that a
            network was trained on.
    """
    if objects is None:
        generator = sample_generator(job.recipe.seed, 0, _OBJECTS)
        made = job.instrument.objects(geometry, count, generator).detach()
        operator.domain.check(made, f"objects of {job.instrument.name}")
        sources: Sequence[str] = [str(i) for i in range(len(made))]
        told, inputs = f"simulated by {job.instrument.name}", []
    else:
        inputs = object_files(objects)[0]
        if job.plans[0].model is not None:
            _require_unseen(job.plans[0].model, inputs)
        found = read_objects(objects, operator.domain, dataset=dataset, scale=unit)
        made, sources, told = found.objects, found.sources, str(objects)
        if len(set(sources)) < len(sources):
            job.warnings.append(
                f"{objects} has {len(sources)} objects in {len(set(sources))} files: those of one "
                "file are alike, so that the intervals are for further objects like these files"
            )
    try:
        calibrate, measure = split(sources, share, job.recipe.seed)
    except ValueError as error:
        raise ObjectsError(str(error)) from error
    return HeldOut(made, calibrate, measure, told, inputs)


def simulated_scan(job: Job, geometry: BaseModel, operator: Operator, x: Tensor, i: int) -> Scan:
    """A prepared scan of object ``i``: operator, then the instrument's noise."""
    noise = job.instrument.noise(geometry)
    with torch.no_grad():
        clean = operator(x.to(job.device)).cpu()
    data = noise.sample(clean, sample_generator(job.recipe.seed, i, _NOISE))
    return Scan(data, geometry, noise, truth=x)


def _require_unseen(model: SavedModel, files: Sequence[Path]) -> None:
    """Raise where a file is among the inputs of the training."""
    path = model.folder / "provenance.json"
    try:
        inputs = json.loads(path.read_text(encoding="utf-8"))["inputs"]
        seen = {entry["sha256"] for entry in inputs}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{path} does not say what the model was trained on, so that nothing tells whether "
            f"these objects were: {error}"
        ) from error
    known = [Path(e["path"]).name for e in hash_inputs(files) if e["sha256"] in seen]
    if known:
        raise ObjectsError(
            f"{', '.join(known[:5])}: {len(known)} of {len(files)} files were in the training of "
            f"{model.folder}; intervals are calibrated on objects that it has not seen"
        )
