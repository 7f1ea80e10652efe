"""What is designed: experiment and usual designs for one number of acquisitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from labrecon import posing
from labrecon.calibration.unknowns import nuisance_named
from labrecon.errors import RecipeError
from labrecon.experiment import Experiment
from labrecon.learners.jitter import Jitter
from labrecon.learners.samples import sample_generator
from labrecon.operators import SubsetDesign
from labrecon.study.recipe import DesignRecipe
from labrecon.train.order import Order

__all__ = ["Subject", "Values", "subject_of"]

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """One number of acquisitions of an instrument.

    Attributes:
        count: of acquisitions; None where it is the geometry's own.
        geometry: of all of them; of all candidates, where a subset is chosen.
        experiment: operator and noise with the designs as they are in the geometry.
        names: of the designs that are learned.
        usual: designs to compare with by name, each in one or several draws.
        warnings: usual designs that could not be had.
    """

    count: int | None
    geometry: Any
    experiment: Experiment
    names: tuple[str, ...]
    usual: Mapping[str, list[Values]]
    warnings: list[str] = field(default_factory=list)

    @property
    def nominal(self) -> dict[str, Tensor]:
        """The designs as they are in the geometry."""
        return self.experiment.current(*self.names)


def subject_of(order: Order, count: int | None) -> Subject:
    """What a number of acquisitions makes of an order.

    Raises:
        RecipeError: the instrument can not do so many, or has no such design.
    """
    recipe = order.recipe
    assert isinstance(recipe, DesignRecipe)
    table, instrument = recipe.design, order.instrument
    where = recipe.where("design")
    geometry: Any = order.geometry
    try:
        if count is not None and not table.subset:
            geometry = instrument.with_acquisitions(geometry, count)
        operator = posing.make_operator(instrument, geometry, recipe.operator, order.device)
        noise = instrument.noise(geometry).to(order.device)
        if table.subset:
            if count is None:
                raise ValueError(f"say how many along {table.subset}: design.exposures")
            operator = SubsetDesign(operator, count, table.subset, relaxation=table.relaxation)
            operator = operator.to(order.device)
        Jitter(operator, table.jitter)
        for name in recipe.evaluation.robustness:
            nuisance_named(operator, name)
        experiment = Experiment(operator, noise)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error
    names = tuple(table.names) or (("members",) if table.subset else tuple(experiment.designs))
    unknown = [name for name in names if name not in experiment.designs]
    if unknown or not names:
        raise RecipeError(
            f"{where}: {instrument.name!r} has no design {', '.join(unknown)}; it has "
            f"{', '.join(experiment.designs) or 'none, so that nothing can be learned'}"
        )
    if table.method != "gradient" and len(names) != 1:
        raise RecipeError(
            f"{where}: {table.method} chooses members of one design, not of {', '.join(names)}: "
            "give design.names or design.subset"
        )
    subject = Subject(count, geometry, experiment, names, {})
    return _with_usual(order, recipe, subject)


def _with_usual(order: Order, recipe: DesignRecipe, subject: Subject) -> Subject:
    found: dict[str, list[Values]] = {}
    warnings: list[str] = []
    for draw in range(recipe.evaluation.random):
        generator = sample_generator(recipe.seed, draw, -7)
        for name in subject.names:
            for title, value in _usual(order, recipe, subject, name, generator).items():
                if title != "random" and draw:
                    continue
                made = {**subject.nominal, name: value.to(subject.nominal[name])}
                made = {k: subject.experiment.designs[k].harden(v) for k, v in made.items()}
                broken = {
                    rule: v
                    for k, value in made.items()
                    for rule, v in subject.experiment.designs[k].violations(value).items()
                }
                if broken:
                    told = ", ".join(f"{rule} {v}" for rule, v in broken.items())
                    warnings.append(f"the usual design {title!r} is left out: {told}")
                    continue
                found.setdefault(title, []).append(made)
    known = any(_same(subject.nominal, v) for drawn in found.values() for v in drawn)
    if not known and not recipe.design.subset:
        found = {"as it is": [subject.nominal], **found}
    return Subject(
        subject.count,
        subject.geometry,
        subject.experiment,
        subject.names,
        found,
        warnings,
    )


def _usual(
    order: Order, recipe: DesignRecipe, subject: Subject, name: str, generator: torch.Generator
) -> dict[str, Tensor]:
    operator, axis = subject.experiment.operator, recipe.design.subset
    if not axis:
        return dict(order.instrument.baselines(subject.geometry, name, generator))
    assert isinstance(operator, SubsetDesign)
    size, k = len(operator.members), operator.k
    spread = ((torch.arange(k) + 0.5) * size / k).long()
    drawn = torch.randperm(size, generator=generator)[:k]
    masks = {"equispaced": spread, "random": drawn}
    own = order.instrument.baselines(subject.geometry, f"{axis}:{k}", generator)
    made = {title: torch.zeros(size).scatter(0, members, 1.0) for title, members in masks.items()}
    return {**made, **own}


def _same(a: Values, b: Values) -> bool:
    return all(torch.allclose(a[name], b[name]) for name in a)
