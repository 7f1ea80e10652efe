"""What a run is trained on: objects, from files or simulated, or measured scans with truths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon import stages
from labrecon.errors import LabreconError, ObjectsError, RecipeError, ScanError
from labrecon.instrument import Instrument, Scan
from labrecon.io.objects import object_files, read_objects
from labrecon.learner import Samples
from labrecon.learners.samples import ObjectSamples, PairSamples, sample_generator, split
from labrecon.learners.self_supervised import MeasuredScan
from labrecon.learners.supervised import simulated
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.plan import Plan
from labrecon.plugins import Host
from labrecon.problem import Problem
from labrecon.train.judgement import Judgement
from labrecon.train.recipe import TrainRecipe

__all__ = [
    "Pair",
    "TrainingData",
    "digest_of",
    "from_objects",
    "from_pairs",
    "groups_of",
    "read_pairs",
    "split_groups",
]

Pair = tuple[Scan, Tensor]


@dataclass(frozen=True)
class TrainingData:
    """Samples to train on, others to validate on, and what is to be told of them.

    Attributes:
        train: samples to train on.
        validation: samples of objects that are in none of the former.
        scale: typical value of the objects that are trained on: the mean of their largest moduli.
        digest: of all objects, or pairs, and of how they are split.
        told: numbers and sources, for provenance and report.
        inputs: the files that were read.
        seen: problems with truths of a few objects that are trained on.
        unseen: problems with truths of all that are not; none where truths are unknown.
        warnings: what went wrong without stopping it.
        scans: those that a learner without truths is given, all of them.
        judged_seen: how to judge without truths what is made of some that are trained on.
        judged_unseen: and of all that are not.
    """

    train: Samples
    validation: Samples
    scale: float
    digest: str
    told: dict[str, Any]
    inputs: list[Path]
    seen: list[tuple[Problem, Tensor]]
    unseen: list[tuple[Problem, Tensor]]
    warnings: list[str] = field(default_factory=list)
    scans: list[MeasuredScan] = field(default_factory=list)
    judged_seen: list[Judgement] = field(default_factory=list)
    judged_unseen: list[Judgement] = field(default_factory=list)

    @property
    def problems(self) -> list[Problem]:
        """What is to be reconstructed for the report: all that is not trained on."""
        return [judged.problem for judged in self.judged_unseen] or [p for p, _ in self.unseen]


def from_objects(
    recipe: TrainRecipe,
    instrument: Instrument,
    geometry: Any,
    operator: Operator,
    noise: Noise,
    device: torch.device,
) -> TrainingData:
    """Objects of a folder, or the instrument's own, whose measurements are simulated.

    Raises:
        ObjectsError: the folder, or an object in it, is not such as the operator takes.
    """
    table, inputs, warnings = recipe.data, [], []
    if table.objects is None:
        generator = sample_generator(recipe.seed, 0, -2)
        objects = instrument.objects(geometry, table.count, generator).detach()
        operator.domain.check(objects, f"objects of {instrument.name}")
        sources: Sequence[str] = [str(i) for i in range(len(objects))]
    else:
        folder = Path(table.objects)
        found = read_objects(folder, operator.domain, dataset=table.dataset, scale=table.unit)
        objects, sources = found.objects, found.sources
        inputs = object_files(folder)[0]
        warnings += [f"{folder} also holds {', '.join(found.ignored)}"] if found.ignored else []
        if len(set(sources)) == 1:
            # The slices of one volume can only be told apart by their number.
            sources = [f"{sources[0]} {i}" for i in range(len(objects))]
    digests = [digest_of(x) for x in objects]
    kept, held = split_groups(groups_of(sources, digests), table.validation, recipe.seed)
    validation = ObjectSamples(objects[held], recipe.seed + 1, fixed=True)
    few = ObjectSamples(objects[kept[: recipe.classical.objects]], recipe.seed, fixed=True)

    def problems(samples: ObjectSamples) -> Iterator[tuple[Problem, Tensor]]:
        size = recipe.config.batch_size
        for start in range(0, len(samples), size):
            batch = samples.batch(range(start, min(start + size, len(samples))), 0)
            x = batch.objects.to(device)
            with torch.no_grad():
                yield simulated(x, batch.generators, operator, noise, noise)

    return TrainingData(
        ObjectSamples(objects[kept], recipe.seed, flips=table.flips),
        validation,
        _scale(recipe, objects[kept]),
        hashlib.sha256("".join([*digests, str(held)]).encode()).hexdigest(),
        {
            "objects": table.objects or f"simulated by {instrument.name}",
            "trained_on": len(kept),
            "held_out": len(held),
        },
        inputs,
        list(problems(few)),
        list(problems(validation)),
        warnings,
    )


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
            scan = stages.prepare(instrument, stages.read(instrument, path, host), plan)
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
            made[key] = stages.make_operator(instrument, scan.geometry, recipe.operator, device)
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
        _scale(recipe, torch.cat([pairs[i][1].reshape(-1, *operator.domain.shape) for i in kept])),
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


def groups_of(sources: Sequence[str], digests: list[str]) -> list[int]:
    """The same number for objects of one file, and for those that are equal."""
    first: dict[str, int] = {}
    groups: list[int] = []
    for i, (source, digest) in enumerate(zip(sources, digests, strict=True)):
        known = {groups[first[key]] for key in (source, digest) if key in first}
        groups.append(min(known, default=i))
        if len(known) > 1:
            groups = [min(known) if group in known else group for group in groups]
        first.setdefault(source, i)
        first.setdefault(digest, i)
    return groups


def split_groups(groups: list[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """`labrecon.learners.split`, with the error of a run."""
    try:
        return split(groups, fraction, seed)
    except ValueError as error:
        raise ObjectsError(str(error)) from error


def _scale(recipe: TrainRecipe, objects: Tensor) -> float:
    if recipe.network.scale is not None:
        return recipe.network.scale
    typical = float(objects.abs().flatten(1).amax(1).double().mean())
    if not 0 < typical < float("inf"):
        raise ObjectsError(
            f"the objects to train on have a typical value of {typical}; expected some that are "
            "not zero and finite"
        )
    return typical


def digest_of(x: Tensor) -> str:
    """SHA-256 of the values."""
    contiguous = x.detach().cpu().resolve_conj().contiguous()
    return hashlib.sha256(contiguous.numpy().tobytes()).hexdigest()


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]
