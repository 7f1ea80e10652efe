"""What a run is trained on; objects, from files or simulated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon.errors import ObjectsError
from labrecon.instrument import Instrument
from labrecon.io.objects import object_files, read_objects
from labrecon.learner import Samples
from labrecon.learners.samples import ObjectSamples, sample_generator, split
from labrecon.learners.self_supervised import MeasuredScan
from labrecon.learners.supervised import simulated
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.problem import Problem
from labrecon.train.judgement import Judgement
from labrecon.train.recipe import TrainRecipe

__all__ = [
    "TrainingData",
    "digest_of",
    "from_objects",
    "groups_of",
    "scale_of",
    "split_groups",
]


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
    def example(self) -> Problem:
        """One that is trained on, for what a network is made from."""
        return self.judged_seen[0].problem if self.judged_seen else self.seen[0][0]

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
        scale_of(recipe, objects[kept]),
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


def scale_of(recipe: TrainRecipe, objects: Tensor) -> float:
    """The mean of the largest moduli of objects ``(n, *shape)``; or the recipe's.

    Raises:
        ObjectsError: the objects are zero, or not finite.
    """
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
