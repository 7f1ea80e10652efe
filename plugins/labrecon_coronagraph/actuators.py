"""What the actuators of a deformable mirror can do: stroke, and steps between neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.design import Box, FeasibleSet, Intersection, Violations

__all__ = ["NeighbourSteps", "mirror_commands"]


class NeighbourSteps(FeasibleSet):
    """``|a − b| ≤ limit`` for disjoint pairs of values.

    The nearest value moves both of a pair that is too far apart to their middle by the same amount.

    Args:
        pairs: numbers of the two members (pair, 2); none occurs twice.
        limit: largest difference.
        unit: of the values.
    """

    pairs: Tensor

    def __init__(self, pairs: Tensor, limit: float, unit: str = "nm") -> None:
        super().__init__(unit)
        self.register_buffer("pairs", pairs)
        self.limit = float(limit)

    def project(self, value: Tensor) -> Tensor:
        """``(a + b)/2 ± limit/2`` where a pair is too far apart."""
        wide = self._wide(value)
        a, b = wide[..., self.pairs[:, 0]], wide[..., self.pairs[:, 1]]
        middle, half = (a + b) / 2, ((a - b) / 2).clamp(-self.limit / 2, self.limit / 2)
        moved = wide.index_copy(-1, self.pairs[:, 0], middle + half)
        return moved.index_copy(-1, self.pairs[:, 1], middle - half).to(value.dtype)

    def violations(self, value: Tensor) -> Violations:
        """Steps that are ``too large``."""
        apart = (value[..., self.pairs[:, 0]] - value[..., self.pairs[:, 1]]).detach().abs()
        return self._not_finite(value) | self._broken(
            "step too large", apart - self.limit, 1e-9 * self.limit
        )


def mirror_commands(places: Tensor, stroke: float, between: float) -> Intersection:
    """Commands of a mirror in nm: ``|c| ≤ stroke``, ``|c_i − c_j| ≤ between`` for neighbours.

    Args:
        places: row and column of each actuator (actuator, 2), whole numbers.
        stroke: in nm.
        between: in nm.

    Example:
        >>> places = torch.tensor([[0, 0], [0, 1], [1, 0]])
        >>> mirror = mirror_commands(places, stroke=100.0, between=20.0)
        >>> mirror.project(torch.tensor([50.0, 0.0, 40.0]))
        tensor([35., 15., 40.])
    """
    index = {(int(y), int(x)): i for i, (y, x) in enumerate(places.tolist())}
    limits: list[FeasibleSet] = [Box(-stroke, stroke, unit="nm")]
    for dy, dx in ((0, 1), (1, 0)):
        for odd in (0, 1):
            pairs = [
                (i, index[y + dy, x + dx])
                for (y, x), i in index.items()
                if (y if dy else x) % 2 == odd and (y + dy, x + dx) in index
            ]
            if pairs:
                limits.append(NeighbourSteps(torch.tensor(pairs), between))
    return Intersection(*limits)
