"""Which phase encodings are measured: usual choices, and the set for learning one."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.design import Box, FeasibleSet, Subset

__all__ = ["equispaced", "line_set", "poisson_disc", "variable_density"]

#: Places of which the farthest is taken, for a Poisson-disc mask.
CANDIDATES = 64


def equispaced(lines: int, acceleration: float, centre: int = 0) -> Tensor:
    """``round(lines / acceleration)`` lines: those of the centre, the rest evenly spread.

    Args:
        lines: of the full grid.
        acceleration: R.
        centre: lines in the middle that are always there.

    Returns:
        (lines, 1), 0 and 1.

    Raises:
        ValueError: the centre takes more lines than there are to give.
    """
    mask, left = _centre(lines, acceleration, centre)
    free = (mask == 0).nonzero()[:, 0]
    if left:
        # In the middle of equal shares, so that both ends of k-space are treated alike.
        place = (torch.arange(left) + 0.5) * len(free) / left
        mask[free[place.long()]] = 1
    return mask[:, None]


def variable_density(
    lines: int,
    acceleration: float,
    centre: int = 0,
    *,
    power: float = 3.0,
    generator: torch.Generator,
) -> Tensor:
    """Random lines with density ``(1 − |k| / k_max)^power``, besides those of the centre.

    Lustig, Donoho and Pauly 2007.

    Args:
        lines: of the full grid.
        acceleration: R.
        centre: lines in the middle that are always there.
        power: of the density; 0 is uniform.
        generator: of the choice.

    Returns:
        (lines, 1), 0 and 1.

    Raises:
        ValueError: the centre takes more lines than there are to give.
    """
    mask, left = _centre(lines, acceleration, centre)
    far = (torch.arange(lines) - lines // 2).abs() / (lines // 2)
    density = (1 - far).clamp_min(0) ** power + 1e-6
    density[mask > 0] = 0
    if left:
        mask[torch.multinomial(density.double(), left, generator=generator)] = 1
    return mask[:, None]


def poisson_disc(
    shape: tuple[int, int],
    acceleration: float,
    centre: int = 0,
    *,
    spread: float = 3.0,
    generator: torch.Generator,
) -> Tensor:
    """Random phase encodings of a 3D scan that keep a distance, which grows with ``|k|``.

    Poisson-disc sampling with an exact number, by Mitchell's (1991) best candidates: of a few
    places drawn at random, each time that which is farthest from all chosen ones, relative to
    ``1 + (spread − 1) |k| / k_max``. The corners of k-space come last.

    Args:
        shape: of the grid (kz, ky).
        acceleration: R.
        centre: size of the square in the middle that is always there.
        spread: distance at the edge of k-space relative to that in the middle.
        generator: of the choice.

    Returns:
        (kz, ky, 1), 0 and 1, ``round(kz · ky / R)`` of them 1.

    Raises:
        ValueError: the centre takes more encodings than there are to give.
    """
    count = round(shape[0] * shape[1] / acceleration)
    if not 0 <= centre <= min(shape) or not max(1, centre**2) <= count <= shape[0] * shape[1]:
        raise ValueError(
            f"a grid {shape} at an acceleration of {acceleration:g} has {count} phase encodings, "
            f"of which {centre}² in the centre: take a smaller centre or acceleration (at least 1)"
        )
    rows, columns = (torch.arange(n, dtype=torch.float64) - n // 2 for n in shape)
    radius = torch.hypot(rows[:, None] / (shape[0] / 2), columns / (shape[1] / 2))
    apart = (1 + (spread - 1) * radius).square() * torch.where(radius > 1, 1e6, 1.0)
    block = [range(n // 2 - centre // 2, n // 2 - centre // 2 + centre) for n in shape]
    chosen = [i * shape[1] + j for i in block[0] for j in block[1]]
    nearest = torch.full(shape, torch.inf, dtype=torch.float64)
    for n in range(count):
        if n == len(chosen):
            places = torch.randint(apart.numel(), (CANDIDATES,), generator=generator)
            far = (nearest / apart).flatten()
            best = places[far[places].argmax()]
            # Where all candidates are taken, the farthest place of all.
            chosen.append(int(best if far[best] > 0 else far.argmax()))
        i, j = divmod(chosen[n], shape[1])
        distance = (rows - rows[i]).square()[:, None] + (columns - columns[j]).square()
        nearest = torch.minimum(nearest, distance)
    mask = torch.zeros(shape)
    mask.view(-1)[chosen] = 1
    return mask[..., None]


def line_set(lines: int, count: int, centre: int = 0) -> FeasibleSet:
    """Masks ``(lines, 1)`` of ``count`` lines that hold the centre, for a learned choice.

    Relaxed to weights in [0, 1] that add up to ``count``; hardened to the heaviest.

    Raises:
        ValueError: the centre takes more lines than there are to give.
    """
    fixed, _ = _centre(lines, lines / count, centre)
    return Box(fixed[:, None], 1.0) & Subset(count, dim=-2, unit="lines")


def _centre(lines: int, acceleration: float, centre: int) -> tuple[Tensor, int]:
    """The lines of the centre, and how many more there may be."""
    count = round(lines / acceleration)
    if not 0 <= centre <= count <= lines or count < 1:
        raise ValueError(
            f"{lines} lines at an acceleration of {acceleration:g} are {count}, of which {centre} "
            "in the centre: take a smaller centre or acceleration (at least 1)"
        )
    mask = torch.zeros(lines)
    start = lines // 2 - centre // 2
    mask[start : start + centre] = 1
    return mask, count - centre
