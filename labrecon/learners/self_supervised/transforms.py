"""Transformations under which a set of objects stays what it is: turns, flips, shifts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labrecon.space import Space

__all__ = ["TRANSFORMS", "check_transforms", "transformed"]


def quarter_turn(x: Tensor, generator: torch.Generator) -> Tensor:
    """By 90°, 180° or 270°."""
    return torch.rot90(x, 1 + int(torch.randint(3, (), generator=generator)), (-2, -1))


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Along one or both of the last two axes; an object with one axis along that."""
    choices = [(-1,), (-2,), (-2, -1)][: 1 if x.ndim < 2 else 3]
    return x.flip(choices[int(torch.randint(len(choices), (), generator=generator))])


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """By whole pixels, around the edge."""
    moves = [int(torch.randint(n, (), generator=generator)) for n in x.shape[-2:]]
    return x.roll(moves, tuple(range(-len(moves), 0)))


def rotation(x: Tensor, generator: torch.Generator) -> Tensor:
    """By any angle, interpolated; zeros come in at the corners."""
    angle = 2 * math.pi * float(torch.rand((), generator=generator))
    parts = torch.view_as_real(x).movedim(-1, 0) if x.is_complex() else x
    planes = parts.reshape(1, -1, *x.shape[-2:])
    c, s = math.cos(angle), math.sin(angle)
    h, w = x.shape[-2:]
    # The grid goes from −1 to 1 along each axis, whatever its length.
    turn = [[c, -s * h / w, 0.0], [s * w / h, c, 0.0]]
    matrix = torch.tensor([turn], dtype=planes.dtype, device=x.device)
    grid = nn.functional.affine_grid(matrix, list(planes.shape), align_corners=False)
    turned = nn.functional.grid_sample(planes, grid, align_corners=False).reshape(parts.shape)
    return torch.view_as_complex(turned.movedim(0, -1).contiguous()) if x.is_complex() else turned


#: By the names that recipes use; each takes one object, and draws how far.
TRANSFORMS = {
    "quarter-turns": quarter_turn,
    "flips": flip,
    "shifts": shift,
    "rotations": rotation,
}


def check_transforms(names: Sequence[str], domain: Space) -> None:
    """Raise where a transformation would not lead from an object to another.

    Raises:
        ValueError: an unknown name, or none; quarter turns of objects that are not square; turns of
            objects with one axis.
    """
    known = ", ".join(TRANSFORMS)
    if not names:
        raise ValueError(f"transforms are some of {known}; got none")
    for name in names:
        if name not in TRANSFORMS:
            raise ValueError(f"transforms are some of {known}; got {name!r}")
        if domain.ndim < 2 and name in ("quarter-turns", "rotations"):
            raise ValueError(f"{name} need objects with two axes, got {domain.shape}: take shifts")
        if name == "quarter-turns" and domain.shape[-1] != domain.shape[-2]:
            raise ValueError(
                f"quarter-turns need square objects, got {domain.shape}: take flips or shifts"
            )


def transformed(x: Tensor, names: Sequence[str], generators: Sequence[torch.Generator]) -> Tensor:
    """Each element of ``x (batch, *shape)`` by one of the transformations, drawn at random."""
    made = []
    for one, generator in zip(x, generators, strict=True):
        name = names[int(torch.randint(len(names), (), generator=generator))]
        made.append(TRANSFORMS[name](one, generator))
    return torch.stack(made)
