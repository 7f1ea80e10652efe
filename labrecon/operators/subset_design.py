"""SubsetDesign: which of an instrument's acquisitions to take."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from labrecon.design import InfeasibleError, Subset
from labrecon.operator import Operator
from labrecon.space import Space

__all__ = ["SubsetDesign"]

#: Share of an acquisition that is taken of what is not, while a gradient is asked for.
FLOOR = 1e-6


class SubsetDesign(Operator):
    """``y = √w · A(x)`` with ``k`` ones in ``w`` along an axis of the range: which data to take.

    The design ``members`` (size of the axis) says how much of each acquisition is taken: a share
    ``w`` of the time has ``w`` of the information, which the root gives where the noise stays.
    Learned by gradient it is relaxed to ``0 ≤ w ≤ 1, Σ w = k`` ("relaxed"), or it is hard in the
    forward pass with a derivative of 1 ("straight-through", Bengio et al. 2013); in the end the
    heaviest ``k`` are taken. `labrecon.learners.exchange` and `greedy` choose without gradients.

    What is not taken is 0 in the data and says nothing: a reconstruction ignores it.

    Args:
        operator: the instrument with all candidates.
        k: how many are taken.
        axis: of ``operator.range``, by name.
        relaxation: see above.

    Raises:
        InfeasibleError: there is no such axis, or ``k`` can not be chosen from it.

    Example:
        >>> from labrecon.operators import Matrix
        >>> chosen = SubsetDesign(Matrix(torch.eye(4)), 2, "axis0")
        >>> chosen.choose(torch.tensor([0, 3]))
        >>> chosen(torch.ones(4)), chosen.chosen.tolist()
        (tensor([1., 0., 0., 1.]), [0, 3])
    """

    members: Tensor

    def __init__(
        self,
        operator: Operator,
        k: int,
        axis: str,
        *,
        relaxation: Literal["relaxed", "straight-through"] = "relaxed",
    ) -> None:
        space: Space = operator.range
        if axis not in space.axes:
            raise InfeasibleError(f"{operator.name} has data along {space.axes}, not {axis!r}")
        if relaxation not in ("relaxed", "straight-through"):
            raise InfeasibleError(f"relaxed or straight-through, got {relaxation!r}")
        super().__init__(operator.domain, space)
        place = space.axes.index(axis)
        size = space.shape[place]
        if not 1 <= k <= size:
            raise InfeasibleError(f"{k} of {size} along {axis} can not be chosen")
        self.operator = operator
        self.linear = operator.linear
        self.adjoint_mismatch = operator.adjoint_mismatch
        self.k, self.axis, self.relaxation = k, axis, relaxation
        self._trailing = space.ndim - 1 - place
        self._taken: tuple[tuple[int, ...], Operator | None] = ((), None)
        start = torch.full((size,), k / size, dtype=space.real_dtype)
        self.design("members", start, Subset(k, unit=axis))

    @property
    def weights(self) -> Tensor:
        """``√w``, to be broadcast against data."""
        w = self.members
        if self.relaxation == "straight-through" and w.requires_grad:
            hard = torch.zeros_like(w).scatter(-1, w.detach().topk(self.k).indices, 1.0)
            factor = hard + (w - w.detach())
        elif w.requires_grad:
            # The root's derivative is bounded, so that a member can come back from nothing.
            factor = (w.clamp_min(0) + FLOOR).sqrt()
        else:
            factor = w.clamp_min(0).sqrt()
        return factor.reshape(-1, *[1] * self._trailing)

    @property
    def chosen(self) -> Tensor:
        """The ``k`` members with the largest weights, in order."""
        return self.members.detach().topk(self.k).indices.sort().values

    def choose(self, members: Tensor) -> None:
        """Take these, by number.

        Raises:
            InfeasibleError: they are not ``k`` different ones.
        """
        if len(set(members.tolist())) != self.k:
            raise InfeasibleError(f"expected {self.k} different members, got {members.tolist()}")
        with torch.no_grad():
            self.members.copy_(torch.zeros_like(self.members).scatter(0, members, 1.0))

    def _alone(self) -> Operator | None:
        """The instrument with the chosen acquisitions alone, where that saves work."""
        w = self.members
        if w.requires_grad or not bool(((w == 0) | (w == 1)).all()):
            return None
        members = tuple(w.nonzero()[:, 0].tolist())
        if self._taken[0] != members:
            self._taken = members, self.operator.only(self.axis, members)
        return self._taken[1]

    def _index(self, device: torch.device) -> Tensor:
        return torch.tensor(self._taken[0], device=device)

    def forward(self, x: Tensor) -> Tensor:
        """``√w · A(x)``."""
        alone = self._alone()
        if alone is None:
            return self.weights * self.operator(x)
        y = alone(x)
        dim = -1 - self._trailing
        whole = y.new_zeros(*y.shape[:dim], len(self.members), *y.shape[y.ndim + dim + 1 :])
        return whole.index_copy(dim, self._index(y.device), y)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Aᴴ(√w · y)``."""
        alone = self._alone()
        if alone is None:
            return self.operator.adjoint(self.weights * y)
        return alone.adjoint(y.index_select(-1 - self._trailing, self._index(y.device)))

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``Aᴴ w W A x``, as the instrument computes it best."""
        alone = self._alone()
        if alone is not None and weights is None:
            return alone.normal(x)
        own = self.weights.square()
        return self.operator.normal(x, own if weights is None else own * weights)
