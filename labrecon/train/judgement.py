"""Judgement without truths: do reconstructions predict what they were not given?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labrecon.errors import RecipeError
from labrecon.instrument import Instrument
from labrecon.learners.samples import sample_generator
from labrecon.learners.self_supervised import Dealing, MeasuredScan, Part, misfit
from labrecon.learners.self_supervised.dealing import part_of
from labrecon.learners.self_supervised.levels import level_known
from labrecon.operator import Operator
from labrecon.problem import Problem
from labrecon.train.recipe import TrainRecipe

__all__ = ["Judgement", "judgements", "judging_dealing", "mean_metrics"]

#: Share of the samples of a scan that judge, where none are held out for good.
SHARE = 0.2
#: Slices that are judged at once.
CHUNK = 8


@dataclass(frozen=True, eq=False)
class Judgement:
    """A few slices, whole, and with some of their samples held out.

    Attributes:
        problem: as measured.
        part: without the samples that judge; None where there are too few to hold some out.
        known: whether the level of the noise is.
    """

    problem: Problem
    part: Part | None
    known: bool

    def metrics(self, whole: Tensor, of_part: Tensor | None) -> dict[str, list[float]]:
        """Of each slice.

        ``held_out_chi2`` is the mean square of what samples differ from their prediction by a
        reconstruction that did not see them, in units of the noise, and ``chi2`` that of all data
        from their own reconstruction. Where the level is unknown: ``held_out_error``, relative to
        the samples.

        Args:
            whole: the reconstruction of all data.
            of_part: that of the part.
        """
        found = {}
        if self.part is not None and of_part is not None:
            judged = misfit(self.problem, of_part, self.part.held)
            if self.known:
                found["held_out_chi2"] = judged.tolist()
            else:
                nothing = misfit(self.problem, torch.zeros_like(of_part), self.part.held)
                found["held_out_error"] = (judged / nothing).sqrt().tolist()
        if self.known:
            found["chi2"] = misfit(self.problem, whole).tolist()
        return found


def judgements(scans: Sequence[MeasuredScan], dealing: Dealing, seed: int) -> list[Judgement]:
    """A few slices of each scan at a time; a random share judges, or what is held out for good."""
    found = []
    for number, scan in enumerate(scans):
        problem = scan.problem
        for begin in range(0, len(problem.data), CHUNK):
            own = slice(begin, begin + CHUNK)
            weights = problem.weights
            if weights is not None and weights.ndim == problem.data.ndim:
                weights = weights[own]
            some = replace(problem, data=problem.data[own], weights=weights)
            part = _part(some, scan, dealing, [seed, number, begin])
            found.append(Judgement(some, part, level_known(some)))
    return found


def judging_dealing(recipe: TrainRecipe, instrument: Instrument, operator: Operator) -> Dealing:
    """As the learner deals; or acquisitions; or all samples, one by one.

    Raises:
        RecipeError: the data have no axis that the learner names.
    """
    options, space = recipe.learner.options, operator.range
    axes, keep = options.get("axes"), options.get("keep", 0)
    if axes is None:
        named = instrument.acquisitions
        axes = (named,) if named in space.axes else space.axes
    dealing = Dealing((axes,) if isinstance(axes, str) else tuple(axes), keep)
    try:
        dealing.check(space)
    except ValueError as error:
        raise RecipeError(f"{recipe.where('learner')}: {error}") from error
    return dealing


def _part(
    problem: Problem, scan: MeasuredScan, dealing: Dealing, seeds: Sequence[int]
) -> Part | None:
    if scan.gain is not None and scan.held is not None:
        return Part(part_of(problem, scan.gain), scan.held, scan.gain)
    seed, number, begin = seeds
    generators = [sample_generator(seed, -4 - number, begin + i) for i in range(len(problem.data))]
    try:
        return dealing.held_out(problem, SHARE, generators)
    except ValueError:
        return None


def mean_metrics(found: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """Means over all slices, of what each of them has."""
    names = [name for name in (found[0] if found else {}) if all(name in one for one in found)]
    means = {}
    for name in names:
        values = [value for one in found for value in one[name]]
        means[name] = math.fsum(values) / len(values)
    return means
