"""A dark zone from start to end: optics learned on random aberrations, judged on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon import FitConfig, fit
from labrecon.design import Violations
from labrecon.learners import ObjectSamples
from labrecon_coronagraph.dark_zone import DarkZone, dark_zone, inner_working_angle
from labrecon_coronagraph.optics_geometry import OpticsGeometry
from labrecon_coronagraph.star_images import StarImages
from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument

__all__ = ["LearnedZone", "Optics", "drifting_telescope", "learn_dark_zone"]


@dataclass(frozen=True)
class Optics:
    """What optics are worth.

    Attributes:
        designs: by name.
        image: mean over the unseen aberrations (y, x), relative to the peak of a planet.
        contrast: mean over the zone for each of the unseen aberrations (draw,).
        perfect: the same without aberrations.
        throughput: peak of a planet far from the mask, relative to bare optics.
        angle: inner working angle in λ0/D; None where a planet never has half of its light.
    """

    designs: Mapping[str, Tensor]
    image: Tensor
    contrast: Tensor
    perfect: float
    throughput: float
    angle: float | None


@dataclass(frozen=True)
class LearnedZone:
    """Optics before and after learning.

    Attributes:
        operator: the optics as learned.
        zone: what was to be dark (y, x).
        before: the optics of the geometry.
        after: the learned ones, hardened.
        broken: limits that hardened designs still break, by design.
    """

    operator: StarImages
    zone: Tensor
    before: Optics
    after: Optics
    broken: Mapping[str, Violations]

    @property
    def warnings(self) -> list[str]:
        """What speaks against the learned optics, in words."""
        told = [
            f"{name}: {rule} {violation}"
            for name, rules in self.broken.items()
            for rule, violation in rules.items()
        ]
        given, learned = (float(one.contrast.mean()) for one in (self.before, self.after))
        if learned >= given:
            told.append(
                f"the learned optics are not darker than the given ones ({learned:.3g} and "
                f"{given:.3g}): take a smaller rate, more steps, or other designs"
            )
        if self.after.throughput < 0.98 * self.before.throughput:
            told.append(
                f"the throughput fell from {self.before.throughput:.4f} to "
                f"{self.after.throughput:.4f}: the contrasts are not compared at equal throughput"
            )
        return told


def drifting_telescope() -> OpticsGeometry:
    """The VLT with spiders, a mask of 185 mas, 30 nm of unknown aberrations and 4 mas of jitter."""
    return (
        WavefrontInstrument()
        .example()
        .changed(pupil="vlt", pixels=64, modes=100, aberration=30.0, jitter=4.0, diversity=(0.0,))
    )


def learn_dark_zone(
    geometry: OpticsGeometry,
    *,
    designs: Sequence[str] = ("apodizer",),
    inner: float = 3.0,
    outer: float = 8.0,
    half: bool = False,
    steps: int = 200,
    rate: float = 6e-3,
    batch: int = 8,
    draws: int = 64,
    seed: int = 0,
    callbacks: Iterable[Callable[[int, dict[str, float]], object]] = (),
) -> LearnedZone:
    """Learn optics for a dark zone, and compare them with the given ones on other aberrations.

    Args:
        geometry: of the optics, in focus.
        designs: names of what is learned.
        inner: radius of the zone in λ0/D.
        outer: likewise.
        half: darken the half with x > 0 alone.
        steps: of Adam.
        rate: its learning rate: of amplitudes, and of phases in rad; commands move by as much
            phase, ``rate λ/2π`` in nm. It falls to 0 along a cosine.
        batch: aberrations per step.
        draws: aberrations to learn from, and as many others to judge by.
        seed: of both, and of their order.
        callbacks: told of each step, see `labrecon.fit`.

    Raises:
        ValueError: an unknown design, a zone that is empty or not all on the image, optics out of
            focus.
    """
    if any(geometry.diversity):
        raise ValueError(
            f"the geometry has images out of focus (diversity {list(geometry.diversity)} nm), and "
            'a dark zone is one of the image in focus: give "diversity": [0.0]'
        )
    operator = StarImages(geometry, dtype=torch.float64)
    reach = float(operator.optics.image.axis(1).abs().max())
    if not 0 <= inner < outer or outer > reach:
        raise ValueError(
            f"a zone from {inner:g} to {outer:g} λ/D; expected 0 ≤ inner < outer, and outer at "
            f"most {reach:.3g} λ/D, as far as an image of {geometry.pixels} pixels goes"
        )
    zone = dark_zone(operator, inner, outer, half=half)
    rates = {"commands": rate * geometry.wavelength * 1e3 / (2 * math.pi)}
    learner = DarkZone(operator, zone, designs=designs, rates=rates)
    generator = torch.Generator().manual_seed(seed)
    instrument = WavefrontInstrument()
    seen = instrument.objects(geometry, draws, generator)
    unseen = instrument.objects(geometry, draws, generator)
    before = _measured(learner, unseen)
    config = FitConfig(
        steps=steps,
        batch_size=min(batch, draws),
        learning_rate=rate,
        schedule="cosine",
        seed=seed,
    )
    fit(learner, ObjectSamples(seen), config, callbacks=callbacks)
    broken = {name: found for name, found in learner.harden().items() if found}
    return LearnedZone(operator, zone, before, _measured(learner, unseen), broken)


@torch.no_grad()
def _measured(learner: DarkZone, unseen: Tensor) -> Optics:
    operator = learner.operator
    try:
        angle = inner_working_angle(operator)
    except ValueError:
        angle = None
    total, contrasts = torch.zeros_like(learner.zone), []
    for draw in unseen:
        images = operator(draw[None])
        total += images.mean((0, 1, 2))
        contrasts.append(learner.over_zone(images))
    peak = operator.peak()
    return Optics(
        designs={name: value.clone() for name, value in operator.current(*learner.names).items()},
        image=total / len(unseen) / peak,
        contrast=torch.cat(contrasts),
        perfect=float(learner.contrast(torch.zeros_like(unseen[:1]))[0]),
        throughput=float(peak),
        angle=angle,
    )
