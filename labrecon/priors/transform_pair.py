"""Learned transforms with soft thresholding between them: the priors of ISTA-Net and FISTA-Net."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from labrecon.options import flag, number, whole
from labrecon.prior import Prior, PriorError, soft_threshold
from labrecon.priors.channels import apply_network, convolution, from_channels, to_channels
from labrecon.schedule import Schedule

__all__ = ["TransformPair", "convolutional_pair"]


class TransformPair(Prior):
    """``x ↦ F̃(soft(F x, θ))``: what a prox is in a sparsifying transform, with both ends learned.

    Given ``extract`` and ``combine`` it is the residual form of ISTA-Net⁺ and FISTA-Net, which
    changes only what the transforms see: ``x ↦ x + G F̃(soft(F D x, θ))``.

    In training mode it tells the loss ``symmetry``, ``mean |F̃ F x − x|²`` (residual form: of
    ``D x`` in place of ``x``), and with ``sparsity`` also ``mean |F x|``. The symmetry is 0 where
    the pair inverts itself, as an orthonormal wavelet and its transpose do; with those it is the
    prox of `WaveletL1` of weight ``θ / step``.

    It is no prox otherwise: the step is ignored, since ``θ`` is learned for the step of its
    layer, and there is no penalty. Not for a solve to convergence, nor for other steps than those
    it was trained with: there, take a `Denoiser`.

    Args:
        analysis: ``F``, from real channels ``(batch, channels, *image)`` to features.
        synthesis: ``F̃``, from features back to channels.
        extract: ``D``, from channels to the features that the transforms see.
        combine: ``G``, from features to a correction of the image.
        threshold: ``θ`` of either sign, as published networks learn it, or a `Schedule`: a law
            of the layer, for one pair in all of them.
        nonneg: the result is cut at 0 (real images).
        sparsity: tell that loss too.
        scale: typical size of the object's values: the transforms see ``x / scale``.
        axes: number of image axes.

    Raises:
        PriorError: an option is wrong, or only one of ``extract`` and ``combine`` is given.
    """

    def __init__(
        self,
        analysis: nn.Module,
        synthesis: nn.Module,
        *,
        extract: nn.Module | None = None,
        combine: nn.Module | None = None,
        threshold: float | Schedule = 0.01,
        nonneg: bool = False,
        sparsity: bool = False,
        scale: float = 1.0,
        axes: int = 2,
    ) -> None:
        super().__init__()
        if (extract is None) != (combine is None):
            raise PriorError("TransformPair: the residual form takes both, extract and combine")
        self.analysis, self.synthesis = analysis, synthesis
        self.extract, self.combine = extract, combine
        if not isinstance(threshold, Schedule):
            threshold = number("TransformPair: threshold", threshold, error=PriorError)
            threshold = Schedule(threshold, constraint=None, learn=True)
        self.threshold = threshold
        self.nonneg = flag("TransformPair: nonneg", nonneg, error=PriorError)
        self.sparsity = flag("TransformPair: sparsity", sparsity, error=PriorError)
        self.scale = number("TransformPair: scale", scale, above=0, error=PriorError)
        self.axes = whole("TransformPair: axes", axes, error=PriorError)
        self.k = 0

    def layer(self, k: int) -> Prior:
        """A view with the threshold of iteration ``k``; all parameters are shared."""
        view = copy.copy(self)
        view.k = k
        return view

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``F̃(soft(F x, θ))`` or the residual form, whatever the step."""
        return self.prox_and_losses(x, step)[0]

    def prox_and_losses(self, x: Tensor, step: Tensor | float) -> tuple[Tensor, dict[str, Tensor]]:
        """The result, and in training mode the losses; whatever the step."""
        if self.nonneg and x.is_complex():
            raise PriorError("TransformPair: nonneg is for real images, got complex ones")
        if x.ndim < self.axes:
            raise PriorError(f"TransformPair: {self.axes} image axes of an object with {x.ndim}")
        losses: dict[str, Tensor] = {}
        seen = to_channels([x / self.scale], self.axes)
        made = apply_network(lambda image: self._refined(image, losses), seen, self.axes)
        return self.scale * from_channels(made, x.dtype, self.axes)[0], losses

    def _refined(self, image: Tensor, losses: dict[str, Tensor]) -> Tensor:
        start = image if self.extract is None else self.extract(image)
        features = self.analysis(start)
        made = self.synthesis(soft_threshold(features, self.threshold(self.k)))
        if self.combine is not None:
            made = image + self.combine(made)
        if self.training:
            losses["symmetry"] = (self.synthesis(features) - start).square().mean()
            if self.sparsity:
                losses["sparsity"] = features.abs().mean()
        return functional.relu(made) if self.nonneg else made


def convolutional_pair(
    axes: int,
    channels: int = 1,
    *,
    features: int = 32,
    convolutions: int = 2,
    residual: bool = True,
    bias: bool = False,
    threshold: float | Schedule = 0.01,
    nonneg: bool = False,
    sparsity: bool = False,
    scale: float = 1.0,
) -> TransformPair:
    """A `TransformPair` of 3-wide convolutions with ReLU between them, zero padding.

    ISTA-Net: ``residual=False``; ISTA-Net⁺ (Zhang and Ghanem 2018): the defaults; FISTA-Net (Xiang
    et al. 2021): ``convolutions=4, bias=True``. Weights are drawn from Glorot's normal
    distribution, with torch's generator (`labrecon.seeds.seeded`), and biases are 0.

    Args:
        axes: number of image axes, 1 to 3.
        channels: real channels of an image, 2 for complex ones.
        features: channels between the convolutions.
        convolutions: in each transform.
        residual: the residual form; else the transforms see the image itself.
        bias: whether convolutions have one.
        threshold: as for `TransformPair`, like the options that follow.
        nonneg: the result is cut at 0.
        sparsity: tell that loss too.
        scale: typical size of the object's values.

    Raises:
        PriorError: a size is not a whole number, or not one that there are convolutions for.
    """
    if axes not in (1, 2, 3):
        raise PriorError(f"convolutional_pair: axes is 1, 2 or 3, got {axes!r}")
    for name, value in (
        ("channels", channels), ("features", features), ("convolutions", convolutions)
    ):  # fmt: skip
        whole(f"convolutional_pair: {name}", value, error=PriorError)
    inside = [features] * convolutions
    ends = features if residual else channels
    pair = TransformPair(
        _chain(axes, [ends, *inside], bias),
        _chain(axes, [*inside, ends], bias),
        extract=convolution(axes, channels, features, bias=bias) if residual else None,
        combine=convolution(axes, features, channels, bias=bias) if residual else None,
        threshold=threshold,
        nonneg=nonneg,
        sparsity=sparsity,
        scale=scale,
        axes=axes,
    )
    for module in pair.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return pair


def _chain(axes: int, widths: list[int], bias: bool) -> nn.Sequential:
    """Convolutions from width to width, with ReLU between them."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [convolution(axes, inputs, outputs, bias=bias), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts[:-1])
