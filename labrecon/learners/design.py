"""Design: acquisition parameters learned through a reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from labrecon.adjustable import Adjustable
from labrecon.design import Violations
from labrecon.learners.jitter import Jitter
from labrecon.learners.losses import Loss
from labrecon.learners.samples import ObjectBatch
from labrecon.learners.supervised import Metrics, Supervised
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor

__all__ = ["Design", "hardened"]


class Design(Supervised):
    """Minimises ``loss(R(y), x)`` over what an instrument can change about its acquisition.

    ``y = noise.sample(A_θ(x))`` and the data term of ``R`` have the same operator, so that the
    derivative by the design ``θ`` is whole. ``R`` is anything that makes an object of a problem:
    `Unrolled`, `Equilibrium`, a closed form (`labrecon.networks.Tikhonov`). Its own parameters are
    learned, too, where gradients are on for them. After each step designs are projected onto what
    the hardware can do; `harden` makes them what it loads.

    Args:
        network: ``R``.
        operator: the instrument.
        noise: how its data scatter.
        designs: names from the designs of operator and noise; by default all.
        jitter: standard deviations of nuisances: data are simulated with other values of these than
            the reconstruction has.
        loss: as for `Supervised`.
        metrics: likewise.
        data_term: likewise.
        design_rate: learning rate of the designs; by default that of the network.
        gauge: removes from estimate and truth what no acquisition can tell, such as the mean of a
            phase, before they are compared.

    Raises:
        ValueError: the operator has no such design or nuisance; or see `Supervised`.

    Example:
        >>> from labrecon import FitConfig, Gaussian, Operator, Space, fit
        >>> from labrecon.design import Box
        >>> from labrecon.learners import ObjectSamples
        >>> from labrecon.networks import Tikhonov
        >>> class Exposure(Operator):
        ...     def __init__(self):
        ...         super().__init__(Space((4,)), Space((4,)))
        ...         self.design("time", torch.tensor(0.2), Box(0.0, 1.0, unit="s"))
        ...     def forward(self, x):
        ...         return self.time * x
        >>> operator = Exposure()
        >>> learner = Design(Tikhonov(1e-3), operator, Gaussian(0.1))
        >>> objects = ObjectSamples(torch.rand(8, 4, generator=torch.Generator().manual_seed(0)))
        >>> _ = fit(learner, objects, FitConfig(epochs=60, batch_size=8, learning_rate=0.1))
        >>> operator.time.item()
        1.0
    """

    def __init__(
        self,
        network: Reconstructor,
        operator: Operator,
        noise: Noise | None = None,
        *,
        designs: Sequence[str] | None = None,
        jitter: Mapping[str, float | str] | None = None,
        loss: str | Loss = "mse",
        metrics: Metrics | None = None,
        data_term: Literal["unit", "noise"] | Noise = "unit",
        design_rate: float | None = None,
        gauge: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            network,
            operator,
            noise,
            loss=loss,
            metrics=metrics,
            data_term=data_term,
            design_rate=design_rate,
        )
        known = self.experiment.designs
        self.names = names = tuple(known) if designs is None else tuple(designs)
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ValueError(
                f"{operator.name} has no design {', '.join(unknown)}; it has "
                f"{', '.join(known) or 'none'}: register one with operator.design"
            )
        self.jitter = Jitter(operator, jitter or {})
        self.experiment.learn(*names)
        if gauge is not None:
            measure, given = self.measure, dict(self.metrics)
            self.measure = lambda x, t: measure(gauge(x), gauge(t))
            self.metrics = {name: _in_gauge(metric, gauge) for name, metric in given.items()}

    def problems(self, batch: Any) -> Iterator[tuple[Problem, Tensor]]:
        """What the reconstruction is given, and what it should make of it."""
        if not isinstance(batch, ObjectBatch) or not self.jitter.deviations:
            yield from super().problems(batch)
            return
        objects = batch.objects.to(self._device(batch.objects))
        clean = self.jitter.simulated(objects, batch.generators)
        pairs = zip(clean, batch.generators, strict=True)
        data = torch.stack([self.noise.sample(one, generator) for one, generator in pairs])
        yield Problem(self.operator, data, self.data_term), objects

    def harden(self) -> dict[str, Violations]:
        """Replace the designs by what the hardware loads; what that breaks, by design."""
        values, broken = hardened(self.experiment, self.experiment.current(*self.names))
        self.experiment.place(values)
        return broken


def _in_gauge(
    metric: Callable[[Tensor, Tensor], float], gauge: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], float]:
    return lambda x, t: metric(gauge(x), gauge(t))


def hardened(
    adjustable: Adjustable, values: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Violations]]:
    """Designs as the hardware loads them, and what they still break, by name."""
    sets = adjustable.designs
    made = {name: sets[name].harden(value.detach()) for name, value in values.items()}
    return made, {name: sets[name].violations(value) for name, value in made.items()}
