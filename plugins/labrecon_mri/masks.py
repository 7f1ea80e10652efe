"""Which phase-encoding lines are measured: usual choices, and the set for learning one."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.design import Box, FeasibleSet, Subset

__all__ = ["equispaced", "line_set", "variable_density"]


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
