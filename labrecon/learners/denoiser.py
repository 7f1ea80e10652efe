"""Training of the denoisers that plug-and-play methods put in the place of a prox."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from labrecon.learner import Learner
from labrecon.learners.losses import Loss, pick_loss
from labrecon.learners.samples import ObjectBatch
from labrecon.learners.supervised import Metrics, default_metrics
from labrecon.noise import Gaussian, Noise
from labrecon.operator import Operator
from labrecon.options import number
from labrecon.priors.denoisers import Denoiser
from labrecon.reconstructor import Reconstructor

__all__ = ["Denoising", "denoiser_of", "make_denoising"]


class Denoising(Learner):
    """Minimises ``loss(D(x + σ n, σ), x)`` with standard normal ``n`` over a denoiser ``D``.

    ``σ`` is drawn uniformly for each object anew. A network without a noise channel has the level
    of its training: give it one, or a narrow range. Complex objects get ``σ n`` in the real and in
    the imaginary part each. No instrument takes part: the denoiser serves them all, whose objects
    are like these.

    Args:
        denoiser: what is trained.
        sigma: standard deviation in units of the objects, or a range ``(low, high)``.
        loss: as for `labrecon.learners.Supervised`.
        metrics: likewise.
        shape: of the objects, for the default metrics.

    Raises:
        ValueError: a standard deviation is not positive, or an unknown loss.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigma: float | tuple[float, float],
        *,
        shape: tuple[int, ...],
        loss: str | Loss = "mse",
        metrics: Metrics | None = None,
    ) -> None:
        self.denoiser = denoiser
        low, high = (sigma, sigma) if isinstance(sigma, int | float) else sigma
        self.low = number("sigma", low, above=0)
        self.high = number("sigma's high end", high, at_least=self.low)
        self.measure = pick_loss(loss, shape)
        self.metrics = default_metrics(shape) if metrics is None else metrics

    def parameters(self) -> Iterable[Tensor]:
        """Those of the denoiser."""
        return self.denoiser.parameters()

    def modules(self) -> Mapping[str, nn.Module]:
        """The denoiser."""
        return {"denoiser": self.denoiser}

    def loss(self, batch: ObjectBatch) -> tuple[Tensor, dict[str, float]]:
        """The mean over the objects of a batch."""
        estimate, truth = self._denoised(batch)
        return self.measure(estimate, truth), {}

    def validate(self, batch: ObjectBatch) -> dict[str, float]:
        """Loss and metrics, averaged over the objects of a batch."""
        estimate, truth = self._denoised(batch)
        told = {"loss": float(self.measure(estimate, truth).detach())}
        for name, metric in self.metrics.items():
            pairs = zip(estimate, truth, strict=True)
            told[name] = math.fsum(metric(x, t) for x, t in pairs) / len(truth)
        return told

    def _denoised(self, batch: ObjectBatch) -> tuple[Tensor, Tensor]:
        device = next(self.denoiser.parameters(), batch.objects).device
        truth = batch.objects.to(device)
        noisy, levels = [], []
        for x, generator in zip(truth, batch.generators, strict=True):
            share = float(torch.rand((), generator=generator, dtype=torch.float64))
            levels.append(self.low + (self.high - self.low) * share)
            noisy.append(Gaussian(levels[-1]).to(device).sample(x, generator))
        level = torch.tensor(levels, dtype=truth.real.dtype, device=device)
        level = level.reshape(-1, *[1] * (truth.ndim - 1))
        given = level if self.denoiser.told else None
        return self.denoiser.denoise(torch.stack(noisy), given), truth


def make_denoising(
    network: Reconstructor,
    operator: Operator,
    noise: Noise | None = None,
    *,
    sigma: float | list[float] = 0.05,
    loss: str | Loss = "mse",
) -> Denoising:
    """`Denoising` for the denoiser inside a network, as `labrecon train` asks for it.

    Args:
        network: a plug-and-play one.
        operator: says what objects are like.
        noise: that of the instrument, which has no part in it.
        sigma: see `Denoising`.
        loss: see `Denoising`.

    Raises:
        ValueError: the network holds no denoiser, or several; or see `Denoising`.
    """
    ends = [sigma, sigma] if isinstance(sigma, int | float) else list(sigma)
    if len(ends) != 2:
        raise ValueError(f"sigma is a number or a range [low, high], got {sigma}")
    span = (ends[0], ends[1])
    return Denoising(denoiser_of(network), span, shape=operator.domain.shape, loss=loss)


def denoiser_of(network: nn.Module) -> Denoiser:
    """The one denoiser inside a network.

    Raises:
        ValueError: there is none, or there are several.
    """
    found = [module for module in network.modules() if isinstance(module, Denoiser)]
    if len(found) != 1:
        raise ValueError(
            f"{type(network).__name__} holds {len(found) or 'no'} denoisers, expected one: take a "
            "plug-and-play network"
        )
    return found[0]
