"""Bad frames: clouds, lost guiding, frames that were not read out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon import Scan
from labrecon.instrument import Curve, StepError
from labrecon_coronagraph.sky import radii
from labrecon_coronagraph.steps.requirements import geometry_of

__all__ = ["bad_frames", "keep_frames"]

#: Frames, fewer than which tell no star from a planet.
LEAST_FRAMES = 3


def bad_frames(
    scan: Scan,
    *,
    frames: Sequence[int] = (),
    detect: bool = True,
    threshold: float = 5.0,
    radius: float | None = None,
) -> Scan:
    """Leave out frames that are named, more than half empty, or unlike the others.

    A frame is unlike the others where its flux, or its correlation with the median frame, is off by
    more than ``threshold`` robust deviations and by more than 2 %; a correlation only where it is
    lower.

    Args:
        scan: frames of a star.
        frames: to be left out, counted from 0.
        detect: look for bad frames.
        threshold: in robust standard deviations.
        radius: of the disc that is looked at, in pixels; ``6 λ/D`` by default.

    Raises:
        StepError: a frame that is not there, fewer than 3 that are left, or speckles that were
            taken out before.
    """
    geometry = geometry_of(scan)
    if geometry.speckles is not None:
        raise StepError("put bad_frames before speckles, whose courses need all frames")
    count = geometry.frames
    for frame in frames:
        if not 0 <= frame < count:
            raise StepError(f"there is no frame {frame}: they count from 0 to {count - 1}")
    bad = torch.zeros(count, dtype=torch.bool)
    bad[list(frames)] = True
    empty = torch.zeros_like(bad)
    if scan.weights is not None:
        measured = (scan.weights.expand_as(scan.data) > 0).float()
        empty = measured.mean((1, 2)) < 0.5 * measured.amax(0).mean()
    told: dict[str, list[int]] = {"given": sorted(frames), "empty": _numbers(empty)}
    bad |= empty
    curve = None
    if detect:
        reach = 6 * geometry.resolution if radius is None else radius
        disc = radii(geometry.shape, geometry.centre) <= reach
        values = scan.data.double()[:, disc]
        flux = values.mean(1)
        alike = _correlation(values, values[~bad].quantile(0.5, dim=0))
        flickers = _off(flux / flux[~bad].median(), ~bad, threshold, both=True)
        differs = _off(alike, ~bad, threshold, both=False)
        told["flux"], told["correlation"] = _numbers(flickers & ~bad), _numbers(differs & ~bad)
        bad |= flickers | differs
        curve = Curve(
            "Likeness of the frames",
            list(range(count)),
            alike.tolist(),
            "frame",
            "correlation with the median frame",
        )
    kept = _numbers(~bad)
    if len(kept) < LEAST_FRAMES:
        raise StepError(f"{len(kept)} of {count} frames would be left: raise threshold")
    return keep_frames(scan, kept).with_step(
        "bad_frames", curve=curve, kept=len(kept), of=count, **told
    )


def keep_frames(scan: Scan, kept: Sequence[int]) -> Scan:
    """The scan with some of its frames."""
    geometry = geometry_of(scan)
    weights = scan.weights
    if weights is not None:
        weights = weights.expand_as(scan.data)[list(kept)].contiguous()
    return scan.replace(
        data=scan.data[list(kept)].contiguous(),
        geometry=geometry.changed(angles=tuple(geometry.angles[frame] for frame in kept)),
        weights=weights,
    )


def _numbers(flags: Tensor) -> list[int]:
    return flags.nonzero()[:, 0].tolist()


def _correlation(values: Tensor, usual: Tensor) -> Tensor:
    a = values - values.mean(1, keepdim=True)
    b = usual - usual.mean()
    scale = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b)
    return (a @ b) / torch.where(scale > 0, scale, 1.0)


def _off(values: Tensor, known: Tensor, threshold: float, *, both: bool) -> Tensor:
    middle = values[known].median()
    spread = 1.4826 * (values[known] - middle).abs().median()
    away = values - middle
    away = away.abs() if both else -away
    return away > torch.maximum(threshold * spread, torch.as_tensor(0.02, dtype=values.dtype))
