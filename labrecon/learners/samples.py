"""What learners are trained on: objects, and pairs of measured scans and their truths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from labrecon.instrument import Scan
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.problem import Problem
from labrecon.solvers.trained import with_unit_noise

__all__ = ["ObjectBatch", "ObjectSamples", "PairSamples", "sample_generator", "split"]


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """A generator for all that is random in one sample, whatever process or batch it is in."""
    digest = hashlib.blake2b(f"{seed} {epoch} {index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class ObjectBatch:
    """Objects ``(batch, *domain.shape)`` with a generator each for what is random in them."""

    objects: Tensor
    generators: tuple[torch.Generator, ...]


@dataclass(frozen=True)
class ObjectSamples:
    """Objects as `labrecon.learner.Samples`, measured anew in each epoch by whoever is trained.

    Attributes:
        objects: ``(n, *domain.shape)``.
        seed: of noise and augmentation.
        flips: turn each of the last two axes around with probability ½, anew in each epoch.
        fixed: the same noise in every epoch, and no augmentation: for validation.
    """

    objects: Tensor
    seed: int = 0
    flips: bool = False
    fixed: bool = False

    def __len__(self) -> int:
        return len(self.objects)

    def batch(self, indices: Sequence[int], epoch: int) -> ObjectBatch:
        """The objects of these indices."""
        epoch = -1 if self.fixed else epoch
        generators = tuple(sample_generator(self.seed, epoch, i) for i in indices)
        objects = self.objects[list(indices)]
        if self.flips and not self.fixed:
            pairs = zip(objects, generators, strict=True)
            objects = torch.stack([_flipped(x, generator) for x, generator in pairs])
        return ObjectBatch(objects, generators)


def _flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    heads = torch.rand(min(x.ndim, 2), generator=generator) < 0.5
    axes = [-1 - i for i, head in enumerate(heads.tolist()) if head]
    return x.flip(axes) if axes else x


class PairSamples:
    """Measured scans and their truths as `labrecon.learner.Samples`; each slice is a sample.

    Args:
        pairs: prepared scans, each with its truth ``(*batch, *domain.shape)``.
        operators: the operator of each scan; one object where geometries are equal.
        data_term: "unit": the network is given ``½‖A x − y‖²``; "noise": the likelihood of each
            scan's noise.

    Raises:
        ValueError: the batch of a truth is not that of its data, or a noise differs between the
            slices of a scan.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Scan, Tensor]],
        operators: Sequence[Operator],
        data_term: Literal["unit", "noise"] = "unit",
    ) -> None:
        self.slices: list[tuple[int, Problem, Tensor]] = []
        for i, ((scan, truth), operator) in enumerate(zip(pairs, operators, strict=True)):
            operator.domain.check(truth, f"truth {i}")
            ndim = operator.range.ndim
            batch = operator.range.batch(scan.data)
            if operator.domain.batch(truth) != batch:
                raise ValueError(
                    f"truth {i} has batch {operator.domain.batch(truth)}, its data have {batch}"
                )
            problem = Problem(operator, scan.data, scan.noise, scan.weights)
            if data_term == "unit":
                problem = with_unit_noise(problem)
            _require_one_noise(problem.noise, ndim)
            data = problem.data.reshape(-1, *operator.range.shape)
            weights = problem.weights
            if weights is not None:
                weights = weights.expand(scan.data.shape).reshape(data.shape)
            truths = truth.reshape(-1, *operator.domain.shape)
            for j in range(len(data)):
                part = slice(j, j + 1)
                given = None if weights is None else weights[part]
                one = replace(problem, data=data[part], weights=given)
                self.slices.append((i, one, truths[part]))

    def __len__(self) -> int:
        return len(self.slices)

    def batch(self, indices: Sequence[int], epoch: int) -> list[tuple[Problem, Tensor]]:
        """Problems and truths: those of one scan together."""
        groups: dict[int, list[tuple[Problem, Tensor]]] = {}
        for index in indices:
            scan, problem, truth = self.slices[index]
            groups.setdefault(scan, []).append((problem, truth))
        return [_joined(group) for group in groups.values()]


def _joined(group: list[tuple[Problem, Tensor]]) -> tuple[Problem, Tensor]:
    first = group[0][0]
    data = torch.cat([problem.data for problem, _ in group])
    weights = None
    if first.weights is not None:
        weights = torch.cat([p.weights for p, _ in group if p.weights is not None])
    return replace(first, data=data, weights=weights), torch.cat([truth for _, truth in group])


def _require_one_noise(noise: Noise, ndim: int) -> None:
    for name, value in noise.named_buffers():
        if value.ndim > ndim:
            raise ValueError(
                f"the noise has {name} for each slice {tuple(value.shape)}: take the unit data "
                "term, which knows no noise level"
            )


def split(groups: Sequence[Any], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on and to validate on: whole groups, drawn by the seed.

    Args:
        groups: for each sample what it must stay together with (its file, its content).
        fraction: of the samples to validate on, not exceeded but by one smallest group.
        seed: of the draw.

    Raises:
        ValueError: a single group can not be split.

    Example:
        >>> split(["a", "a", "b", "b", "c", "c"], 0.4, seed=0)
        ([0, 1, 4, 5], [2, 3])
    """
    members: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if len(members) < 2:
        raise ValueError(
            f"{len(groups)} samples, all alike or of one file, can not be split into some to train "
            "on and others to validate on; give at least two"
        )
    order = torch.randperm(len(members), generator=sample_generator(seed, 0, -1)).tolist()
    drawn = [list(members.values())[i] for i in order]
    held: list[int] = []
    for indices in drawn:
        if len(held) + len(indices) <= fraction * len(groups):
            held += indices
    held = held or min(drawn, key=len)
    return sorted(set(range(len(groups))) - set(held)), sorted(held)
