"""Checks of derivatives: the graph, the gradient, the gradient's gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.operator import GradientError, Operator
from labrecon.testing.bench import Bench, check
from labrecon.testing.differences import Trial, like, trials
from labrecon.testing.finding import Finding

#: Relative error up to which a gradient serves an optimiser.
USEFUL = 0.1


@check("graph")
def graph(bench: Bench) -> Iterator[Finding]:
    """The output of forward depends on its input, and on each parameter, in autograd's eyes."""
    operator = bench.operator
    x = bench.point().requires_grad_()
    try:
        y = operator(x)
    except GradientError as error:
        yield Finding("failed", "there is no gradient of the image", advice=str(error), about="x")
    else:
        yield _attached(y, x, "x")
    fixed = bench.point()
    for name, (kind, value) in bench.learnable().items():
        about = f"{kind} {name}"
        free = value.requires_grad_()
        try:
            y = operator.at(**{name: free})(fixed)
        except GradientError as error:
            yield Finding(
                "warned",
                "refuses a gradient: it can not be learned",
                advice=str(error),
                about=about,
            )
            continue
        yield _attached(y, free, about)


def _attached(y: Tensor, free: Tensor, about: str) -> Finding:
    gradient = None
    if y.requires_grad:
        (gradient,) = torch.autograd.grad(y, free, torch.ones_like(y), allow_unused=True)
    if gradient is None:
        return Finding(
            "failed",
            "detached: the output does not depend on it",
            about=about,
            advice="look for .detach(), .data, .item(), .numpy(), torch.tensor(...) or "
            "no_grad on the way; wrap foreign code with labrecon.bridge.external",
        )
    if not bool(torch.isfinite(gradient).all()):
        return Finding(
            "failed",
            "the gradient is not finite",
            about=about,
            advice="look for sqrt, log, abs or a division at 0; add a small constant, or use "
            "torch.where on the argument",
        )
    return Finding("passed", "attached", about=about)


@check("gradient")
def gradient(bench: Bench) -> Iterator[Finding]:
    """Automatic derivatives equal finite differences, for the image and every parameter."""
    operator = bench.operator
    yield from _image_gradient(bench, operator)
    # Many discretisations are differentiable by a position only where the object is smooth.
    x = bench.smooth()
    for name, (kind, value) in bench.learnable().items():
        about = f"{kind} {name}"
        try:
            operator.at(**{name: value.clone().requires_grad_()})(x)
        except GradientError:
            yield Finding("skipped", "refuses a gradient", about=about)
            continue

        def moved(p: Tensor, name: str = name) -> Tensor:
            return operator.at(**{name: p})(x)

        yield _compare(bench, moved, value, about, bench.residuals())
        elsewhere = operator.at(**{name: _elsewhere(bench, name, value)})
        yield _compare(bench, elsewhere, bench.point(), f"x at another {name}")


def _elsewhere(bench: Bench, name: str, value: Tensor) -> Tensor:
    """Another value of a parameter, one that the hardware can have."""
    scale = float(value.abs().max()) or 1.0
    noise = torch.randn(value.shape, generator=bench.generator(45)).to(value)
    other = value + 0.1 * scale * noise.abs()
    feasible = {**bench.operator.designs, **bench.operator.nuisances}[name]
    try:
        return other if feasible is None else feasible.project(other)
    except (ValueError, RuntimeError):
        return value


def _image_gradient(bench: Bench, operator: Operator) -> Iterator[Finding]:
    x = bench.point()
    try:
        operator(x.clone().requires_grad_())
    except GradientError:
        yield Finding("skipped", "there is no gradient of the image", about="x")
        return
    yield _compare(bench, operator, x, "x")


def _compare(
    bench: Bench,
    function: Map,
    value: Tensor,
    about: str,
    functionals: list[Tensor] | None = None,
) -> Finding:
    """Directional derivatives of functionals ``Re⟨w, f(p)⟩``, by default random ones."""
    free = value.clone().requires_grad_()
    y = function(free)
    if not y.requires_grad:
        return Finding("failed", "detached: the gradient is zero", 1.0, about=about,
                       advice="see the check graph")  # fmt: skip
    if functionals is None:
        functionals = [like(y, bench.generator(30 + i)) for i in range(3)]
    gradients = []
    for w in functionals:
        (g,) = torch.autograd.grad(y, free, w, retain_graph=True, allow_unused=True)
        gradients.append(torch.zeros_like(free) if g is None else g)
    parts = 1 if about.startswith("x") else 6
    return _judged(bench, about, trials(bench, function, value, functionals, gradients, parts))


def _judged(bench: Bench, about: str, tried: list[Trial]) -> Finding:
    """The verdict on the worst direction."""
    # A second-order difference in half of the digits.
    tolerance = max(1e-6, 30 * bench.epsilon ** (2 / 3))
    seen = [trial for trial in tried if trial.difference is not None]
    if not seen:
        return Finding(
            "warned",
            "can not be judged: the model is not finite beside this point",
            about=about,
            advice="give objects() and example() away from where the model ends",
        )
    felt = [t for t in seen if t.noise < 0.1 or bool(t.slope.any())]
    if not felt:
        return Finding(
            "warned",
            "has no effect on the data here",
            about=about,
            advice="is it used in forward? Otherwise its value in example() is a special one",
        )
    worst = max(felt, key=lambda trial: trial.error)
    error, slope = worst.error, worst.slope
    if error <= tolerance:
        return Finding("passed", "equals finite differences", error, tolerance, about=about)
    if error <= USEFUL:
        return Finding(
            "passed",
            "approximates finite differences, well enough to learn with",
            error,
            USEFUL,
            about=about,
        )
    if worst.noise > 0.3 * error:
        return Finding(
            "warned",
            "can not be judged: the effect is lost in rounding",
            error,
            USEFUL,
            "choose units in which values are near 1, or float64",
            about,
        )
    told, advice = _explained(bench, about, slope, worst.difference)
    return Finding("failed", told, error, USEFUL, advice, about)


def _explained(
    bench: Bench, about: str, slope: Tensor, difference: Tensor | None
) -> tuple[str, str]:
    assert difference is not None
    if not bool(slope.any()):
        return "the gradient is zero, and the data do depend on it", (
            "something on its way is detached or piecewise constant (round, argmax, long(), "
            "indexing by value); interpolate instead, or give a policy to labrecon.bridge.external"
        )
    if about.startswith("x") and bench.operator.linear:
        return "the gradient is wrong", (
            "the gradient of a linear map is its adjoint: see the check adjoint"
        )
    factor = float((slope @ difference) / (difference @ difference).clamp_min(1e-300))
    off = float((slope - factor * difference).norm())
    if len(slope) > 1 and off < 1e-2 * float(slope.norm()):
        return "the gradient is wrong", (
            f"it is {factor:.2g} times the true one: a scale or sign is in one place only"
        )
    return "the gradient is wrong", "compare with torch.autograd.gradcheck on a small case"


@check("second derivative")
def second_derivative(bench: Bench) -> Iterator[Finding]:
    """The gradient is itself differentiable: unrolled networks and design learning need it."""
    operator = bench.operator
    x = bench.point()
    with torch.no_grad():
        measured = operator(bench.smooth(stream=16))

    def image_gradient(x: Tensor, at: Operator, create: bool) -> Tensor:
        free = x if x.requires_grad else x.clone().requires_grad_()
        y = at(free) - measured
        parts = torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
        loss = 0.5 * parts.square().sum()
        (g,) = torch.autograd.grad(loss, free, create_graph=create)
        return g

    try:
        image_gradient(x, operator, False)
    except (GradientError, RuntimeError) as error:
        yield Finding("skipped", f"there is no first gradient ({error})", about="x")
        return

    def by_image(x: Tensor) -> Tensor:
        return image_gradient(x, operator, True)

    yield from _twice(bench, by_image, x, "x", [like(x, bench.generator(40))])
    # Several, so that not all nearly vanish by chance and leave their rounding.
    smooth, others = bench.smooth(), [bench.smooth(stream=stream) for stream in (11, 12, 13)]
    for name, (kind, value) in bench.learnable().items():
        about = f"{kind} {name}"

        def by_parameter(p: Tensor, name: str = name) -> Tensor:
            return image_gradient(smooth, operator.at(**{name: p}), True)

        try:
            operator.at(**{name: value.clone().requires_grad_()})(x)
        except GradientError:
            yield Finding("skipped", "refuses a gradient", about=about)
            continue
        yield from _twice(bench, by_parameter, value, about, others)


def _twice(
    bench: Bench,
    gradient: Callable[[Tensor], Tensor],
    value: Tensor,
    about: str,
    functionals: list[Tensor],
) -> Iterator[Finding]:
    free = value.clone().requires_grad_()
    try:
        g = gradient(free)
        if not g.requires_grad:
            yield Finding(
                "failed",
                "the gradient has no gradient",
                about=about,
                advice="write backward of an autograd.Function with differentiable operations, "
                "or use labrecon.linear_function",
            )
            return
        found = [torch.autograd.grad(g, free, u, retain_graph=True)[0] for u in functionals]
    except (RuntimeError, TypeError) as raised:
        advice = "avoid once_differentiable, detach and in-place changes in backward"
        told = f"can not be differentiated twice: {raised}"
        yield Finding("failed", told, advice=advice, about=about)
        return

    def detached(p: Tensor) -> Tensor:
        with torch.enable_grad():
            return gradient(p.detach().requires_grad_()).detach()

    yield _judged(bench, about, trials(bench, detached, value, functionals, found, 1))
