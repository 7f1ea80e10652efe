"""Readouts of a train of echoes: which way they run, and their trajectory a moment later."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["joined", "opposed", "readout_axis", "shifted", "velocity"]

#: How much longer than all other ways together the way along the readout axis is.
DOMINANT = 5.0
#: Samples that run backwards, as a part of all, in a train of opposed readouts.
BACKWARDS = (0.2, 0.8)


def velocity(trajectory: Tensor, train: bool) -> Tensor:
    """``dk`` per sample, (shot, sample, axis): one-sided at ends, central between.

    Args:
        trajectory: (shot, sample, axis).
        train: whether shots follow each other without a gap, see `joined`.
    """
    lines = trajectory.flatten(0, 1)[None] if train else trajectory
    (rate,) = torch.gradient(lines, dim=1)
    return rate.reshape(trajectory.shape)


def readout_axis(trajectory: Tensor) -> int | None:
    """The axis along which all readouts run; None where they have no such axis (radial, spiral)."""
    way = trajectory.diff(dim=1).abs().sum((0, 1))
    axis = int(way.argmax())
    others = float(way.sum() - way[axis])
    return axis if float(way[axis]) > DOMINANT * others else None


def opposed(along: Tensor) -> bool:
    """Whether a good part of the readout velocities ``along`` (shot, sample) is reversed."""
    part = float((along < 0).double().mean())
    return BACKWARDS[0] < part < BACKWARDS[1]


def joined(trajectory: Tensor) -> bool:
    """Whether the shots are one train that was sampled without a gap.

    The step from each shot's last sample to the next one's first is then no longer than those
    beside it.
    """
    if len(trajectory) < 2 or trajectory.shape[1] < 2:
        return False
    gap = (trajectory[1:, 0] - trajectory[:-1, -1]).norm(dim=-1)
    before = (trajectory[:-1, -1] - trajectory[:-1, -2]).norm(dim=-1)
    after = (trajectory[1:, 1] - trajectory[1:, 0]).norm(dim=-1)
    return bool((gap <= 1.5 * torch.maximum(before, after)).all())


def shifted(trajectory: Tensor, samples: float, train: bool) -> Tensor:
    """``k(t + τ)``: the trajectory some samples later, linear between them and at the ends.

    Args:
        trajectory: (shot, sample, axis).
        samples: ``τ`` in samples.
        train: interpolate across shots, which follow each other without a gap.
    """
    lines = trajectory.flatten(0, 1)[None] if train else trajectory
    n = lines.shape[1]
    place = torch.arange(n, dtype=lines.dtype, device=lines.device) + samples
    first = place.floor().long().clamp(0, n - 2)
    part = (place - first)[:, None]
    moved = lines[:, first] + part * (lines[:, first + 1] - lines[:, first])
    return moved.reshape(trajectory.shape)
