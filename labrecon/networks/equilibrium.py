"""Equilibrium: a solver iterated to its fixed point as a network of infinite depth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from labrecon.networks.anderson import Anderson
from labrecon.networks.broyden import Broyden
from labrecon.networks.fixed_point import (
    ConvergenceError,
    ConvergenceWarning,
    Finder,
    FixedPoint,
    Picard,
    find_fixed_point,
)
from labrecon.networks.flat_state import FlatState
from labrecon.networks.learnable import with_learned
from labrecon.networks.unrolled import STARTS, Start, first_estimate
from labrecon.options import number, whole
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstruction, Reconstructor
from labrecon.schedule import Schedule
from labrecon.solver import Solver, SolverError

__all__ = ["Equilibrium"]

FINDERS = ("picard", "anderson", "broyden")
BACKWARDS = ("implicit", "jfb", "phantom")
FAILURES = ("warn", "raise", "ignore")

Step = Callable[[Tensor], tuple[Tensor, dict[str, Any]]]


class Equilibrium(Reconstructor):
    """The fixed point ``s = T(s)`` of a solver's step, differentiated without its iterations.

    ``T`` is `Solver.stationary` on the whole state (iterate, multipliers, duals …). The fixed point
    is sought without a graph, then one step is attached to one: a training step takes the memory
    of one iteration, however many there were. With ``g = ∂L/∂s`` and the Jacobians ``J = ∂T/∂s``
    and ``∂T/∂θ`` at the fixed point, ``backward`` is

    - "implicit": ``(∂T/∂θ)ᵀ w`` with ``(I − Jᵀ) w = g``, solved by the same finder: the exact
      gradient (Bai, Kolter and Koltun 2019; Gilton, Ongie and Willett 2021);
    - "jfb": ``(∂T/∂θ)ᵀ g``, as if ``J`` were 0. A direction of descent where ``T`` contracts and
      ``∂T/∂θ`` is well conditioned (Fung et al. 2022), at the price of one step;
    - "phantom": through ``phantom_steps`` damped steps from the fixed point (Geng et al. 2021), the
      first terms of Neumann's series of the implicit gradient.

    Gradients reach the solver's parameters, its prior, and data, design and weights of the problem;
    they do not reach the first estimate, on which a fixed point does not depend. Losses that the
    attached step tells are differentiated with the state as given.

    Not for maps that do not contract: look at ``told["contraction"]`` and ``status`` of
    `reconstruct`. A slow map meets a tolerance far from its fixed point, ``told["distance"]`` says
    about how far. The accuracy of the implicit gradient is that of the fixed point: with a
    tolerance of 1e-3 and a contraction of 0.99 its cosine with the true one was 0.26 to 0.98, that
    of "jfb" 0.6 to 0.9.

    Args:
        solver: one set of parameters for all iterations. Those it has are used as they are.
        find: "picard" (the solver's own iteration), "anderson" or "broyden".
        backward: "implicit", "jfb" or "phantom".
        iterations: largest number of evaluations of ``T``.
        tolerance: of ``‖T(s) − s‖ / ‖T(s)‖`` over the whole state, for each batch element.
        backward_iterations: the same for ``w``; default ``iterations``.
        backward_tolerance: the same for ``w``; default ``tolerance``.
        memory: past points used by "anderson" (default 5) and "broyden" (default 20).
        beta: damping, in (0, 1]: share of ``T(s)`` in a plain step.
        phantom_steps: of "phantom".
        on_failure: what a fixed point or a ``w`` outside the tolerance is answered with: "warn"
            (`ConvergenceWarning`), "raise" (`ConvergenceError`), or "ignore", which leaves it to
            ``status``.
        learn: what becomes learnable, see `labrecon.networks.learnable.with_learned`; the solver
            that was given stays as it is.
        start: as for `labrecon.networks.Unrolled`.
        problem: an example, where ``learn`` names a step size that is found from the operator.

    Raises:
        SolverError: an option is wrong, or the solver's parameters differ between iterations.
    """

    def __init__(
        self,
        solver: Solver,
        *,
        find: str = "anderson",
        backward: str = "implicit",
        iterations: int = 100,
        tolerance: float = 1e-5,
        backward_iterations: int | None = None,
        backward_tolerance: float | None = None,
        memory: int | None = None,
        beta: float = 1.0,
        phantom_steps: int = 5,
        on_failure: str = "warn",
        learn: Iterable[str] = (),
        start: Start = "zero",
        problem: Problem | None = None,
    ) -> None:
        super().__init__()
        self.find = _one_of("find", find, FINDERS)
        self.backward = _one_of("backward", backward, BACKWARDS)
        self.on_failure = _one_of("on_failure", on_failure, FAILURES)
        self.iterations = whole("iterations", iterations, error=SolverError)
        self.tolerance = number("tolerance", tolerance, above=0, error=SolverError)
        self.backward_iterations = whole(
            "backward_iterations",
            self.iterations if backward_iterations is None else backward_iterations,
            error=SolverError,
        )
        self.backward_tolerance = number(
            "backward_tolerance",
            self.tolerance if backward_tolerance is None else backward_tolerance,
            above=0,
            error=SolverError,
        )
        self.memory = None if memory is None else whole("memory", memory, error=SolverError)
        self.beta = number("beta", beta, above=0, error=SolverError)
        if self.beta > 1:
            raise SolverError(f"beta must be a number > 0 and ≤ 1, got {beta!r}")
        self.phantom_steps = whole("phantom_steps", phantom_steps, error=SolverError)
        if isinstance(start, str) and start not in STARTS:
            raise SolverError(f"start is a module or one of {', '.join(STARTS)}, got {start!r}")
        self.start = start
        learned = list(learn)
        if learned:
            solver = with_learned(solver, learned, 1, tied=True, problem=problem)
        _require_one_layer(solver)
        self.solver = solver

    def reconstruct(
        self, problem: Problem, x0: Tensor | None = None, *, trace: bool = False
    ) -> Reconstruction:
        """The estimate at the fixed point, with iterations, residual, contraction and distance.

        Raises:
            DivergenceError: an iterate is not finite.
            ConvergenceError: the tolerance was not met and ``on_failure`` is "raise".
        """
        solver = self.solver
        solver.check(problem)
        problem = problem.prepare()
        template = solver.init(problem, first_estimate(self.start, problem, x0))
        with torch.no_grad():
            template = solver.settled(problem, template)
        flat = FlatState(template, problem.batch)

        def step(z: Tensor) -> tuple[Tensor, dict[str, Any]]:
            following, told = solver.stationary(problem, flat.unpack(z))
            return flat.pack(following), told

        estimates: list[Tensor] = []

        def watch(image: Tensor) -> None:
            estimates.append(solver.estimate(flat.unpack(image)))

        with torch.no_grad():
            found = find_fixed_point(
                lambda z: step(z)[0],
                flat.pack(flat.template),
                self._finder(),
                iterations=self.iterations,
                tolerance=self.tolerance,
                watch=watch if trace else None,
            )
        self._judge(found, "fixed point", self.tolerance)
        image, told = self._attached(step, found.z)
        numbers = {"iterations": float(found.iterations), "residual": found.worst}
        if found.contraction is not None:
            numbers["contraction"] = found.contraction
        if found.distance is not None:
            numbers["distance"] = found.distance
        return Reconstruction(
            solver.estimate(flat.unpack(image)),
            {name: value for name, value in told.items() if isinstance(value, Tensor)},
            numbers,
            "done" if bool(found.converged.all()) else "not converged",
            tuple(estimates),
        )

    def _attached(self, step: Step, z: Tensor) -> tuple[Tensor, Mapping[str, Any]]:
        """The step from the fixed point that gradients see."""
        image, told = step(z)
        if self.backward == "implicit" and image.requires_grad:
            solve = _Transposed(self, step, z)
            image = _Implicit.apply(image, solve)
        if self.backward == "phantom":
            for _ in range(self.phantom_steps - 1):
                z = torch.lerp(z, image, self.beta)
                image, told = step(z)
        return image, told

    def _finder(self) -> Finder:
        if self.find == "picard":
            return Picard(self.beta)
        if self.find == "anderson":
            return Anderson(self.memory or 5, self.beta)
        return Broyden(self.memory or 20, self.beta)

    def _judge(self, found: FixedPoint, what: str, tolerance: float) -> None:
        missed = int((~found.converged).sum())
        if not missed or self.on_failure == "ignore":
            return
        message = (
            f"{type(self.solver).__name__}: the {what} has a residual of {found.worst:.2g} after "
            f"{found.iterations} iterations of {self.find!r}, asked for was {tolerance:.2g} "
            f"({missed} of {len(found.residual)} batch elements)"
        )
        if found.contraction is not None:
            message += f"; the map changes distances by up to {found.contraction:.3g}"
        message += ". Gradients are off by as much: raise iterations, the tolerance, or lower beta"
        if self.on_failure == "raise":
            raise ConvergenceError(message)
        warnings.warn(message, ConvergenceWarning, stacklevel=4)


class _Transposed:
    """``g ↦ w`` with ``w = g + Jᵀ w`` at a fixed point."""

    def __init__(self, network: Equilibrium, step: Step, z: Tensor) -> None:
        self.network = network
        self.step = step
        self.z = z

    def __call__(self, g: Tensor) -> Tensor:
        network = self.network
        with torch.enable_grad():
            z = self.z.detach().requires_grad_()
            image, _ = self.step(z)

        def apply(w: Tensor) -> Tensor:
            (pulled,) = torch.autograd.grad(image, z, w, retain_graph=True, allow_unused=True)
            return g if pulled is None else g + pulled

        found = find_fixed_point(
            apply,
            g,
            network._finder(),
            iterations=network.backward_iterations,
            tolerance=network.backward_tolerance,
        )
        network._judge(found, "gradient", network.backward_tolerance)
        return found.z


class _Implicit(torch.autograd.Function):
    """The identity, whose backward solves for the gradient at the fixed point.

    A function rather than a hook on the step's own output: that would keep the graph alive if
    `backward` were never called.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, solve: _Transposed) -> Tensor:
        ctx.solve = solve
        return image.view_as(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.solve(g), None


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise SolverError(f"{what} is one of {', '.join(allowed)}, got {value!r}")
    return value


def _require_one_layer(solver: Solver) -> None:
    """A fixed point is one of one map: parameters per layer would be used up to the first."""
    for name, module in solver.named_modules():
        if isinstance(module, Schedule) and len(module.raw) > 1:
            raise SolverError(
                f"{solver.name}: {name} has {len(module.raw)} values, one per layer; an "
                "equilibrium is the fixed point of one map and takes one"
            )
    for name, child in solver.named_children():
        if isinstance(child, nn.ModuleList) and len(child) > 1:
            raise SolverError(
                f"{solver.name}: {name} has {len(child)} modules, one per layer; an equilibrium "
                "is the fixed point of one map and takes one"
            )
