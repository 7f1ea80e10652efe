"""Term: one of the parts that a self-supervised loss is the sum of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from labrecon.learners.self_supervised.dealing import Part, part_of
from labrecon.networks.unrolled import Unrolled, first_estimate
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.solvers.direct import Direct
from labrecon.solvers.trained import with_unit_noise

__all__ = ["DataTerm", "Pass", "Term"]

DataTerm = Literal["unit", "noise"]


class Pass:
    """The slices of one operator on their way through the network, once per batch.

    Attributes:
        network: what is trained.
        problem: as measured, with the declared noise, ``(batch, *range.shape)``.
        generators: one per slice, for whatever a term draws.
        gain: 0 for samples that are held out for good, and by how much the others are weighted up
            meanwhile, as in `Part`; None where none are.
        terms: the network's own losses, by name, of each time it was asked.

    Args:
        network: likewise.
        problem: likewise.
        generators: likewise.
        data_term: "unit": the network is given ``½‖A x − y‖²`` over the samples that count;
            "noise": the likelihood of the declared noise.
        gain: likewise.
    """

    def __init__(
        self,
        network: Reconstructor,
        problem: Problem,
        generators: Sequence[torch.Generator],
        data_term: DataTerm = "unit",
        gain: Tensor | None = None,
    ) -> None:
        self.network = network
        self.problem = problem
        self.generators = generators
        self.data_term = data_term
        self.gain = gain
        self.terms: dict[str, list[Tensor]] = {}

    @cached_property
    def estimate(self) -> Tensor:
        """``R(y)`` of all that was measured; made once, for all terms."""
        return self.reconstruct(self.problem.data)

    def reconstruct(self, data: Tensor) -> Tensor:
        """What the network makes of other data of the same acquisition."""
        return self._seen(replace(self.problem, data=data, prepared=None), self.gain)

    def reconstruct_part(self, part: Part) -> Tensor:
        """What it makes of some of the samples."""
        return self._seen(self.problem, self.gain_of(part))

    def gain_of(self, part: Part) -> Tensor:
        """By how much the samples of a part are weighted up, to be as strong as all of the scan."""
        return part.gain if self.gain is None else self.gain * part.gain

    def _seen(self, problem: Problem, gain: Tensor | None) -> Tensor:
        """A direct inversion knows no weights, but adds up what each acquisition gives.

        It is scaled by its data instead. So is the first estimate of an unrolled network.
        """
        view = with_unit_noise(problem) if self.data_term == "unit" else problem
        if gain is None:
            return self._ask(view)
        seen = part_of(view, gain)
        louder = replace(seen, data=gain * seen.data)
        network = self.network
        if not isinstance(network, Unrolled):
            return self._ask(seen)
        if isinstance(network.solver, Direct):
            return self._ask(louder)
        return self._ask(seen, first_estimate(network.start, louder, None))

    def _ask(self, problem: Problem, x0: Tensor | None = None) -> Tensor:
        made = self.network.reconstruct(problem, x0)
        for name, value in made.losses.items():
            self.terms.setdefault(name, []).append(value)
        return made.x


class Term(ABC):
    """What is minimised, with measured data alone."""

    @abstractmethod
    def __call__(self, run: Pass) -> Tensor:
        """The loss of each slice ``(batch)``."""

    def check(self, problem: Problem) -> None:  # noqa: B027
        """Raise `ValueError` where a scan can not be trained on so."""
