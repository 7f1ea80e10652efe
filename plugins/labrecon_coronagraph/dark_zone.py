"""DarkZone: optics learned so that a region around the star is dark, whatever drifts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.design import Violations
from labrecon.learner import Learner
from labrecon.learners import ObjectBatch, hardened
from labrecon_coronagraph.propagation import intensity, plane_wave
from labrecon_coronagraph.star_images import StarImages

__all__ = ["DarkZone", "dark_zone", "inner_working_angle", "transmission"]


class DarkZone(Learner):
    """``log₁₀ ⟨I / peak⟩`` over a zone of the image, averaged over aberrations, at a throughput.

    Batches are aberrations (frame, mode) in nm, `labrecon.learners.ObjectSamples` of them: the
    drift and jitter that the optics must bear. With ``T`` the throughput of a planet far from the
    mask, ``weight · max(0, T₀/T − 1)²`` is added, so that light is not thrown away with the halo.

    Args:
        operator: the optics.
        zone: what is to be dark (y, x), see `dark_zone`.
        designs: names of what is learned.
        throughput: ``T₀``; by default that of the operator as it is.
        weight: of what is missing of it.
        rates: learning rates by design, where it is not that of the training: commands are in nm,
            the others around 1.

    Raises:
        ValueError: an unknown design, a zone that is empty or of another shape.
    """

    def __init__(
        self,
        operator: StarImages,
        zone: Tensor,
        *,
        designs: Sequence[str] = ("apodizer",),
        throughput: float | None = None,
        weight: float = 1e3,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        unknown = [name for name in designs if name not in operator.designs]
        if unknown or not designs:
            raise ValueError(
                f"no design {', '.join(unknown)}; there are {', '.join(operator.designs)}"
            )
        if zone.shape != operator.range.shape[-2:] or not bool(zone.any()):
            raise ValueError(
                f"the zone is (y, x) of {tuple(operator.range.shape[-2:])} and not empty; got "
                f"{tuple(zone.shape)} with {int(zone.sum())} pixels"
            )
        self.operator, self.names = operator, tuple(designs)
        self.zone = zone.to(operator.get_parameter("apodizer"))
        with torch.no_grad():
            own = float(operator.peak())
        self.throughput, self.weight = own if throughput is None else float(throughput), weight
        self.rates = dict(rates or {})
        operator.learn(*designs)

    def parameters(self) -> Iterable[Any]:
        """The designs, each a group with its rate where it has one."""
        groups = []
        for name in self.names:
            group: dict[str, Any] = {"params": [self.operator.get_parameter(name)]}
            groups.append({**group, "lr": self.rates[name]} if name in self.rates else group)
        return groups

    def modules(self) -> Mapping[str, nn.Module]:
        """The optics."""
        return {"operator": self.operator}

    def contrast(self, aberrations: Tensor) -> Tensor:
        """Mean of the image over the zone, relative to the peak of a planet (batch,)."""
        return self.over_zone(self.operator(aberrations))

    def over_zone(self, images: Tensor) -> Tensor:
        """Contrast (batch,) of images (batch, frame, image, y, x)."""
        dark = (images * self.zone).sum((-2, -1)) / self.zone.sum()
        return dark.flatten(1).mean(1) / self.operator.peak()

    def loss(self, batch: ObjectBatch) -> tuple[Tensor, dict[str, float]]:
        """The objective, and contrast and throughput."""
        aberrations = batch.objects.to(self.zone.device)
        contrast = self.contrast(aberrations).mean()
        passed = self.operator.peak()
        missing = (self.throughput / passed - 1).clamp_min(0)
        told = {"contrast": float(contrast.detach()), "throughput": float(passed.detach())}
        return contrast.log10() + self.weight * missing.square(), told

    def validate(self, batch: ObjectBatch) -> dict[str, float]:
        """Contrast and throughput for these aberrations."""
        with torch.no_grad():
            value, told = self.loss(batch)
        return {"loss": float(value), **told}

    def after_step(self) -> None:
        """Project the designs onto what can be made."""
        self.operator.project_designs()

    def harden(self) -> dict[str, Violations]:
        """Replace the designs by what can be made; what that breaks, by design."""
        values, broken = hardened(self.operator, self.operator.current(*self.names))
        self.operator.place(values)
        return broken


def dark_zone(operator: StarImages, inner: float, outer: float, *, half: bool = False) -> Tensor:
    """Pixels (y, x) with ``inner ≤ |u| ≤ outer`` in λ0/D, 1 there; with ``half`` where x > 0.

    A phase that is the same for all colours darkens one half at most: its square root of
    intensity is odd where that of an amplitude is even.
    """
    y, x = operator.optics.image.meshed()
    radius = (y.square() + x.square()).sqrt()
    zone = (radius >= inner) & (radius <= outer)
    return (zone & (x + 0 * y > 0) if half else zone).to(torch.float64)


@torch.no_grad()
def transmission(operator: StarImages, separation: float) -> float:
    """Light in the middle of a planet's image, relative to one far from the mask.

    ``|Σ E_C e^{−2πi α·x}|² / |Σ A Φ L|²`` at the middle wavelength, ``α`` along x in λ0/D.
    """
    optics = operator.designed
    offset = torch.tensor([0.0, separation], dtype=torch.float64)
    wave = plane_wave(offset, len(optics.pupil))
    behind = (optics.lyot_field(wave) * wave.conj()).sum()
    far = (optics.pupil * optics.apodizer * optics.lyot_stop).sum()
    return float(intensity(behind) / far.square())


def inner_working_angle(operator: StarImages, *, step: float = 0.05) -> float:
    """Separation in λ0/D at which a planet has half the light that it has far from the mask.

    Raises:
        ValueError: it has less than that at 20 λ0/D.
    """
    before = transmission(operator, 0.0)
    for k in range(1, round(20 / step) + 1):
        share = transmission(operator, k * step)
        if share >= 0.5:
            return step * (k - 1 + max(0.0, 0.5 - before) / max(share - before, 1e-12))
        before = share
    raise ValueError("at 20 λ0/D a planet still has less than half of its light")
