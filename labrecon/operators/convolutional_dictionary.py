"""Convolutional dictionary: an image as a sum of atoms, each at many places."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from labrecon.operator import Operator
from labrecon.space import Space, SpaceError

__all__ = ["ConvolutionalDictionary"]

Convolve = Callable[..., Tensor]

_ANALYSIS: dict[int, Convolve] = {
    1: nn.functional.conv1d,
    2: nn.functional.conv2d,
    3: nn.functional.conv3d,
}
_SYNTHESIS: dict[int, Convolve] = {
    1: nn.functional.conv_transpose1d,
    2: nn.functional.conv_transpose2d,
    3: nn.functional.conv_transpose3d,
}


class ConvolutionalDictionary(Operator):
    """``y[i] = Σ_{a,j} h_a[i − s j] x[a, j]``: codes ``x`` of atoms ``h_a`` to an image.

    Codes have axes ``(atom, …)`` and sit every ``s`` samples; all atoms lie inside the image, so
    that along an axis of ``N`` samples there are ``(N − K) / s + 1`` of them. The rim is in fewer
    atoms than the middle: pad the image where that matters. The atoms are a nuisance:
    ``at(atoms=…)`` replaces them, `learn` turns their gradients on.

    Args:
        range: the image, real or complex, of one to three axes.
        atoms: ``(atom, *K)``, of the image's dtype.
        stride: ``s``, one number for all axes.
        learn: turn gradients of the atoms on.

    Raises:
        SpaceError: the atoms do not fit the image, or a whole number of strides does not.

    Example:
        >>> import torch
        >>> pulse = ConvolutionalDictionary(Space((6,)), torch.tensor([[1.0, 2.0]]), stride=2)
        >>> pulse(torch.tensor([[1.0, 0.0, -1.0]]))
        tensor([ 1.,  2.,  0.,  0., -1., -2.])
    """

    atoms: Tensor

    def __init__(
        self, range: Space, atoms: Tensor, stride: int = 1, *, learn: bool = False
    ) -> None:
        if range.ndim not in _SYNTHESIS or atoms.ndim != range.ndim + 1:
            raise SpaceError(
                f"atoms (atom, *size) of an image with one to three axes: got atoms of shape "
                f"{tuple(atoms.shape)} for an image {range.shape}"
            )
        if atoms.dtype != range.dtype:
            raise SpaceError(f"atoms of {atoms.dtype} for an image of {range.dtype}; convert them")
        if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
            raise SpaceError(f"stride is a whole number ≥ 1, got {stride!r}")
        spare = [n - k for n, k in zip(range.shape, atoms.shape[1:], strict=True)]
        if any(n < 0 or n % stride for n in spare):
            raise SpaceError(
                f"atoms of {tuple(atoms.shape[1:])} every {stride} samples do not fill an image "
                f"{range.shape}: its size less theirs is a multiple of the stride; pad the image"
            )
        places = [n // stride + 1 for n in spare]
        domain = Space((len(atoms), *places), range.dtype, ("atom", *range.axes))
        super().__init__(domain, range)
        self.stride = stride
        self.nuisance("atoms", atoms)
        self.atoms.requires_grad_(learn)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of all atoms, each times its codes."""
        y = self._convolved(_SYNTHESIS, x.reshape(-1, *self.domain.shape), self.atoms)
        return y.reshape(*self.domain.batch(x), *self.range.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """The inner product of the image with each atom at each place."""
        x = self._convolved(_ANALYSIS, y.reshape(-1, 1, *self.range.shape), self.atoms.conj())
        return x.reshape(*self.range.batch(y), *self.domain.shape)

    def _convolved(self, functions: dict[int, Convolve], x: Tensor, atoms: Tensor) -> Tensor:
        function = functions[self.range.ndim]
        return function(x, atoms.unsqueeze(1), stride=self.stride)
