"""A trained reconstructor in the place of a prox: reuse and regularise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor

from labrecon.noise import Gaussian, Noise
from labrecon.operator import Operator
from labrecon.prior import Prior
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor

__all__ = ["Reused"]


class Reused(Prior):
    """``prox(x, t) = R₀(A₀ x)``: what a network makes of the data that ``x`` would have given.

    The network ``R₀`` was trained for the operator ``A₀`` and knows what objects look like; as a
    prior it serves any other operator with the same objects (Gilton, Ongie and Willett 2021). The
    step has no say, and there is no penalty.

    ``A₀`` is no part of the module: neither its tensors nor its parameters are the prior's.

    Args:
        network: ``R₀``.
        operator: ``A₀``.
        noise: the data term that ``R₀`` was trained with.

    Example:
        >>> import torch
        >>> from labrecon.operators import Convolution
        >>> from labrecon.space import Space
        >>> class Adjoint(Reconstructor):
        ...     def reconstruct(self, problem, x0=None, *, trace=False):
        ...         from labrecon.reconstructor import Reconstruction
        ...         return Reconstruction(problem.operator.adjoint(problem.data))
        >>> old = Convolution(Space((4,)), torch.tensor([0.25, 0.5, 0.25]))
        >>> Reused(Adjoint(), old).prox(torch.tensor([0.0, 16.0, 0.0, 0.0]), 1.0)
        tensor([4., 6., 4., 2.])
    """

    def __init__(
        self, network: Reconstructor, operator: Operator, noise: Noise | None = None
    ) -> None:
        super().__init__()
        self.network = network
        # In a tuple, so that it is found neither by `parameters` nor by `state_dict`.
        self._trained_for = (operator, Gaussian() if noise is None else noise)

    @property
    def operator(self) -> Operator:
        """``A₀``."""
        return self._trained_for[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Also move ``A₀``: `torch.nn.Module.to` calls this."""
        for part in self._trained_for:
            part._apply(fn, recurse)
        moved: Any = super()._apply(fn, recurse)
        return moved

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``R₀(A₀ x)``."""
        operator, noise = self._trained_for
        return self.network.reconstruct(Problem(operator, operator(x), noise)).x
