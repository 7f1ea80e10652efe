"""Supervised training: reconstructions that come near the known objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from labrecon.experiment import Experiment
from labrecon.learner import Learner
from labrecon.learners.losses import Loss, pick_loss
from labrecon.learners.samples import ObjectBatch
from labrecon.metrics import SSIM_WINDOW, nrmse, psnr, ssim
from labrecon.networks.memory import advise
from labrecon.noise import Gaussian, Noise
from labrecon.operator import Operator
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor

__all__ = ["Supervised", "default_metrics", "simulated"]

Metrics = Mapping[str, Callable[[Tensor, Tensor], float]]


class Supervised(Learner):
    """Minimises ``loss(R(problem), x) + Σ wᵢ ℓᵢ`` over a network ``R``.

    Batches are objects ``x``, measured here (`ObjectSamples`): ``y = noise.sample(A(x))`` with the
    operator ``A`` that the data term uses, too, inside the graph, so that gradients reach a design
    of it; or measured scans with their truths (`PairSamples`). ``ℓᵢ`` are the terms that the
    reconstruction itself asks for, ``wᵢ`` their weights in ``network.loss_weights``; a term without
    a weight there is left out.

    Args:
        network: what is trained.
        operator: the instrument; its designs are trained, too, if ``operator.learn`` was called.
        noise: how simulated data scatter.
        loss: "mse", "l1", "ssim", or a function of estimate and truth that returns a scalar, as a
            task asks for it; or the dotted path of one.
        metrics: functions of one estimate and its truth by name, averaged over the objects that are
            validated; by default PSNR, NRMSE and, for images, SSIM.
        data_term: "unit": the network is given ``½‖A x − y‖²``; "noise": the likelihood of
            ``noise``; or a noise of its own.
        design_rate: learning rate of the designs; by default that of the network.

    Raises:
        ValueError: an unknown loss or data term.
    """

    def __init__(
        self,
        network: Reconstructor,
        operator: Operator,
        noise: Noise | None = None,
        *,
        loss: str | Loss = "mse",
        metrics: Metrics | None = None,
        data_term: Literal["unit", "noise"] | Noise = "unit",
        design_rate: float | None = None,
    ) -> None:
        self.network = network
        self.operator = operator
        self.noise = Gaussian() if noise is None else noise
        self.experiment = Experiment(operator, self.noise)
        self.measure = pick_loss(loss, operator.domain.shape)
        self.metrics = default_metrics(operator.domain.shape) if metrics is None else metrics
        if data_term not in ("unit", "noise") and not isinstance(data_term, Noise):
            raise ValueError(f"data_term is 'unit', 'noise' or a Noise, got {data_term!r}")
        known = {"unit": Gaussian(), "noise": self.noise}
        self.data_term = known[data_term] if isinstance(data_term, str) else data_term
        self.design_rate = design_rate

    def parameters(self) -> Iterable[dict[str, Any]]:
        """The network's, and the experiment's designs that gradients are on for."""
        groups: list[dict[str, Any]] = []
        own = [p for p in self.network.parameters() if p.requires_grad]
        if own:
            groups.append({"params": own})
        taken = {id(p) for p in own}
        free = [p for p in self.experiment.parameters() if p.requires_grad and id(p) not in taken]
        if free:
            rate = {} if self.design_rate is None else {"lr": self.design_rate}
            groups.append({"params": free, **rate})
        return groups

    def modules(self) -> Mapping[str, nn.Module]:
        """Network, operator and both noises."""
        return {
            "network": self.network,
            "operator": self.operator,
            "noise": self.noise,
            "data_term": self.data_term,
        }

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The mean over the samples of a batch, and the network's own terms as metrics."""
        total: Tensor | None = None
        told: dict[str, float] = {}
        count = 0
        for problem, truth in self.problems(batch):
            made = self.network.reconstruct(problem)
            value = self.measure(made.x, truth)
            for name, term in made.losses.items():
                weight = self.network.loss_weights.get(name, 0.0)
                value = value + weight * term if weight else value
                told[name] = told.get(name, 0.0) + len(truth) * float(term.detach())
            value = len(truth) * value
            total = value if total is None else total + value
            count += len(truth)
        if total is None:
            raise ValueError("a batch without samples")
        return total / count, {name: value / count for name, value in told.items()}

    def validate(self, batch: Any) -> dict[str, float]:
        """Loss and metrics, averaged over the samples of a batch."""
        sums: dict[str, float] = {}
        count = 0
        for problem, truth in self.problems(batch):
            estimate = self.network(problem)
            one = {"loss": len(truth) * float(self.measure(estimate, truth).detach())}
            for name, metric in self.metrics.items():
                pairs = zip(estimate, truth, strict=True)
                one[name] = math.fsum(metric(x, t) for x, t in pairs)
            sums = {name: sums.get(name, 0.0) + value for name, value in one.items()}
            count += len(truth)
        return {name: value / count for name, value in sums.items()}

    def problems(self, batch: Any) -> Iterator[tuple[Problem, Tensor]]:
        """What the network is given, and what it should make of it, on the network's device."""
        if isinstance(batch, ObjectBatch):
            objects = batch.objects.to(self._device(batch.objects))
            yield simulated(objects, batch.generators, self.operator, self.noise, self.data_term)
            return
        for problem, truth in batch:
            device = self._device(truth)
            yield _moved(problem, device), truth.to(device)

    def _device(self, otherwise: Tensor) -> torch.device:
        tensors = itertools.chain(
            self.network.parameters(), self.operator.parameters(), self.operator.buffers()
        )
        return next(tensors, otherwise).device

    def advice(self, batch: Any) -> str:
        """Which mode of memory would fit, for an unrolled network."""
        problem, _ = next(self.problems(batch))
        return advise(self.network, problem)

    def after_step(self) -> None:
        """Project the designs onto what the hardware can do."""
        self.experiment.project_designs()


def simulated(
    objects: Tensor,
    generators: Sequence[torch.Generator],
    operator: Operator,
    noise: Noise,
    data_term: Noise,
) -> tuple[Problem, Tensor]:
    """A measurement of each object, differentiable in the operator's parameters."""
    pairs = zip(operator(objects), generators, strict=True)
    data = torch.stack([noise.sample(clean, generator) for clean, generator in pairs])
    return Problem(operator, data, data_term), objects


def default_metrics(shape: tuple[int, ...]) -> Metrics:
    """PSNR and NRMSE, and SSIM where objects are large enough for its window."""
    known: dict[str, Callable[[Tensor, Tensor], float]] = {"psnr": psnr, "nrmse": nrmse}
    if len(shape) >= 2 and min(shape[-2:]) >= SSIM_WINDOW:
        known["ssim"] = ssim
    return known


def _moved(problem: Problem, device: torch.device) -> Problem:
    weights = None if problem.weights is None else problem.weights.to(device)
    return Problem(
        problem.operator.to(device), problem.data.to(device), problem.noise.to(device), weights
    )
