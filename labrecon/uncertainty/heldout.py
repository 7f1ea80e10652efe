"""Objects that nothing was trained on, and simulated scans of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

__all__ = ["HeldOut", "held_out", "objects_in_all", "simulated_scan"]

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


def objects_in_all(calibrated: int) -> int:
    """How many objects there must be for so many to be calibrated on, each of a file of its own.

    Example:
        >>> objects_in_all(9), objects_in_all(19)
        (13, 28)
    """
    count = calibrated + 1
    while count - max(1, math.floor(_MEASURED * count)) < calibrated:
        count += 1
    return count


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
    model = job.plans[0].model
    if objects is None:
        if model is not None:
            _warn_of_other_objects(job, model)
        generator = sample_generator(job.recipe.seed, 0, _OBJECTS)
        made = job.instrument.objects(geometry, count, generator).detach()
        operator.domain.check(made, f"objects of {job.instrument.name}")
        sources: Sequence[str] = [str(i) for i in range(len(made))]
        told, inputs = f"simulated by {job.instrument.name}", []
    else:
        inputs = object_files(objects)[0]
        if model is not None:
            _require_unseen(model, inputs)
        found = read_objects(objects, operator.domain, dataset=dataset, scale=unit)
        made, sources, told = found.objects, found.sources, str(objects)
        if len(set(sources)) < len(sources):
            job.warnings.append(
                f"{objects} has {len(sources)} objects in {len(set(sources))} files: those of one "
                "file are alike, so that the intervals are for further objects like these files"
            )
    if len(set(sources)) < 2:
        raise ObjectsError(
            f"{told} has objects of one file only, which are alike: give two files at least, one "
            "to calibrate on and one to measure coverage on"
        )
    calibrate, measure = split(sources, share, job.recipe.seed)
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
    seen = {entry["sha256"] for told in _trainings(model.folder) for entry in told["inputs"]}
    known = [Path(e["path"]).name for e in hash_inputs(files) if e["sha256"] in seen]
    if known:
        raise ObjectsError(
            f"{', '.join(known[:5])}: {len(known)} of {len(files)} files were in the training of "
            f"{model.folder}; intervals are calibrated on objects that it has not seen"
        )


def _trainings(folder: Path) -> Iterator[dict[str, Any]]:
    """The provenance of a model and, where it was adapted, of the one that it came from."""
    while True:
        path = folder / "provenance.json"
        try:
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            _ = [entry["sha256"] for entry in told["inputs"]]
            parent = told["parent"]["run"] if "parent" in told else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"{path} does not say what the model was trained on, so that nothing tells whether "
                f"these objects were: {error}"
            ) from error
        yield told
        if parent is None:
            return
        folder = Path(parent)


def _warn_of_other_objects(job: Job, model: SavedModel) -> None:
    """A network that was trained on files is not for the objects that an instrument makes up."""
    try:
        trained = [name for told in _trainings(model.folder) for name in _objects_of(told)]
    except RecipeError:
        return
    if trained:
        job.warnings.append(
            f"the network was trained on {trained[-1]}, and these intervals are calibrated on what "
            f"{job.instrument.name} simulates: they are for objects like those; give your own "
            "(--objects), which it has not seen"
        )


def _objects_of(told: Mapping[str, Any]) -> list[str]:
    """Where a training had its objects from, if not from the instrument."""
    data = told.get("data")
    named = str(data.get("objects", "")) if isinstance(data, Mapping) else ""
    return [named] if named and told["inputs"] else []
