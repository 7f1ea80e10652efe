"""Scans of simulated objects as a lab would have them: each is measured once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from labrecon.errors import RecipeError
from labrecon.instrument import Instrument
from labrecon.learners.samples import ObjectSamples
from labrecon.learners.self_supervised import MeasuredScan, ScanSamples
from labrecon.learners.supervised import simulated
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.train.data import TrainingData
from labrecon.train.judgement import judgements, judging_dealing
from labrecon.train.recipe import TrainRecipe
from labrecon.train.typical import typical_value

__all__ = ["measured_once"]


def measured_once(
    data: TrainingData,
    recipe: TrainRecipe,
    instrument: Instrument,
    operator: Operator,
    noise: Noise,
    device: torch.device,
) -> TrainingData:
    """Simulated scans of objects, each measured once, as a lab would have them.

    The objects are told apart from what is trained on: they serve the report alone.
    """
    if recipe.data.flips:
        raise RecipeError(
            f"{recipe.where('data', 'flips')}: each object is measured once, and a scan can not be "
            "flipped; the equivariant learners have transforms"
        )
    assert isinstance(data.train, ObjectSamples)
    weights = _sampled(operator)

    def scanned(objects: Tensor, seed: int) -> MeasuredScan:
        batch = ObjectSamples(objects, seed, fixed=True).batch(range(len(objects)), 0)
        with torch.no_grad():
            problem, _ = simulated(
                batch.objects.to(device), batch.generators, operator, noise, noise
            )
        return MeasuredScan(replace(problem, weights=weights), truth=objects.to(device))

    train = scanned(data.train.objects, data.train.seed)
    assert isinstance(data.validation, ObjectSamples)
    validation = scanned(data.validation.objects, data.validation.seed)
    dealing = judging_dealing(recipe, instrument, operator)
    scale = typical_value(recipe, [train])
    return replace(
        data,
        train=ScanSamples([train], recipe.seed),
        validation=ScanSamples([validation], recipe.seed + 1, fixed=True),
        scale=scale,
        scans=[train, validation],
        judged_seen=judgements([_first(train, recipe.classical.objects)], dealing, recipe.seed),
        judged_unseen=judgements([validation], dealing, recipe.seed),
    )


def _first(scan: MeasuredScan, count: int) -> MeasuredScan:
    problem = scan.problem
    truth = None if scan.truth is None else scan.truth[:count]
    return replace(scan, problem=replace(problem, data=problem.data[:count]), truth=truth)


def _sampled(operator: Operator) -> Tensor | None:
    """Weight 0 for samples that no object reaches: points of k-space that a mask leaves out."""
    tensors = [*operator.buffers(), *operator.parameters()]
    device = tensors[0].device if tensors else None
    x = operator.domain.random(1, generator=torch.Generator().manual_seed(0), device=device)
    with torch.no_grad():
        reached = operator(x)[0] != 0
    return None if bool(reached.all()) else reached.to(operator.range.real_dtype)
