"""Which 12 of 180 views to take: worth much for bars that lie one way, nothing for discs.

Views are chosen by exchange through Tikhonov's estimate, and judged on unseen objects by that and
by TV, against equispaced, golden-angle and random views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from labrecon import Problem, solve
from labrecon.learners import exchange
from labrecon.metrics import psnr
from labrecon.networks import Tikhonov
from labrecon.operators import SubsetDesign
from labrecon.priors import TV
from labrecon.solvers import FISTA
from labrecon_ct.designs import usual_members
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.phantoms import aligned_bars, discs
from labrecon_ct.projector import CTProjector

pytestmark = pytest.mark.reproduction
VIEWS, K, N, SIGMA = 180, 12, 64, 0.01
GEOMETRY = CTGeometry(
    angles=tuple(math.pi * i / VIEWS for i in range(VIEWS)), columns=N, column_pitch=1.0
)


class Study:
    """Objects of a kind, and how well they come out of some of the views."""

    def __init__(self, kind: Callable[..., Tensor], seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        projector = CTProjector(GEOMETRY)
        self.operator = SubsetDesign(projector, K, "angle")
        self.train, self.unseen = (kind(GEOMETRY, n, self.generator) for n in (40, 20))
        self.step = 1 / (1.02 * projector.norm() ** 2)

    @torch.no_grad()
    def estimate(self, mask: Tensor, x: Tensor, noise: int, tv: bool) -> Tensor:
        self.operator.members.copy_(mask)
        clean = self.operator(x)
        same = torch.Generator().manual_seed(noise)
        problem = Problem(self.operator, clean + SIGMA * torch.randn(clean.shape, generator=same))
        if not tv:
            return Tikhonov(1.0, iterations=15)(problem)
        solver = FISTA(prior=TV(2e-3, nonneg=True), step_size=self.step)
        return solve(solver, problem, iterations=120).x

    def losses(self) -> Iterator[Callable[[Tensor], float]]:
        for noise in range(10**6):
            x = self.train[torch.randperm(40, generator=self.generator)[:6]]

            def loss(mask: Tensor, x: Tensor = x, noise: int = noise) -> float:
                return float((self.estimate(mask, x, noise, False) - x).square().mean())

            yield loss

    def score(self, mask: Tensor, tv: bool) -> float:
        made = self.estimate(mask, self.unseen, 99, tv)
        return sum(psnr(x, t) for x, t in zip(made, self.unseen, strict=True)) / len(made)


@pytest.mark.parametrize("kind", [aligned_bars, pytest.param(discs, marks=pytest.mark.nightly)])
def test_views_are_learned_where_directions_matter(kind: Callable[..., Tensor]) -> None:
    margins: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(3):
        study = Study(kind, seed)
        even = torch.zeros(VIEWS).scatter(0, ((torch.arange(K) + 0.5) * VIEWS / K).long(), 1.0)
        golden = usual_members(GEOMETRY, K)["golden angle"]
        found = exchange(even, study.losses(), rounds=250, generator=study.generator)
        assert int(found.mask.sum()) == K
        for tv in (False, True):
            usual = max(study.score(even, tv), study.score(golden, tv))
            margins[tv].append(study.score(found.mask, tv) - usual)
    print(kind.__name__, {name: [round(m, 2) for m in v] for name, v in margins.items()})
    for name, values in margins.items():
        if kind is aligned_bars:
            assert min(values) > 1.0, name
        else:
            assert abs(sum(values) / 3) < 0.3, name
