"""Dealing: which samples of a scan the network sees, and which judge it.

By weights, so that any operator works as it is. What preparation found (a centre, sensitivities)
comes from all samples, and is seen by both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labrecon.options import number, whole
from labrecon.problem import Problem
from labrecon.space import Space

__all__ = ["Dealing", "Part", "part_of"]


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the samples of a problem.

    Attributes:
        problem: the others have weight 0, and the value 0 for methods that know no weights.
            Those that count are weighted up, so that the data term is on average as strong as that
            of all data: what was learned or tuned for the one holds for the other.
        held: 1 for the samples that count, and are in no way in ``problem``.
        gain: by how much they are weighted up, ``(*batch, …)``.
    """

    problem: Problem
    held: Tensor
    gain: Tensor


@dataclass(frozen=True)
class Dealing:
    """Deals what was measured one by one: views, shots, frames, points of k-space.

    Args:
        axes: of the data. One, such as "angle", for acquisitions; several, such as
            ``("ky", "kx")``, for the points that they span. Along the other axes (detector, coil)
            samples stay together.
        keep: so many in the middle of each of these axes are never held out: the centre of k-space.
        spread: hold out more of the middle: with odds of a Gaussian of this standard deviation, as
            a share of each axis; Yaman et al. (2020) take 0.25. None: all are equally likely.

    Raises:
        ValueError: no axis is named, ``keep`` is no whole number, or ``spread`` not positive.
    """

    axes: tuple[str, ...]
    keep: int = 0
    spread: float | None = None

    def __post_init__(self) -> None:
        if not self.axes:
            raise ValueError(
                "say which axes of the data are dealt (axes): those whose samples are measured "
                "one by one"
            )
        whole("keep", self.keep, at_least=0)
        if self.spread is not None:
            number("spread", self.spread, above=0)

    def check(self, space: Space) -> None:
        """Raise `ValueError` where data of this space have no such axes."""
        missing = [axis for axis in self.axes if axis not in space.axes]
        if missing:
            raise ValueError(
                f"the data have no axis {missing[0]!r} to be dealt; they have "
                f"{', '.join(space.axes)} (axes)"
            )

    def require(self, problem: Problem, least: int) -> None:
        """Raise `ValueError` where fewer may be held out, or the data have no such axes."""
        self._dealable(problem, least)

    def held_out(
        self, problem: Problem, fraction: float, generators: Sequence[torch.Generator]
    ) -> Part:
        """Hold out a random share of what counts, drawn for each element of the batch.

        Args:
            problem: with one batch axis, or none.
            fraction: of those that may be held out; at least one is, and one is not.
            generators: one per element.

        Raises:
            ValueError: fewer than two may be held out.
        """
        number("fraction", fraction, above=0, below=1)
        free, kept = self._dealable(problem)
        held = torch.zeros_like(free)
        odds = self._odds(problem.operator.range)
        for row, own, generator in zip(held, free, generators, strict=True):
            places = own.nonzero()[:, 0]
            share = min(max(round(fraction * len(places)), 1), len(places) - 1)
            if odds is None:
                drawn = torch.randperm(len(places), generator=generator)[:share]
            else:
                drawn = torch.multinomial(odds[places.cpu()], share, generator=generator)
            row[places[drawn.to(places.device)]] = True
        return self._part(problem, held, free, kept)

    def sections(self, problem: Problem, count: int, chosen: Sequence[int]) -> Part:
        """Hold out every ``count``-th, from the one that is chosen for each element.

        Raises:
            ValueError: there are fewer than ``count``.
        """
        free, kept = self._dealable(problem, count)
        held = torch.zeros_like(free)
        for row, own, first in zip(held, free, chosen, strict=True):
            row[own.nonzero()[first::count, 0]] = True
        return self._part(problem, held, free, kept)

    def _dealable(self, problem: Problem, least: int = 2) -> tuple[Tensor, Tensor]:
        """Places ``(batch, place)`` that may be held out, and those that are kept."""
        space = problem.operator.range
        self.check(space)
        sizes = [space.shape[space.axes.index(axis)] for axis in self.axes]
        batch = problem.data.shape[: problem.data.ndim - space.ndim]
        if problem.weights is None:
            counted = torch.ones(math.prod(batch), math.prod(sizes), device=problem.data.device)
        else:
            whole_ = torch.broadcast_to(problem.weights > 0, problem.data.shape)
            others = [i - space.ndim for i, axis in enumerate(space.axes) if axis not in self.axes]
            reduced = whole_.amax(others, keepdim=True) if others else whole_
            counted = self._ordered(reduced, space).reshape(math.prod(batch), -1)
        counted = counted > 0
        middle = self._middle(sizes, problem.data.device)
        free, kept = counted & ~middle, counted & middle
        fewest = int(free.sum(1).min())
        if fewest < least:
            told = " outside the middle" if self.keep else ""
            raise ValueError(
                f"the data have {fewest} along {' × '.join(self.axes)}{told} that count; to be "
                f"dealt they need {least} (axes)"
            )
        return free, kept

    def _middle(self, sizes: list[int], device: torch.device) -> Tensor:
        inside = torch.ones(sizes, dtype=torch.bool, device=device)
        for axis, size in enumerate(sizes):
            low = size // 2 - self.keep // 2
            own = torch.zeros(size, dtype=torch.bool, device=device)
            own[max(low, 0) : max(low, 0) + self.keep] = True
            inside &= own.reshape(-1, *[1] * (len(sizes) - axis - 1))
        return inside.flatten()

    def _odds(self, space: Space) -> Tensor | None:
        """The relative odds of each place to be held out next; None if all are equal."""
        if self.spread is None:
            return None
        sizes = [space.shape[space.axes.index(axis)] for axis in self.axes]
        lines = [(torch.arange(n).double() - (n - 1) / 2) / (self.spread * n) for n in sizes]
        squares = torch.stack(torch.meshgrid(*lines, indexing="ij")).square().sum(0)
        # So narrow a Gaussian that nothing is left of its tails would leave too few to draw.
        return (-squares / 2).exp().clamp_min(1e-12).flatten()

    def _ordered(self, values: Tensor, space: Space) -> Tensor:
        """The dealt axes last, in the order of ``axes``."""
        places = [space.axes.index(axis) - space.ndim for axis in self.axes]
        return values.movedim(places, list(range(-len(places), 0)))

    def _shaped(self, flat: Tensor, problem: Problem) -> Tensor:
        """From ``(batch, place)`` to what broadcasts to the data."""
        space = problem.operator.range
        sizes = [space.shape[space.axes.index(axis)] for axis in self.axes]
        batch = problem.data.shape[: problem.data.ndim - space.ndim]
        ones = [1] * (space.ndim - len(self.axes))
        values = flat.reshape(*batch, *ones, *sizes)
        places = [space.axes.index(axis) - space.ndim for axis in self.axes]
        return values.movedim(list(range(-len(places), 0)), places)

    def _part(self, problem: Problem, held: Tensor, free: Tensor, kept: Tensor) -> Part:
        dtype = problem.data.real.dtype
        seen = free & ~held
        ratio = free.sum(1, keepdim=True).to(dtype) / seen.sum(1, keepdim=True)
        gain = torch.where(seen, ratio, kept.to(dtype))
        shaped = self._shaped(gain, problem)
        return Part(part_of(problem, shaped), self._shaped(held.to(dtype), problem), shaped)


def part_of(problem: Problem, gain: Tensor) -> Problem:
    """The problem with weights times ``gain``, and nothing left of samples where that is 0."""
    data = torch.where(gain > 0, problem.data, 0)
    weights = gain if problem.weights is None else gain * problem.weights
    return replace(problem, data=data, weights=weights, prepared=None)
