"""Criteria of optimal design from the Fisher information: no training, no reconstruction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from labrecon.experiment import Experiment
from labrecon.functional import Map
from labrecon.krylov import cg_start, cg_step
from labrecon.learner import Learner
from labrecon.learners.samples import ObjectBatch
from labrecon.noise import Gaussian, Noise
from labrecon.operator import Operator
from labrecon.space import inner, squared_norm

__all__ = ["Criterion", "FisherDesign", "fisher_information", "make_fisher_design"]

Criterion = Literal["a", "d", "task"]


class FisherDesign(Learner):
    """Minimises how uncertain the object is, as the Cramér–Rao bound has it.

    ``F(x) = Jᴴ V⁻¹ J + ρ`` with the Jacobian ``J`` of the operator at ``x``, the variance ``V`` of
    the noise, and the precision ``ρ`` of what is known before:

    - "a": ``tr F⁻¹ / n``, the mean variance of the object;
    - "d": ``−log det F / n``, the information;
    - "task": ``tr(T F⁻¹ Tᴴ) / m``, the mean variance of ``T x``, what the task asks for.

    Traces are estimated by random signs (Hutchinson 1990), solves are conjugate gradients, and the
    gradient needs no derivative of the solve. Values of "d" are by Lanczos quadrature (Ubaru, Chen
    and Saad 2017).

    For a linear operator with noise that does not depend on the object, ``x`` has no say; batches
    are of one zero object then.

    Args:
        operator: the instrument.
        noise: of its data; it must state its variance.
        criterion: see above.
        rho: ``ρ``.
        task: ``T``, linear, for "task".
        designs: names from the designs of operator and noise; by default all.
        probes: random vectors per object.
        iterations: of conjugate gradients, at most.
        tolerance: of their residual.

    Raises:
        ValueError: no such design or criterion, a number out of range, or a task is missing.
    """

    def __init__(
        self,
        operator: Operator,
        noise: Noise | None = None,
        *,
        criterion: Criterion = "a",
        rho: float = 1e-3,
        task: Operator | None = None,
        designs: Sequence[str] | None = None,
        probes: int = 4,
        iterations: int = 100,
        tolerance: float = 1e-4,
    ) -> None:
        self.operator, self.noise = operator, Gaussian() if noise is None else noise
        self.experiment = Experiment(operator, self.noise)
        known = self.experiment.designs
        names = tuple(known) if designs is None else tuple(designs)
        if not names or any(name not in known for name in names):
            raise ValueError(f"designs are {', '.join(known) or 'none'}; asked for {names}")
        if criterion not in ("a", "d", "task"):
            raise ValueError(f"a criterion is 'a', 'd' or 'task', got {criterion!r}")
        if (task is not None) != (criterion == "task"):
            raise ValueError("the criterion 'task', and no other, needs task=, a linear operator")
        if not rho > 0 or probes < 1 or iterations < 1:
            raise ValueError("rho is positive, probes and iterations are at least 1")
        self.criterion, self.rho, self.task = criterion, float(rho), task
        self.names, self.probes = names, probes
        self.iterations, self.tolerance = iterations, tolerance
        self.experiment.learn(*names)

    def parameters(self) -> Iterable[Tensor]:
        """The designs."""
        return [self.experiment.get_parameter(name) for name in self.names]

    def modules(self) -> Mapping[str, nn.Module]:
        """Operator and noise."""
        return {"operator": self.operator, "noise": self.noise}

    def loss(self, batch: ObjectBatch) -> tuple[Tensor, dict[str, float]]:
        """The criterion, averaged over the objects of a batch."""
        device = next(self.parameters().__iter__()).device
        values = [
            self.value(x.to(device), generator)
            for x, generator in zip(batch.objects, batch.generators, strict=True)
        ]
        return torch.stack(values).mean(), {}

    def value(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The criterion at an object, differentiable in the designs."""
        information = fisher_information(self.operator, self.noise, x, self.rho)
        ndim = self.operator.domain.ndim
        space = self.operator.domain if self.task is None else self.task.range
        total = torch.zeros((), dtype=space.real_dtype, device=x.device)
        for _ in range(self.probes):
            z = _signs(space.shape, space.dtype, generator).to(x.device)
            right = z if self.task is None else self.task.adjoint(z)
            u = self._solved(information, right, ndim)
            if self.criterion == "d":
                # Its gradient is tr(F⁻¹ dF); its value comes from the quadrature.
                surrogate = -inner(u, information(z), ndim).real
                logdet = _log_quadrature(information, z, ndim, min(self.iterations, space.size))
                total = total + (surrogate - surrogate.detach()) - logdet
            else:
                # At the solution this is zᴴF⁻¹z, with the derivative −uᴴ dF u, exactly.
                total = total + 2 * inner(right, u, ndim).real - inner(u, information(u), ndim).real
        return total / (self.probes * space.size)

    @torch.no_grad()
    def _solved(self, information: Map, right: Tensor, ndim: int) -> Tensor:
        state = cg_start(information, right, None, ndim)
        enough = self.tolerance**2 * float(squared_norm(right, ndim))
        for _ in range(self.iterations):
            if float(state.rr) <= enough:
                break
            state = cg_step(information, state, ndim)
        return state.x

    def after_step(self) -> None:
        """Project the designs onto what the hardware can do."""
        self.experiment.project_designs()


def fisher_information(operator: Operator, noise: Noise, x: Tensor, rho: float) -> Map:
    """``u ↦ (Jᴴ V⁻¹ J + ρ) u`` at an object.

    Raises:
        NoiseError: the noise does not state its variance.
    """

    def apply(u: Tensor) -> Tensor:
        if operator.linear:
            weights = 1 / noise.variance(operator(x))
            return operator.adjoint(weights * operator(u)) + rho * u
        tangent = operator.linearize(x)
        weights = 1 / noise.variance(operator(x))
        return tangent.adjoint(weights * tangent(u)) + rho * u

    return apply


def _signs(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    real = dtype.to_real()
    signs = 2.0 * torch.randint(2, shape, generator=generator).to(real) - 1.0
    if not dtype.is_complex:
        return signs
    # Fourth roots of unity: real-linear maps have no preferred direction in them.
    turned = torch.randint(2, shape, generator=generator).to(torch.bool)
    return torch.where(turned, torch.complex(0 * signs, signs), torch.complex(signs, 0 * signs))


@torch.no_grad()
def _log_quadrature(apply: Map, z: Tensor, ndim: int, steps: int) -> Tensor:
    """``zᴴ log(F) z`` by Lanczos' method with full reorthogonalisation."""
    size = float(squared_norm(z, ndim))
    basis = [z / math.sqrt(size)]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(steps):
        w = apply(basis[-1])
        diagonal.append(float(inner(basis[-1], w, ndim).real))
        for _ in range(2):
            for q in basis:
                w = w - inner(q, w, ndim).real * q
        norm = float(squared_norm(w, ndim)) ** 0.5
        if norm <= 1e-6 * abs(diagonal[0]):
            break
        beside.append(norm)
        basis.append(w / norm)
    n = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, value in enumerate(beside[: n - 1]):
        matrix[i, i + 1] = matrix[i + 1, i] = value
    values, vectors = torch.linalg.eigh(matrix)
    found = (vectors[0].square() * values.clamp_min(1e-300).log()).sum() * size
    return found.to(z.real.dtype).to(z.device)


def make_fisher_design(
    network: object,
    operator: Operator,
    noise: Noise | None = None,
    *,
    criterion: Criterion = "a",
    rho: float = 1e-3,
    designs: Sequence[str] | None = None,
    probes: int = 4,
    iterations: int = 100,
) -> FisherDesign:
    """`FisherDesign` as `labrecon design` asks for it; the network has no part in it.

    Args:
        network: not used.
        operator: see `FisherDesign`.
        noise: see `FisherDesign`.
        criterion: "a" or "d".
        rho: see `FisherDesign`.
        designs: see `FisherDesign`.
        probes: see `FisherDesign`.
        iterations: see `FisherDesign`.
    """
    return FisherDesign(
        operator,
        noise,
        criterion=criterion,
        rho=rho,
        designs=designs,
        probes=probes,
        iterations=iterations,
    )
