"""Checks of derivatives: the graph, the gradient, the gradient's gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from labrecon.operator import GradientError, Operator
from labrecon.testing.bench import Bench, check
from labrecon.testing.finding import Finding

#: Relative error up to which a gradient serves an optimiser.
USEFUL = 5e-2
_STEPS = (1e-1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5)


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
    function: Callable[[Tensor], Tensor],
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
    directions, slopes = [], []
    if functionals is None:
        functionals = [_like(y, bench.generator(30 + i)) for i in range(3)]
    for stream, w in enumerate(functionals):
        u = _like(value, bench.generator(20 + stream))
        (g,) = torch.autograd.grad(y, free, w, retain_graph=True, allow_unused=True)
        g = torch.zeros_like(free) if g is None else g
        directions.append(u)
        slopes.append(_product(g, u))
    slope = torch.tensor(slopes, dtype=torch.float64)
    scale = float(value.detach().abs().double().square().mean().sqrt()) or 1.0
    error, difference, noise = _best(
        function, value, directions, functionals, slope, scale, bench.epsilon
    )
    return _judged(bench, about, slope, difference, error, noise)


def _best(
    function: Callable[[Tensor], Tensor],
    value: Tensor,
    directions: list[Tensor],
    functionals: list[Tensor],
    slope: Tensor,
    scale: float,
    epsilon: float,
) -> tuple[float, Tensor, float]:
    """The smallest error over several steps: a wrong gradient is right at none of them."""
    best = 0.0 if not bool(slope.any()) else float("inf"), torch.zeros_like(slope), float("inf")
    for step in _STEPS:
        h = step * scale
        found, rounding = [], []
        for u, w in zip(directions, functionals, strict=True):
            with torch.no_grad():
                plus, minus = function(value + h * u), function(value - h * u)
            found.append(_product(w, plus - minus) / (2 * h))
            size = torch.linalg.vector_norm(plus.double() if not plus.is_complex() else plus)
            rounding.append(float(size) * epsilon / h)
        difference = torch.tensor(found, dtype=torch.float64)
        size = max(
            float(torch.linalg.vector_norm(difference)), float(torch.linalg.vector_norm(slope))
        )
        if size == 0:
            continue
        error = float(torch.linalg.vector_norm(slope - difference)) / size
        noise = max(rounding) / size
        # Where the gradient is zero, the step that sees most tells whether it should be.
        better = noise < best[2] if not bool(slope.any()) else error < best[0]
        if better:
            best = error, difference, noise
    return best


def _judged(
    bench: Bench, about: str, slope: Tensor, difference: Tensor, error: float, noise: float
) -> Finding:
    # A second-order difference in half of the digits.
    tolerance = max(1e-6, 30 * bench.epsilon ** (2 / 3))
    if float(slope.abs().max()) == 0.0 and noise > 0.1:
        return Finding(
            "warned",
            "has no effect on the data here",
            about=about,
            advice="is it used in forward? Otherwise its value in example() is a special one",
        )
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
    if float(slope.abs().max()) == 0.0:
        told = "the gradient is zero, and the data do depend on it"
        advice = (
            "something on its way is detached or piecewise constant (round, argmax, long(), "
            "indexing by value); interpolate instead, or give a policy to labrecon.bridge.external"
        )
    else:
        factor = float((slope @ difference) / (difference @ difference).clamp_min(1e-300))
        off = float(torch.linalg.vector_norm(slope - factor * difference))
        same = off < 1e-2 * float(torch.linalg.vector_norm(slope))
        told = "the gradient is wrong"
        advice = "compare with torch.autograd.gradcheck on a small case"
        if about == "x" and bench.operator.linear:
            advice = "the gradient of a linear map is its adjoint: see the check adjoint"
        elif same:
            advice = f"it is {factor:.2g} times the true one: a scale or sign is in one place only"
    return Finding("failed", told, error, USEFUL, advice, about)


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
        loss = 0.5 * (torch.view_as_real(y) if y.is_complex() else y).square().sum()
        (g,) = torch.autograd.grad(loss, free, create_graph=create)
        return g

    try:
        image_gradient(x, operator, False)
    except (GradientError, RuntimeError) as error:
        yield Finding("skipped", f"there is no first gradient ({error})", about="x")
        return

    def by_image(x: Tensor) -> Tensor:
        return image_gradient(x, operator, True)

    yield from _twice(bench, by_image, x, "x", _like(x, bench.generator(40)))
    smooth, other = bench.smooth(), bench.smooth(stream=11)
    for name, (kind, value) in bench.learnable().items():
        about = f"{kind} {name}"

        def by_parameter(p: Tensor, name: str = name) -> Tensor:
            return image_gradient(smooth, operator.at(**{name: p}), True)

        try:
            operator.at(**{name: value.clone().requires_grad_()})(x)
        except GradientError:
            yield Finding("skipped", "refuses a gradient", about=about)
            continue
        yield from _twice(bench, by_parameter, value, about, other)


def _twice(
    bench: Bench,
    gradient: Callable[[Tensor], Tensor],
    value: Tensor,
    about: str,
    u: Tensor,
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
        (found,) = torch.autograd.grad(g, free, u)
    except (RuntimeError, TypeError) as raised:
        advice = "avoid once_differentiable, detach and in-place changes in backward"
        told = f"can not be differentiated twice: {raised}"
        yield Finding("failed", told, advice=advice, about=about)
        return
    along = _like(value, bench.generator(41))
    slope = torch.tensor([_product(found, along)], dtype=torch.float64)
    scale = float(value.detach().abs().double().square().mean().sqrt()) or 1.0

    def detached(p: Tensor) -> Tensor:
        with torch.enable_grad():
            return gradient(p.detach().requires_grad_()).detach()

    error, difference, noise = _best(detached, value, [along], [u], slope, scale, bench.epsilon)
    yield _judged(bench, about, slope, difference, error, noise)


def _like(value: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.randn(value.shape, dtype=value.dtype, generator=generator)
    return u.to(value.device)


def _product(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return float((a.double() * b.double()).sum())
