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
    """

    motion: Tensor
    correlation: Tensor
    textured: Tensor
    overlap: Tensor

    @property
    def trusted(self) -> Tensor:
        """The frames whose motion is known, ``(*batch, frame)``, boolean."""
        same = self.correlation >= CORRELATION
        return same & self.textured & (self.overlap >= OVERLAP)

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
            else:
                reason = "no texture along a direction of the motion, or another scene"
            lines.append(f"frame {frame}{of if element else ''}: {reason}")
        return "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")


class Level(NamedTuple):
    """Frames of one size, and what of each pixel was measured, ``(*batch, frame, y, x)``."""

    frames: Tensor
    measured: Tensor


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
    images = _gray(operator, data, weights)
    pyramid = [images]
    while min(pyramid[-1].frames.shape[-2:]) >= 2 * SMALLEST:
        pyramid.append(_halved(pyramid[-1]))
    motion = _searched(pyramid[-1], operator.model.numbers)
    for i, level in enumerate(reversed(pyramid)):
        motion = motion if i == 0 else 2 * motion
        smooth = _smoothed(level)
        burst, problem = _posed(operator, smooth)
        first = smooth.frames[..., 0, :, :]
        for _ in range(STEPS):
            before = motion
            motion = motion_step(burst, problem, first, motion, smooth.measured, DAMPING)
            if float((motion - before).abs().amax()) < ENOUGH:
                break
    found = _judged(burst, problem, smooth, motion)
    return found._replace(motion=operator.cell * motion)


def _gray(operator: Burst, data: Tensor, weights: Tensor | None) -> Level:
    """One image per frame: over colours, channels and the cell of a mosaic."""
    measured = torch.ones_like(data.real) if weights is None else weights > 0
    measured = measured.to(data.real.dtype).expand(data.shape)
    frames = data.abs() if data.is_complex() else data
    lead = operator.range.ndim - 3
    if lead:
        axes = tuple(range(-lead - 2, -2))
        frames, measured = (frames * measured).sum(axes), measured.sum(axes)
        frames, measured = frames / measured.clamp_min(1), (measured > 0).to(frames.dtype)
    level = Level(frames, measured)
    return level if operator.cell == 1 else _pooled(level, operator.cell)


def _pooled(level: Level, size: int) -> Level:
    """Means over cells of what was measured."""
    batch = level.frames.shape[:-2]

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values.flatten(0, -3).unsqueeze(1), size).squeeze(1)

    share = mean(level.measured)
    frames = mean(level.frames * level.measured) / share.clamp_min(1e-6)
    known = (share > 0).to(frames.dtype)
    return Level(frames.unflatten(0, batch), known.unflatten(0, batch))


def _halved(level: Level) -> Level:
    return _pooled(level, 2)


def _smoothed(level: Level) -> Level:
    """Means by (1, 2, 1)/4 along both axes of what was measured; unknown pixels are filled."""
    batch = level.frames.shape[:-2]
    line = level.frames.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line)[None, None]

    def smooth(values: Tensor) -> Tensor:
        return functional.conv2d(values.flatten(0, -3).unsqueeze(1), kernel, padding=1).squeeze(1)

    share = smooth(level.measured)
    frames = smooth(level.frames * level.measured) / share.clamp_min(1e-6)
    return Level(frames.unflatten(0, batch), level.measured)


def _posed(operator: Burst, level: Level) -> tuple[Burst, Problem]:
    """The burst whose image is the first frame itself."""
    space = Space(tuple(level.frames.shape[-2:]), level.frames.dtype, ("y", "x"))
    burst = Burst(Identity(space), level.frames.shape[-3], motion=operator.model.name)
    burst = burst.to(level.frames.device)
    return burst, Problem(burst, level.frames)


def _searched(level: Level, numbers: int) -> Tensor:
    """The whole-pixel shift of each frame that correlates best, up to a third of its size."""
    level = _smoothed(level)
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
    slopes = normal_equations(burst, problem, first, motion, weights).matrix
    # The difference of two frames has twice the noise of one, and no scene.
    still = torch.zeros_like(motion[..., :1, :]).unsqueeze(-3)
    rough = burst.jacobian(level.frames - moved, still).squeeze(-4).flatten(-2)
    noise = 0.5 * (rough * weights.flatten(-2).unsqueeze(-2)) @ rough.mT
    excess = torch.linalg.eigvalsh(slopes - TEXTURE * noise)[..., 0]
    rounding = 1e3 * torch.finfo(first.dtype).eps * first.square().sum((-2, -1)).unsqueeze(-1)
    count = level.measured.flatten(-2).sum(-1).clamp_min(1.0)
    overlap = weights.flatten(-2).sum(-1) / count
    return Registration(motion, correlation, excess > rounding, overlap)
