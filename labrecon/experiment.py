"""Experiment: an operator with its noise, and the designs of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from labrecon.adjustable import Adjustable
from labrecon.noise import Noise
from labrecon.operator import Operator

__all__ = ["Experiment"]


class Experiment(Adjustable):
    """``y = noise(A(x))``, adjustable in what either of them registers, under their own names.

    An LED pattern changes the operator, a dose the noise.

    Args:
        operator: ``A``.
        noise: how its data scatter.

    Raises:
        ValueError: both have a design or a nuisance of one name.

    Example:
        >>> from labrecon import Gaussian
        >>> from labrecon.operators import Matrix
        >>> experiment = Experiment(Matrix(torch.eye(2)), Gaussian(0.1))
        >>> dict(experiment.designs)
        {}
    """

    def __init__(self, operator: Operator, noise: Noise) -> None:
        super().__init__()
        self.operator, self.noise = operator, noise
        both = {*operator.designs, *operator.nuisances} & {*noise.designs, *noise.nuisances}
        if both:
            raise ValueError(
                f"{', '.join(sorted(both))} of {operator.name} and of {noise.name}: one of them "
                "needs another name"
            )

    @property
    def name(self) -> str:
        """That of the operator."""
        return self.operator.name

    def _named(self, registered: Callable[[Adjustable], Mapping[str, Any]]) -> dict[str, Any]:
        return {**self.operator._named(registered), **self.noise._named(registered)}

    def get_parameter(self, target: str) -> torch.nn.Parameter:
        """A design or nuisance, by its name in the operator or in the noise."""
        own = {**self.noise.designs, **self.noise.nuisances}
        part = self.noise if target in own else self.operator
        return part.get_parameter(target)

    def sample(
        self, x: Tensor, generator: torch.Generator, values: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Data of one object; ``values`` replace those of the operator's nuisances."""
        clean = self.operator(x) if not values else self.operator.at(**values)(x)
        return self.noise.sample(clean, generator)
