"""The learner of measured scans: a sum of terms, none of which knows the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from labrecon.learner import Learner
from labrecon.learners.self_supervised.misfit import misfit
from labrecon.learners.self_supervised.scans import MeasuredScan, ScanBatch
from labrecon.learners.self_supervised.term import DataTerm, Pass, Term
from labrecon.learners.supervised import Metrics, default_metrics
from labrecon.networks.memory import advise
from labrecon.operator import Operator
from labrecon.options import number
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor

__all__ = ["SelfSupervised"]


class SelfSupervised(Learner):
    """Minimises ``Σ wₖ Lₖ`` over a network ``R``, with measured data alone.

    ``Lₖ`` are `Term`: `HeldOutMisfit` (SSDU), `Noise2Inverse`, `Risk` (SURE), `Equivariance`,
    `Consistency`, or one of your own; SURE and equivariance together are robust equivariant imaging
    (Chen, Tachella and Davies 2022). Terms that the reconstruction itself asks for count with
    ``network.loss_weights``, as in `labrecon.learners.Supervised`. Batches are those of
    `ScanSamples`.

    Args:
        network: what is trained.
        operator: of the scans, or of those like them.
        terms: each with its weight, by name.
        metrics: functions of one estimate and its truth by name, told where truths are known.
        data_term: what the network is given: "unit" for ``½‖A x − y‖²``, "noise" for the likelihood
            of the declared noise.

    Raises:
        ValueError: no term, a weight that is not positive, or an unknown data term.

    Example:
        >>> from labrecon import Space
        >>> from labrecon.learners.self_supervised import Dealing, HeldOutMisfit
        >>> from labrecon.networks import Unrolled
        >>> from labrecon.operators import Identity
        >>> from labrecon.solvers import ISTA
        >>> operator = Identity(Space((8, 8), axes=("y", "x")))
        >>> network = Unrolled(ISTA(step_size=0.5), 3, learn=["step_size"])
        >>> learner = SelfSupervised(
        ...     network, operator, {"ssdu": (1.0, HeldOutMisfit(Dealing(("y", "x"))))}
        ... )
    """

    #: Scans suffice: `labrecon train --scans` asks for no objects.
    without_truth: ClassVar[bool] = True

    def __init__(
        self,
        network: Reconstructor,
        operator: Operator,
        terms: Mapping[str, tuple[float, Term]],
        *,
        metrics: Metrics | None = None,
        data_term: DataTerm = "unit",
    ) -> None:
        if not terms:
            raise ValueError("a self-supervised loss is a sum of terms; there is none")
        if data_term not in get_args(DataTerm):
            raise ValueError(f"data_term is 'unit' or 'noise', got {data_term!r}")
        self.network = network
        self.operator = operator
        self.terms = {
            name: (number(f"the weight of {name}", weight, above=0), term)
            for name, (weight, term) in terms.items()
        }
        self.metrics = default_metrics(operator.domain.shape) if metrics is None else metrics
        self.data_term: DataTerm = data_term

    def parameters(self) -> Iterable[Tensor]:
        """Those of the network that gradients are on for."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def modules(self) -> Mapping[str, nn.Module]:
        """Network and operator."""
        return {"network": self.network, "operator": self.operator}

    def check(self, problem: Problem) -> None:
        """Raise `ValueError` where a scan can not be trained on by one of the terms."""
        for _, term in self.terms.values():
            term.check(problem)

    def loss(self, batch: ScanBatch) -> tuple[Tensor, dict[str, float]]:
        """The mean over the slices of a batch; each term, and the network's own, as metrics."""
        total: Tensor | None = None
        told: dict[str, float] = {}
        for run, _ in self._passes(batch):
            count = len(run.generators)
            value, found = self._sum(run)
            total = count * value if total is None else total + count * value
            for name, one in found.items():
                told[name] = told.get(name, 0.0) + count * one
        if total is None:
            raise ValueError("a batch without samples")
        return total / len(batch), {name: value / len(batch) for name, value in told.items()}

    def validate(self, batch: ScanBatch) -> dict[str, float]:
        """The loss of scans that are not trained on, or of samples that are not.

        Where truths are known their metrics are told, too; none decides anything.
        """
        sums: dict[str, float] = {}
        for run, scan in self._passes(batch):
            count = len(run.generators)
            if scan.held is None:
                found = {"loss": float(self._sum(run)[0].detach())}
            else:
                judged = misfit(scan.problem, run.estimate, scan.held)
                found = {"loss": float(judged.mean().detach())}
            if scan.truth is not None:
                estimate = run.estimate.detach()
                for name, metric in self.metrics.items():
                    pairs = zip(estimate, scan.truth, strict=True)
                    found[name] = math.fsum(metric(x, t) for x, t in pairs) / count
            for name, one in found.items():
                sums[name] = sums.get(name, 0.0) + count * one
        return {name: value / len(batch) for name, value in sums.items()}

    def advice(self, batch: ScanBatch) -> str:
        """Which mode of memory would fit, for an unrolled network."""
        run, _ = next(self._passes(batch))
        return advise(self.network, run.problem)

    def _sum(self, run: Pass) -> tuple[Tensor, dict[str, float]]:
        total: Tensor | None = None
        told: dict[str, float] = {}
        for name, (weight, term) in self.terms.items():
            value = term(run).mean()
            total = weight * value if total is None else total + weight * value
            told[name] = float(value.detach())
        assert total is not None
        for name, values in run.terms.items():
            mean = torch.stack(values).mean()
            weight = self.network.loss_weights.get(name, 0.0)
            total = total + weight * mean if weight else total
            told[name] = float(mean.detach())
        return total, told

    def _passes(self, batch: ScanBatch) -> Iterator[tuple[Pass, MeasuredScan]]:
        for scan, generators in batch.scans:
            moved = _moved(scan, self._device(scan.problem.data))
            gain = moved.gain
            yield Pass(self.network, moved.trained_on, generators, self.data_term, gain), moved

    def _device(self, otherwise: Tensor) -> torch.device:
        tensors = itertools.chain(
            self.network.parameters(), self.operator.parameters(), self.operator.buffers()
        )
        return next(tensors, otherwise).device


def _moved(scan: MeasuredScan, device: torch.device) -> MeasuredScan:
    def there(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(device)

    problem = scan.problem
    data, weights = problem.data.to(device), there(problem.weights)
    moved = Problem(problem.operator.to(device), data, problem.noise.to(device), weights)
    return MeasuredScan(moved, there(scan.gain), there(scan.truth))
