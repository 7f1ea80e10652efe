"""What a learner without truths is trained on: scans, some of them or of their samples held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from labrecon import posing
from labrecon.errors import RecipeError, ScanError
from labrecon.instrument import Instrument, ReaderError, Scan
from labrecon.io.objects import read_objects
from labrecon.learners.samples import sample_generator
from labrecon.learners.self_supervised import Dealing, MeasuredScan, ScanSamples
from labrecon.operator import Operator
from labrecon.problem import Problem
from labrecon.train.data import TrainingData, digest_of, groups_of, split_groups
from labrecon.train.judgement import judgements, judging_dealing
from labrecon.train.recipe import TrainRecipe
from labrecon.train.typical import typical_value

__all__ = ["from_scans"]

Read = list[tuple[Path, Path | None, Scan]]


def from_scans(
    recipe: TrainRecipe,
    instrument: Instrument,
    read: Read,
    operator: Operator,
    device: torch.device,
) -> TrainingData:
    """Measured scans, of which some are never trained on.

    Whole scans; of a single one, slices; of a single slice, some of its acquisitions.

    Args:
        recipe: of the training.
        instrument: whose scans they are.
        read: from `labrecon.train.pairs.read_pairs`; truths are for the report.
        operator: that of the first scan.
        device: where operators of other geometries are made.

    Raises:
        RecipeError: scans were to be flipped.
        ObjectsError: a truth is not such as the operator takes.
        ScanError: a scan does not fit the operator, or can not be split.
    """
    table = recipe.data
    if table.flips:
        raise RecipeError(
            f"{recipe.where('data', 'flips')}: objects are turned around, scans can not be; the "
            "equivariant learners have transforms"
        )
    scans = _measured(recipe, instrument, read, operator, device)
    sizes = [len(scan.problem.data) for scan in scans]
    named = [str(path) for path, _, _ in read]
    sources = [
        f"{n}{f' {j}' if len(scans) == 1 else ''}"
        for n, s in zip(named, sizes, strict=True)
        for j in range(s)
    ]
    digests = [digest_of(y) for scan in scans for y in scan.problem.data]
    told: dict[str, object] = {"objects": table.objects, "scans": table.scans}
    dealing = judging_dealing(recipe, instrument, operator)
    if len(sources) == 1:
        one = [_within(scans[0], dealing, table.validation, recipe.seed)]
        return _data(recipe, one, one, [0], digests, told, read, dealing)
    kept, held = split_groups(groups_of(sources, digests), table.validation, recipe.seed)
    train, validation = _chosen(scans, sizes, kept), _chosen(scans, sizes, held)
    if len(scans) > 1:
        told["held_out_files"] = sorted({Path(sources[i]).name for i in held})
    return _data(recipe, train, validation, held, digests, told, read, dealing)


def _measured(
    recipe: TrainRecipe,
    instrument: Instrument,
    read: Read,
    operator: Operator,
    device: torch.device,
) -> list[MeasuredScan]:
    """Each scan with its operator, its slices in one batch axis."""
    table, found = recipe.data, []
    apart = set(instrument.noise_fields)
    made = {read[0][2].geometry.model_dump_json(exclude=apart): operator}
    for path, file, scan in read:
        key = scan.geometry.model_dump_json(exclude=apart)
        if key not in made:
            made[key] = posing.make_operator(instrument, scan.geometry, recipe.operator, device)
        own = made[key]
        own.range.check(scan.data, str(path))
        try:
            instrument.check(scan)
        except ReaderError as error:
            raise ScanError(f"{path}: {error}") from error
        data = scan.data.reshape(-1, *own.range.shape).to(device)
        weights = scan.weights
        if weights is not None:
            weights = weights.expand(scan.data.shape).reshape(data.shape).to(device)
        truth = None
        if file is not None:
            truth = read_objects(file, own.domain, dataset=table.dataset, scale=table.unit).objects
            if len(truth) != len(data):
                raise ScanError(f"{path} has {len(data)} slices, {file} has {len(truth)}")
            truth = truth.to(device)
        problem = Problem(own, data, scan.noise.to(device), weights)
        try:
            problem.validate()
        except ValueError as error:
            raise ScanError(f"{path}: {error}") from error
        found.append(MeasuredScan(problem, truth=truth))
    return found


def _within(scan: MeasuredScan, dealing: Dealing, fraction: float, seed: int) -> MeasuredScan:
    try:
        part = dealing.held_out(scan.problem, fraction, [sample_generator(seed, 0, -3)])
    except ValueError as error:
        raise ScanError(
            f"a single scan is split into samples to train on and others to judge: {error}"
        ) from error
    return replace(scan, gain=part.gain)


def _chosen(
    scans: Sequence[MeasuredScan], sizes: Sequence[int], indices: Sequence[int]
) -> list[MeasuredScan]:
    """The slices of these numbers, counted over all scans."""
    found, begin = [], 0
    for scan, size in zip(scans, sizes, strict=True):
        own = [i - begin for i in indices if begin <= i < begin + size]
        begin += size
        if own:
            found.append(_slices(scan, own))
    return found


def _slices(scan: MeasuredScan, own: list[int]) -> MeasuredScan:
    problem = scan.problem
    weights = problem.weights if problem.weights is None else problem.weights[own]
    truth = None if scan.truth is None else scan.truth[own]
    return MeasuredScan(replace(problem, data=problem.data[own], weights=weights), truth=truth)


def _data(
    recipe: TrainRecipe,
    train: list[MeasuredScan],
    validation: list[MeasuredScan],
    held: list[int],
    digests: list[str],
    told: dict[str, object],
    read: Read,
    dealing: Dealing,
) -> TrainingData:
    counted = sum(len(scan.problem.data) for scan in train)
    try:
        samples = ScanSamples(train, recipe.seed)
        judging = ScanSamples(validation, recipe.seed + 1, fixed=True)
    except ValueError as error:
        raise ScanError(str(error)) from error
    pairs = [(scan.problem, scan.truth) for scan in validation if scan.truth is not None]
    # What judges the classical solver does not choose its weight.
    seen = [MeasuredScan(scan.trained_on) for scan in train]
    few = _chosen(seen, [len(s.problem.data) for s in seen], range(recipe.classical.objects))
    return TrainingData(
        samples,
        judging,
        typical_value(recipe, train),
        hashlib.sha256("".join([*digests, str(held)]).encode()).hexdigest(),
        {**told, "trained_on": counted, "held_out": len(held)},
        [each for path, file, _ in read for each in (path, file) if each is not None],
        [],
        pairs,
        scans=[*train, *validation],
        judged_seen=judgements(few, dealing, recipe.seed),
        judged_unseen=judgements(validation, dealing, recipe.seed),
    )
