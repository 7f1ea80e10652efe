"""Prior: what is known about the object before it is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from labrecon.space import squared_norm

if TYPE_CHECKING:
    from collections.abc import Callable

    from labrecon.operator import Operator
    from labrecon.space import Space

    Term = tuple[Operator | None, "Prior"]

__all__ = [
    "ImplicitPriorError",
    "NotInvertibleError",
    "Prior",
    "PriorError",
    "Zero",
    "moreau",
    "residual_inverse",
    "soft_threshold",
]


class PriorError(ValueError):
    """A prior was given numbers that make no sense, or an object it can not treat."""


class ImplicitPriorError(TypeError):
    """The prior is known only through its prox (a denoiser): it has no penalty."""


class NotInvertibleError(TypeError):
    """A layer can not be recomputed from its output."""


class Prior(nn.Module):
    """A penalty ``g(x)`` and its proximal map.

    Subclasses keep no state between calls: everything that changes is a parameter or an argument.

    Attributes:
        separable: the prox treats each sample alone, so that ``step`` may differ between samples.
    """

    separable: bool = False

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """``g(x)`` over the last ``ndim`` axes (default all): one number per batch element.

        Raises:
            ImplicitPriorError: the prior has no penalty.
        """
        raise ImplicitPriorError(f"{type(self).__name__} is known only through its prox")

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``argmin_u step · g(u) + ½‖u − x‖²``."""
        raise TypeError(f"{type(self).__name__} does not define prox")

    def split(self, domain: Space) -> list[Term]:
        """Terms ``(K, h)`` with ``g(x) = Σ h(K x)`` and a cheap prox of each ``h``.

        ``K = None`` is the identity. ADMM and PDHG use the terms to avoid an inner iteration
        (TV with non-negativity: ``(∇, ‖·‖₂,₁)`` and ``(None, x ≥ 0)``).
        """
        return [(None, self)]

    def prox_and_losses(self, x: Tensor, step: Tensor | float) -> tuple[Tensor, dict[str, Tensor]]:
        """The prox, and scalars for training such as ISTA-Net's symmetry; solvers call this one.

        A prior with such terms computes them in training mode only, each a mean over samples.
        """
        return self.prox(x, step), {}

    def inverse(self, u: Tensor, step: Tensor | float) -> Tensor:
        """The ``x`` with ``prox(x, step) = u``, for training that recomputes layers backwards.

        Raises:
            NotInvertibleError: several ``x`` have this prox (soft thresholding, a projection).
        """
        raise NotInvertibleError(f"the prox of {type(self).__name__} has no inverse")

    def layer(self, k: int) -> Prior:
        """The prior of iteration ``k``, where one object knows how it changes (a law of ``k``)."""
        return self


class Zero(Prior):
    """No prior: ``g(x) = 0``."""

    separable = True

    def penalty(self, x: Tensor, ndim: int | None = None) -> Tensor:
        """0 for each batch element."""
        batch = x.shape[: x.ndim - (x.ndim if ndim is None else ndim)]
        return torch.zeros(batch, dtype=x.real.dtype, device=x.device)

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``x``."""
        return x

    def inverse(self, u: Tensor, step: Tensor | float) -> Tensor:
        """``u``."""
        return u


def moreau(prior: Prior, u: Tensor, step: Tensor | float) -> Tensor:
    """Prox of the convex conjugate, ``prox_{σ g*}(u) = u − σ prox_{g/σ}(u / σ)``."""
    return u - step * prior.prox(u / step, 1 / step)


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    """``x max(1 − t/|x|, 0)``: shrinks the modulus by ``t``, keeps sign or phase.

    A negative ``t``, which networks learn, lengthens every sample but 0 by ``|t|``.
    """
    if not x.is_complex():
        # The quotient below loses its derivative to rounding where |x| is far below |t|.
        return x.sign() * (x.abs() - threshold).clamp_min(0)
    modulus = x.abs()
    shrunk = (modulus - threshold).clamp_min(0)
    return x * (shrunk / torch.where(modulus > 0, modulus, 1.0))


def residual_inverse(
    f: Callable[[Tensor], Tensor],
    u: Tensor,
    ndim: int | None = None,
    iterations: int = 200,
) -> Tensor:
    """The ``x`` with ``x + f(x) = u``, by ``x ← u − f(x)``: undoes a residual network.

    It converges where ``f`` contracts, by the factor ``Lip(f)`` per iteration, and ends at
    rounding. A gradient step is undone with ``f = −τ ∇D``, where ``τ Lip(∇D) < 1``.

    Args:
        f: the residual.
        u: ``(*batch, *shape)``.
        ndim: number of the last axes that make one element, each judged alone (default all).
        iterations: most of them.

    Raises:
        NotInvertibleError: it does not converge: ``f`` contracts too little, or not at all.
    """
    # Each rounding left here grows with every layer that is undone after it.
    rounding = torch.finfo(u.dtype).eps / 4
    ndim = u.ndim if ndim is None else ndim
    # Where x is near zero, it is known to the rounding of u.
    size = squared_norm(u, ndim)
    x, changes, stalled = u, [float("inf")], 0
    for _ in range(iterations):
        following = u - f(x)
        change = squared_norm(following - x, ndim)
        scale = torch.maximum(size, squared_norm(following, ndim))
        changes.append(float((change / torch.where(scale > 0, scale, 1.0)).amax().sqrt()))
        x = following
        if changes[-1] <= rounding:
            return x
        stalled = 0 if changes[-1] < min(changes[:-1]) else stalled + 1
        if stalled == 3:
            break
    # Where sums are long, rounding keeps the change above a few eps.
    if min(changes) <= 1000 * rounding:
        return x
    raise NotInvertibleError(
        f"x = u − f(x) has not converged after {len(changes) - 1} iterations (the last changed x "
        f"by {changes[-1]:.1e} of its norm): f does not contract, or hardly"
    )
