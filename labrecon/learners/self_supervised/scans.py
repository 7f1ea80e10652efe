"""Measured scans without truths, as samples to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labrecon.learners.samples import sample_generator
from labrecon.learners.self_supervised.dealing import part_of
from labrecon.problem import Problem

__all__ = ["MeasuredScan", "ScanBatch", "ScanSamples"]


@dataclass(frozen=True, eq=False)
class MeasuredScan:
    """What was measured, and what of it is never trained on.

    Attributes:
        problem: operator, data ``(*batch, *range.shape)``, the declared noise, weights.
        gain: 0 for samples that are never trained on, and on which the network is judged; by how
            much the others are weighted up, as in `Part`. Broadcasts to the data. None: the
            learner's own loss judges.
        truth: the object where it is known, for reports; it has no part in training.
    """

    problem: Problem
    gain: Tensor | None = None
    truth: Tensor | None = None

    @property
    def held(self) -> Tensor | None:
        """1 for samples that are never trained on."""
        return None if self.gain is None else (self.gain == 0).to(self.gain.dtype)

    @property
    def trained_on(self) -> Problem:
        """The problem without them."""
        held = self.held
        return self.problem if held is None else part_of(self.problem, 1 - held)


@dataclass(frozen=True, eq=False)
class ScanBatch:
    """Scans, those of one operator together, with a generator for each of their slices."""

    scans: tuple[tuple[MeasuredScan, tuple[torch.Generator, ...]], ...]

    def __len__(self) -> int:
        return sum(len(generators) for _, generators in self.scans)


class ScanSamples:
    """Measured scans as `labrecon.learner.Samples`; each slice is a sample.

    Args:
        scans: as measured: their noise is that of the data, whatever the network is given.
        seed: of what the learner draws: subsets, perturbations, transformations.
        fixed: the same draws in every epoch: for validation.

    Raises:
        ValueError: the noise differs between the slices of a scan.
    """

    def __init__(
        self, scans: Sequence[MeasuredScan], seed: int = 0, *, fixed: bool = False
    ) -> None:
        self.seed, self.fixed = seed, fixed
        self.slices = [one for i, scan in enumerate(scans) for one in _slices(i, scan)]

    def __len__(self) -> int:
        return len(self.slices)

    def batch(self, indices: Sequence[int], epoch: int) -> ScanBatch:
        """The slices of these indices: those of one scan together."""
        epoch = -1 if self.fixed else epoch
        groups: dict[int, list[tuple[MeasuredScan, torch.Generator]]] = {}
        for index in indices:
            group, scan = self.slices[index]
            generator = sample_generator(self.seed, epoch, index)
            groups.setdefault(group, []).append((scan, generator))
        made = []
        for members in groups.values():
            scans, generators = zip(*members, strict=True)
            made.append((_joined(scans), tuple(generators)))
        return ScanBatch(tuple(made))


def _slices(number: int, scan: MeasuredScan) -> list[tuple[int, MeasuredScan]]:
    problem, space = scan.problem, scan.problem.operator.range
    for name, value in problem.noise.named_buffers():
        if value.ndim > space.ndim:
            raise ValueError(
                f"the noise of scan {number} has {name} for each slice {tuple(value.shape)}: give "
                "one noise for all slices, or each slice as a scan of its own"
            )
    data = problem.data.reshape(-1, *space.shape)

    def cut(values: Tensor | None) -> list[Tensor | None]:
        if values is None:
            return [None] * len(data)
        whole = values.expand(problem.data.shape).reshape(data.shape)
        return [whole[j : j + 1] for j in range(len(data))]

    truths: list[Tensor | None] = [None] * len(data)
    if scan.truth is not None:
        every = scan.truth.reshape(len(data), *problem.operator.domain.shape)
        truths = [every[j : j + 1] for j in range(len(data))]
    parts = zip(cut(problem.weights), cut(scan.gain), truths, strict=True)
    return [
        (number, MeasuredScan(replace(problem, data=data[j : j + 1], weights=w), gain, truth))
        for j, (w, gain, truth) in enumerate(parts)
    ]


def _joined(scans: Sequence[MeasuredScan]) -> MeasuredScan:
    first = scans[0]
    data = torch.cat([scan.problem.data for scan in scans])
    weights = _together([scan.problem.weights for scan in scans])
    return MeasuredScan(
        replace(first.problem, data=data, weights=weights),
        _together([scan.gain for scan in scans]),
        _together([scan.truth for scan in scans]),
    )


def _together(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
