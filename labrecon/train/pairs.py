"""Measured scans with their truths: read in pairs, by file name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from labrecon import posing, reading
from labrecon.errors import LabreconError, ObjectsError, RecipeError, ScanError
from labrecon.instrument import Instrument, Scan
from labrecon.io.objects import object_files, read_objects
from labrecon.learners.samples import PairSamples
from labrecon.operator import Operator
from labrecon.plan import Plan
from labrecon.plugins import Host
from labrecon.problem import Problem
from labrecon.train.data import TrainingData, digest_of, groups_of, scale_of, split_groups
from labrecon.train.recipe import TrainRecipe

__all__ = ["from_pairs", "read_pairs"]


def read_pairs(
    recipe: TrainRecipe,
    instrument: Instrument,
    plan: Plan,
    host: Host,
    *,
    without_truth: bool = False,
) -> list[tuple[Path, Path | None, Scan]]:
    """Files of scan and object, and the prepared scan, for each pair in the recipe's two folders.

    Args:
        recipe: names the folders.
        instrument: whose scans they are.
        plan: how they are prepared.
        host: plugins with further readers.
        without_truth: scans suffice: without a folder of objects, none has one.

    Raises:
        ObjectsError: a folder is missing or empty.
        ScanError: a scan has no object of its name, or can not be read or prepared.
    """
    assert recipe.data.scans is not None
    if recipe.data.objects is None and not without_truth:
        raise RecipeError(
            f"the learner {recipe.learner.name!r} needs the truth of each scan, which are paired "
            "by file name: give the folder of objects, too (--objects, data.objects), or take a "
            "learner that needs scans alone, such as ssdu (--set learner.name=ssdu)"
        )
    truths: dict[str, Path] = {}
    if recipe.data.objects is not None:
        truths = {_stem(path): path for path in object_files(Path(recipe.data.objects))[0]}
    folder = Path(recipe.data.scans)
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ObjectsError(f"the scans {folder} can not be listed: {error}") from error
    if not files:
        raise ObjectsError(f"there are no scans in {folder}: it is empty")
    lonely = [path.name for path in files if _stem(path) not in truths]
    if lonely and recipe.data.objects is not None:
        raise ScanError(
            f"{', '.join(lonely[:5])} in {folder}: {len(lonely)} of {len(files)} scans have no "
            f"object of the same name in {recipe.data.objects}, which holds "
            f"{', '.join(list(truths)[:5])}{', …' if len(truths) > 5 else ''}"
        )
    found = []
    for path in files:
        try:
            scan = reading.prepare(instrument, reading.read(instrument, path, host), plan)
        except LabreconError as error:
            told = str(error)
            raise type(error)(told if str(path) in told else f"{path}: {told}") from error
        found.append((path, truths.get(_stem(path)), scan))
    return found


def from_pairs(
    recipe: TrainRecipe,
    instrument: Instrument,
    read: list[tuple[Path, Path | None, Scan]],
    operator: Operator,
    device: torch.device,
) -> TrainingData:
    """Measured scans with their truths; all slices of a scan are trained on, or none.

    Args:
        recipe: of the training.
        instrument: whose scans they are.
        read: from `read_pairs`.
        operator: that of the first scan.
        device: where operators of other geometries are made.

    Raises:
        ObjectsError: a truth is not such as the operator takes.
        ScanError: a scan does not fit its truth.
    """
    table = recipe.data
    pairs, operators, digests = [], [], []
    apart = set(instrument.noise_fields)
    made = {read[0][2].geometry.model_dump_json(exclude=apart): operator}
    for path, file, scan in read:
        assert file is not None
        key = scan.geometry.model_dump_json(exclude=apart)
        if key not in made:
            made[key] = posing.make_operator(instrument, scan.geometry, recipe.operator, device)
        own = made[key]
        found = read_objects(file, own.domain, dataset=table.dataset, scale=table.unit).objects
        batch = own.range.batch(scan.data)
        if len(found) != torch.Size(batch).numel():
            raise ScanError(
                f"{path} has {torch.Size(batch).numel()} slices, {file} has {len(found)}"
            )
        own.range.check(scan.data, str(path))
        pairs.append((scan, found.reshape(*batch, *own.domain.shape)))
        operators.append(own)
        digests.append(digest_of(found))
    kept, held = split_groups(
        groups_of([str(path) for path, _, _ in read], digests), table.validation, recipe.seed
    )
    term = recipe.data_term

    def samples(indices: list[int]) -> PairSamples:
        try:
            return PairSamples([pairs[i] for i in indices], [operators[i] for i in indices], term)
        except ValueError as error:
            raise ScanError(str(error)) from error

    def problems(indices: list[int]) -> list[tuple[Problem, Tensor]]:
        made = []
        for i in indices:
            scan, truth = pairs[i]
            weights = None if scan.weights is None else scan.weights.to(device)
            data, noise = scan.data.to(device), scan.noise.to(device)
            made.append((Problem(operators[i], data, noise, weights), truth.to(device)))
        return made

    data = [digest_of(scan.data) for scan, _ in pairs]
    return TrainingData(
        samples(kept),
        samples(held),
        scale_of(
            recipe, torch.cat([pairs[i][1].reshape(-1, *operator.domain.shape) for i in kept])
        ),
        hashlib.sha256("".join([*digests, *data, str(held)]).encode()).hexdigest(),
        {
            "objects": table.objects,
            "scans": table.scans,
            "trained_on": len(kept),
            "held_out": len(held),
            "held_out_files": [read[i][0].name for i in held],
        },
        [each for path, file, _ in read for each in (path, file) if each is not None],
        problems(kept[: recipe.classical.objects]),
        problems(held),
    )


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]
