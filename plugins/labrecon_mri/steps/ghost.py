"""Scores of candidate gradient delays of opposed readouts, smallest at the right one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon_mri.density import pipe_menon
from labrecon_mri.nufft import NUFFT
from labrecon_mri.steps.readouts import readout_axis, shifted, velocity

__all__ = ["GhostScore", "NavigatorScore", "minimum"]

#: Constant phases of the reversed readouts that are tried; beyond ±π/2 is the same image half a
#: field of view away.
PHASES = torch.linspace(-0.5, 0.5, 33, dtype=torch.float64)[1:-1] * math.pi


@dataclass(frozen=True)
class Candidate:
    """Score of a delay, and the phase of reversed readouts that goes with it, in rad."""

    score: float
    phase: float


class GhostScore:
    """``Σ|x| / (√n ‖x‖₂)`` of an image at half resolution: ghosts spread the object's energy.

    Args:
        data: (coil, shot, sample).
        trajectory: (shot, sample, axis) in cycles/m, as it was planned.
        matrix: image size.
        fov: in m.
        train: see `readouts.joined`.
        phase: search a constant phase of the reversed readouts, too.
    """

    def __init__(
        self,
        data: Tensor,
        trajectory: Tensor,
        matrix: tuple[int, ...],
        fov: tuple[float, ...],
        train: bool,
        phase: bool,
    ) -> None:
        self.trajectory, self.fov, self.train, self.phase = trajectory, fov, train, phase
        self.matrix = tuple(n // 2 if n >= 64 else n for n in matrix)
        size = trajectory.new_tensor(self.matrix)
        reach = trajectory.abs() * trajectory.new_tensor(fov)
        self.inside = (reach <= size / 2 - 0.5).all(-1)
        axis = readout_axis(trajectory)
        assert axis is not None
        self.backwards = (velocity(trajectory, train)[..., axis] < 0)[self.inside]
        density = pipe_menon(self.matrix, fov, trajectory[self.inside][None])
        self.weighted = density * data[:, self.inside][:, None]

    def __call__(self, samples: float) -> Candidate:
        """The score of a delay in samples."""
        moved = shifted(self.trajectory, samples, self.train)[self.inside]
        nufft = NUFFT(self.matrix, self.fov, moved[None])
        if not self.phase:
            return Candidate(self._spread(nufft.adjoint(self.weighted)), 0.0)
        ahead = nufft.adjoint(self.weighted * ~self.backwards)
        back = nufft.adjoint(self.weighted * self.backwards)
        tried = [self._spread(ahead + _turn(p) * back) for p in PHASES.tolist()]
        best = min(range(1, len(tried) - 1), key=tried.__getitem__)
        low, mid, high = tried[best - 1 : best + 2]
        bend = low - 2 * mid + high
        part = 0.5 * (low - high) / bend if bend > 0 else 0.0
        phase = float(PHASES[best] + max(-1.0, min(1.0, part)) * (PHASES[1] - PHASES[0]))
        return Candidate(self._spread(ahead + _turn(phase) * back), phase)

    @staticmethod
    def _spread(images: Tensor) -> float:
        combined = images.abs().square().sum(0).sqrt()
        return float(combined.sum() / (combined.norm() * math.sqrt(combined.numel())))


class NavigatorScore:
    """``1 − |⟨p₊, p₋⟩| / ‖p₊‖ ‖p₋‖``: profiles of forward and reversed navigator lines are alike.

    Each line is compared with the mean of its neighbours in time, so that the phase evolution
    between echoes cancels.

    Args:
        lines: navigator (coil, line, sample) without phase encoding, in time order.
        backwards: which lines are reversed (line).
        positions: along the readout axis of a forward and of a reversed line (2, sample), in
            cycles/m, as planned.
        n: pixels of the profile.
        fov: along the readout axis in m.
    """

    def __init__(
        self, lines: Tensor, backwards: Tensor, positions: Tensor, n: int, fov: float
    ) -> None:
        self.lines, self.backwards = lines.to(torch.complex128), backwards.bool()
        self.positions = positions.double()
        self.place = (torch.arange(n, dtype=torch.float64) - n // 2) * fov / n

    def __call__(self, samples: float) -> Candidate:
        """The score of a delay in samples."""
        k = shifted(self.positions[..., None], samples, False)[..., 0]
        (width,) = torch.gradient(k, dim=1)
        wave = 2 * math.pi * k[:, :, None] * self.place
        forward, back = torch.polar(width.abs()[:, :, None].expand_as(wave), wave)
        own = self.backwards[:, None]
        profiles = torch.where(own, self.lines @ back, self.lines @ forward)
        if profiles.shape[1] == 2:
            middle, beside = profiles[:, 1:], profiles[:, :1]
        else:
            middle, beside = profiles[:, 1:-1], 0.5 * (profiles[:, :-2] + profiles[:, 2:])
        product = (beside.conj() * middle).sum((0, 2))
        flipped = self.backwards[1 : 1 + middle.shape[1]]
        alike = torch.where(flipped, product, product.conj()).sum()
        scale = float(middle.norm() * beside.norm())
        return Candidate(1 - float(alike.abs()) / scale, float(alike.angle()))


def _turn(phase: float) -> complex:
    return complex(math.cos(phase), -math.sin(phase))


def minimum(
    score: Callable[[float], Candidate], reach: float, step: float, tolerance: float
) -> tuple[float, Candidate, list[float], list[float]]:
    """Grid search over ``±reach``, then a bounded scalar search around its best point.

    Returns:
        The best delay and its score, and the curve of the grid; all in samples.
    """
    from scipy.optimize import minimize_scalar

    count = math.ceil(reach / step)
    grid = [step * i for i in range(-count, count + 1)]
    scores = [score(x).score for x in grid]
    best = grid[min(range(len(grid)), key=scores.__getitem__)]
    found = minimize_scalar(
        lambda x: score(x).score,
        bounds=(best - step, best + step),
        method="bounded",
        options={"xatol": tolerance},
    )
    delay = float(found.x)
    return delay, score(delay), grid, scores
