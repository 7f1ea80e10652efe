"""First motions of a burst: frames registered with the first one, from coarse to fine."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from labrecon.operators.burst import Burst
from labrecon.operators.motion import TranslationMotion
from labrecon.operators.pointwise import Identity
from labrecon.problem import Problem, SolverError
from labrecon.solvers.frame_levels import Level, gray, pooled, smoothed
from labrecon.solvers.motion_step import masked, motion_step, normal_equations
from labrecon.space import Space

__all__ = ["Registration", "RegistrationError", "register"]

#: No level of the pyramid is smaller, in pixels, if the frame is not.
SMALLEST = 16
#: Gauss–Newton steps per level at most, and the change, in pixels, after which there are no more.
STEPS, ENOUGH = 10, 1e-3
DAMPING = 1e-6
#: A frame and the moved first one are of the same scene where they correlate by this much.
CORRELATION = 0.5
#: Frames of one exposure: the ratio of their contrasts is between this and its inverse, and their
#: means differ by no more than this part of the contrast.
CONTRAST, BRIGHTNESS = 0.8, 0.5
#: Slopes along a direction are those of a scene where they have this much more power than noise.
TEXTURE = 3.0
#: Least share of the field that a frame has in common with the first one.
OVERLAP = 0.25


class RegistrationError(SolverError):
    """The motion of a frame can not be told from the data."""


class Registration(NamedTuple):
    """Motions found by `register`.

    Attributes:
        motion: ``(*batch, frame, number)`` in pixels of the frames.
        correlation: of each frame with the moved first one, ``(*batch, frame)``.
        textured: whether the scene has slopes along every direction of the motion.
        overlap: share of the frame that the first one sees, too.
        contrast: standard deviation of the frame in parts of that of the moved first one.
        brightness: its mean less that of the moved first one, in the same parts.
    """

    motion: Tensor
    correlation: Tensor
    textured: Tensor
    overlap: Tensor
    contrast: Tensor
    brightness: Tensor

    @property
    def trusted(self) -> Tensor:
        """The frames whose motion is known, ``(*batch, frame)``, boolean."""
        same = self.correlation >= CORRELATION
        return same & self.textured & (self.overlap >= OVERLAP) & self._exposed

    @property
    def _exposed(self) -> Tensor:
        """The frames that are as bright as the first one, and as rich in contrast."""
        alike = (self.contrast >= CONTRAST) & (self.contrast <= 1 / CONTRAST)
        return alike & (self.brightness.abs() <= BRIGHTNESS)

    def told(self, needed: Tensor) -> str:
        """What is wrong with those frames that are needed and not trusted."""
        lines = []
        for place in (needed & ~self.trusted).nonzero().tolist():
            *element, frame = place
            at = tuple(place)
            of = f" of batch element {element[0] if len(element) == 1 else tuple(element)}"
            correlation, overlap = float(self.correlation[at]), float(self.overlap[at])
            if correlation < CORRELATION:
                reason = f"it correlates by {correlation:.2f} with frame 0"
            elif overlap < OVERLAP:
                reason = f"it shares {overlap:.0%} of its field with frame 0"
            elif not bool(self._exposed[at]):
                reason = (
                    f"its contrast is {float(self.contrast[at]):.2f} of that of frame 0, its mean "
                    f"off by {float(self.brightness[at]):+.2f} of it: bring all frames to one "
                    "exposure first"
                )
            else:
                reason = "no texture along a direction of the motion, or another scene"
            lines.append(f"frame {frame}{of if element else ''}: {reason}")
        return "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")


@torch.no_grad()
def register(operator: Burst, data: Tensor, weights: Tensor | None = None) -> Registration:
    """Motions of all frames against the first, without an image: Lucas and Kanade on a pyramid.

    All shifts of up to a third of the frame are tried on the coarsest level; Gauss–Newton steps
    refine them on each. Frames are smoothed by (1, 2, 1)/4, which spares slopes noise and aliasing;
    pixels of a mosaic are averaged over its cell; of complex data the modulus is taken. What
    remains, a few hundredths of a pixel, is due to aliasing, and is what `LucasKanade` removes.

    Args:
        operator: of the burst.
        data: ``(*batch, frame, *lead, y, x)``.
        weights: of the data; pixels of weight 0 are replaced by their neighbours.
    """
    images = gray(operator, data, weights)
    pyramid = [images]
    while min(pyramid[-1].frames.shape[-2:]) >= 2 * SMALLEST:
        pyramid.append(pooled(pyramid[-1], 2))
    motion = _searched(pyramid[-1], operator.model.numbers)
    for i, level in enumerate(reversed(pyramid)):
        motion = motion if i == 0 else 2 * motion
        smooth = smoothed(level)
        burst, problem = _posed(operator, smooth)
        first = smooth.frames[..., 0, :, :]
        for _ in range(STEPS):
            before = motion
            motion = motion_step(burst, problem, first, motion, smooth.measured, DAMPING)
            if float((motion - before).abs().amax()) < ENOUGH:
                break
    found = _judged(burst, problem, smooth, motion)
    return found._replace(motion=operator.cell * motion)


def _posed(operator: Burst, level: Level) -> tuple[Burst, Problem]:
    """The burst whose image is the first frame itself."""
    space = Space(tuple(level.frames.shape[-2:]), level.frames.dtype, ("y", "x"))
    burst = Burst(Identity(space), level.frames.shape[-3], motion=operator.model.name)
    burst = burst.to(level.frames.device)
    return burst, Problem(burst, level.frames)


def _searched(level: Level, numbers: int) -> Tensor:
    """The whole-pixel shift of each frame that correlates best, up to a third of its size."""
    level = smoothed(level)
    height, width = level.frames.shape[-2:]
    device, dtype = level.frames.device, level.frames.dtype
    ranges = [
        torch.arange(-(n // 3), n // 3 + 1, dtype=dtype, device=device) for n in (height, width)
    ]
    shifts = torch.cartesian_prod(*ranges)
    model = TranslationMotion((height, width), "linear")
    first = model.warp(level.frames[..., 0, :, :], shifts)
    known = model.warp(level.measured[..., 0, :, :], shifts) * model.inside(shifts)
    score = _correlation(level.frames, level.measured, first, known)
    best = shifts[score.argmax(-1)]
    return functional.pad(best, (0, numbers - 2))


def _correlation(frames: Tensor, measured: Tensor, first: Tensor, known: Tensor) -> Tensor:
    """Of each frame with each shifted first one, over the pixels of both: ``(…, frame, shift)``."""
    a, b = (frames * measured).flatten(-2), (first * known).flatten(-2).mT
    aa, bb = (frames.square() * measured).flatten(-2), (first.square() * known).flatten(-2).mT
    wa, wb = measured.flatten(-2), known.flatten(-2).mT
    n = (wa @ wb).clamp_min(1.0)
    mean_a, mean_b = (a @ wb) / n, (wa @ b) / n
    covariance = (a @ b) / n - mean_a * mean_b
    power_a = ((aa @ wb) / n - mean_a.square()).clamp_min(0)
    power_b = ((wa @ bb) / n - mean_b.square()).clamp_min(0)
    least = torch.finfo(frames.dtype).eps * (mean_a.square() + mean_b.square())
    tiny = torch.finfo(frames.dtype).tiny
    return covariance / ((power_a * power_b).sqrt() + least + tiny)


def _judged(burst: Burst, problem: Problem, level: Level, motion: Tensor) -> Registration:
    """How well each frame fits the first one, moved."""
    first = level.frames[..., 0, :, :]
    weights = masked(burst, level.measured, motion)
    moved = burst(first, motion=motion)
    pairs = [t.unsqueeze(-3) for t in (level.frames, weights, moved, weights)]
    correlation = _correlation(*pairs)[..., 0, 0]
    (mean, spread), (first_mean, first_spread) = (
        _moments(t, weights) for t in (level.frames, moved)
    )
    tiny = torch.finfo(first.dtype).tiny ** 0.5
    contrast = spread / first_spread.clamp_min(tiny)
    brightness = (mean - first_mean) / first_spread.clamp_min(tiny)
    slopes = normal_equations(burst, problem, first, motion, weights).matrix
    # The difference of two frames has twice the noise of one, and no scene.
    still = torch.zeros_like(motion[..., :1, :]).unsqueeze(-3)
    rough = burst.jacobian(level.frames - moved, still).squeeze(-4).flatten(-2)
    noise = 0.5 * (rough * weights.flatten(-2).unsqueeze(-2)) @ rough.mT
    excess = torch.linalg.eigvalsh(slopes - TEXTURE * noise)[..., 0]
    rounding = 1e3 * torch.finfo(first.dtype).eps * first.square().sum((-2, -1)).unsqueeze(-1)
    count = level.measured.flatten(-2).sum(-1).clamp_min(1.0)
    overlap = weights.flatten(-2).sum(-1) / count
    textured = excess > rounding
    return Registration(motion, correlation, textured, overlap, contrast, brightness)


def _moments(frames: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each frame, ``(*batch, frame)``."""
    count = weights.flatten(-2).sum(-1).clamp_min(1.0)
    mean = (weights * frames).flatten(-2).sum(-1) / count
    square = (weights * (frames - mean[..., None, None]).square()).flatten(-2).sum(-1) / count
    return mean, square.sqrt()
