"""Patches as few atoms of a dictionary."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from labrecon.options import number, whole
from labrecon.prior import Prior, PriorError
from labrecon.priors.dictionary_learning import cosine_dictionary, read_dictionary
from labrecon.priors.patches import Patches
from labrecon.priors.sparse_coding import matching_pursuit

__all__ = ["PatchDictionary"]


class PatchDictionary(Prior):
    """Every patch is its mean and a few atoms of a dictionary (Elad and Aharon 2006).

    ``prox(x, t)`` describes each overlapping patch by as few atoms as leave a residual of
    ``fit · σ`` per pixel, and averages the patches: a denoiser at noise level ``σ``, with all that
    `labrecon.priors.denoisers.Denoiser` says of one: no penalty, and a limit that depends on the
    solver's step. Its place is in HQS and ADMM. For images with repeated texture; edges alone are
    served as well by `TV`, which has a minimum. A complex image shares its atoms between real and
    imaginary part.

    Args:
        dictionary: ``(atom, *patch)``, or the file of `save_dictionary`; None for cosines.
        noise_level: ``σ`` in units of the object.
        weight: in its place: ``σ = √(weight · step)``.
        patch: pixels along each side of a patch of cosines; a dictionary has its own.
        atoms: how many cosines.
        ndim: image axes of cosines; leading axes are treated one by one.
        stride: from one patch to the next. 2 takes a quarter of the time, for a bit of quality.
        fit: residual that is left to a patch, in units of ``σ`` per pixel.

    Raises:
        PriorError: a number is wrong, both or neither of ``noise_level`` and ``weight`` are given,
            or the file holds no dictionary.

    Example:
        >>> prior = PatchDictionary(noise_level=0.1, patch=4, atoms=32)
        >>> prior.prox(torch.ones(8, 8), 1.0).unique()
        tensor([1.])
    """

    dictionary: Tensor

    def __init__(
        self,
        dictionary: Tensor | str | Path | None = None,
        *,
        noise_level: float | None = None,
        weight: float | None = None,
        patch: int = 8,
        atoms: int = 256,
        ndim: int = 2,
        stride: int = 1,
        fit: float = 1.15,
    ) -> None:
        super().__init__()
        what = "PatchDictionary"
        if (noise_level is None) == (weight is None):
            raise PriorError(f"{what}: give noise_level or weight, and not both")
        if noise_level is not None:
            number(f"{what}: noise_level", noise_level, at_least=0, error=PriorError)
        else:
            number(f"{what}: weight", weight, at_least=0, error=PriorError)
        self.noise_level, self.weight = noise_level, weight
        if dictionary is None:
            ndim = whole(f"{what}: ndim", ndim, error=PriorError)
            patch = whole(f"{what}: patch", patch, at_least=2, error=PriorError)
            dictionary = cosine_dictionary((patch,) * ndim, atoms)
        elif not isinstance(dictionary, Tensor):
            dictionary = read_dictionary(dictionary)
        if dictionary.ndim < 2 or dictionary.is_complex():
            raise PriorError(
                f"{what}: a dictionary is (atom, *patch) and real, got {tuple(dictionary.shape)} "
                f"of {dictionary.dtype}"
            )
        norms = torch.linalg.vector_norm(dictionary.flatten(1), dim=1)
        if not bool(((norms - 1).abs() < 1e-3).all()):
            raise PriorError(
                f"{what}: atoms have norm 1; these have {float(norms.min()):.3g} to "
                f"{float(norms.max()):.3g}"
            )
        self.register_buffer("dictionary", dictionary)
        self.stride = whole(f"{what}: stride", stride, error=PriorError)
        if self.stride > min(dictionary.shape[1:]):
            raise PriorError(
                f"{what}: a stride of {stride} leaves pixels between patches of "
                f"{tuple(dictionary.shape[1:])}"
            )
        self.fit = number(f"{what}: fit", fit, above=0, error=PriorError)

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """The image of the patches' descriptions; the step counts only with ``weight``."""
        if self.weight is not None:
            return self.denoise(x, (self.weight * step) ** 0.5)
        assert self.noise_level is not None
        return self.denoise(x, self.noise_level)

    def denoise(self, x: Tensor, noise_level: Tensor | float) -> Tensor:
        """The same at any noise level, one number.

        Args:
            x: ``(*batch, *image)``, real or complex; ``σ`` is that of each part.
            noise_level: ``σ`` in units of ``x``.
        """
        axes = self.dictionary.ndim - 1
        if x.ndim < axes:
            raise PriorError(f"PatchDictionary: {axes} image axes of an object with {x.ndim}")
        level = torch.as_tensor(noise_level, dtype=x.real.dtype, device=x.device)
        if level.numel() != 1:
            raise PriorError(
                f"PatchDictionary: one noise level for all, got {tuple(level.shape)}; reconstruct "
                "elements with different steps one by one"
            )
        grid = Patches(x.shape[x.ndim - axes :], self.dictionary.shape[1:], self.stride)
        patches = grid.extract(x)
        means = patches.mean(-1, keepdim=True)
        signals = (patches - means).flatten(0, -2)
        parts = 2 if x.is_complex() else 1
        limit = parts * signals.shape[1] * (self.fit * level.reshape(())) ** 2
        atoms = self.dictionary.flatten(1).to(x.dtype)
        most = max(1, signals.shape[1] // 2)
        described = matching_pursuit(signals, atoms, residual=limit, most=most) @ atoms
        return grid.average(described.reshape(patches.shape) + means)
