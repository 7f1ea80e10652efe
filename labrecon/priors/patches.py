"""Overlapping patches of an image, and the image that they average to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon.prior import PriorError

__all__ = ["Patches"]


class Patches:
    """The patches of images of one shape, every ``stride`` samples and flush with the far rim.

    Args:
        image: shape of the image.
        patch: shape of a patch, of as many axes.
        stride: from one patch to the next, along each axis.

    Raises:
        PriorError: a patch is larger than the image.

    Example:
        >>> Patches((5,), (2,), stride=2).extract(torch.arange(5.0))
        tensor([[0., 1.],
                [2., 3.],
                [3., 4.]])
    """

    def __init__(self, image: Sequence[int], patch: Sequence[int], stride: int = 1) -> None:
        if len(image) != len(patch) or any(n < k for n, k in zip(image, patch, strict=False)):
            raise PriorError(
                f"patches of {tuple(patch)} samples do not fit an image of {tuple(image)}"
            )
        self.image = tuple(image)
        first = within = torch.zeros(1, dtype=torch.long)
        for n, k in zip(image, patch, strict=True):
            corners = [*range(0, n - k, stride), n - k]
            first = (n * first[:, None] + torch.tensor(corners)).flatten()
            within = (n * within[:, None] + torch.arange(k)).flatten()
        #: Flat index into the image, (patch, sample).
        self.index = first[:, None] + within

    def extract(self, x: Tensor) -> Tensor:
        """Patches ``(*lead, patch, sample)`` of images ``(*lead, *image)``."""
        return x.flatten(x.ndim - len(self.image))[..., self.index.to(x.device)]

    def average(self, patches: Tensor) -> Tensor:
        """Each pixel as the mean of all patches that hold it: the inverse of `extract`."""
        lead = patches.shape[:-2]
        index = self.index.to(patches.device).flatten()
        total = patches.new_zeros(*lead, *self.image).flatten(len(lead))
        total = total.index_add(-1, index, patches.flatten(len(lead)))
        counts = torch.bincount(index, minlength=total.shape[-1])
        # A stride beyond the patch would leave pixels that no patch holds: they are 0.
        return (total / counts.clamp_min(1)).reshape(*lead, *self.image)
