"""Checks of noise: samples and likelihood are of one distribution."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from labrecon.noise import Noise, NoiseError
from labrecon.testing.bench import Bench, check
from labrecon.testing.finding import Finding

#: Bias in standard deviations that is worth knowing, and that is wrong; relative error of
#: variances that is wrong.
BIAS, BIASED, SCALE = 0.05, 0.15, 0.15
_SAMPLES = 4_000_000


@check("noise", instrument=True)
def noise(bench: Bench) -> Iterator[Finding]:
    """What `sample` draws is what `nll` judges: the mean, the variance, the scale."""
    x = bench.point()
    with torch.no_grad():
        clean = bench.operator(x)
    yield from check_noise(bench.noise, clean, bench.generator(100))


def check_noise(noise: Noise, clean: Tensor, generator: torch.Generator) -> Iterator[Finding]:
    """What is wrong with a noise model, judged by many samples of one clean signal."""
    n = min(2000, max(64, _SAMPLES // clean.numel()))
    many = clean.expand(n, *clean.shape)
    with torch.no_grad():
        y = noise.sample(many, generator)
        again = noise.sample(clean, torch.Generator().manual_seed(1))
        same = noise.sample(clean, torch.Generator().manual_seed(1))
    if y.shape != many.shape or y.dtype != clean.dtype or not bool(torch.isfinite(y).all()):
        yield Finding("failed", f"samples are {tuple(y.shape)} {y.dtype}, or not finite",
                      advice="return the shape and dtype of `clean`")  # fmt: skip
        return
    if not torch.equal(again, same):
        yield Finding("failed", "one seed gives different samples",
                      advice="draw from the generator given")  # fmt: skip
        return
    if torch.equal(y[0], y[1]):
        yield Finding("failed", "two samples are the same", advice="draw anew for each element")
        return
    with torch.no_grad():
        score = noise.score(many, y)
    yield _score_is_derivative(noise, clean, y[0])
    yield _optimum(score)
    yield from _variance(noise, clean, y, score)


def _score_is_derivative(noise: Noise, clean: Tensor, y: Tensor) -> Finding:
    with torch.no_grad():
        stated = noise.score(clean, y)
    derived = Noise.score(noise, clean, y).detach()
    error = float(torch.linalg.vector_norm(stated - derived))
    error /= max(float(torch.linalg.vector_norm(derived)), 1e-30)
    tolerance = 1e-3
    if not error <= tolerance:
        return Finding("failed", "score is not the derivative of density", error, tolerance,
                       "mend it, or delete the override", "score")  # fmt: skip
    return Finding("passed", "score is the derivative of density", error, tolerance, about="score")


def _parts(x: Tensor) -> Tensor:
    return (torch.view_as_real(x) if x.is_complex() else x).double()


def _optimum(score: Tensor) -> Finding:
    """How far the likelihood's optimum is from the clean signal, in standard deviations."""
    s = _parts(score)
    n = len(s)
    # Pooled over samples: at low counts most of them see nothing in so few draws.
    spread = float(s.var(0).sum())
    shift = float(s.mean(0).square().sum())
    bias = max(0.0, shift / spread - 1 / n) ** 0.5 if spread > 0 else 0.0
    # The mean of χ² with so many samples scatters, too.
    statistical = 5 * (2 / max(s[0].numel(), 1)) ** 0.25 / n**0.5
    if bias > max(BIASED, statistical):
        return Finding(
            "failed",
            "nll is not smallest at the signal that the samples come from",
            bias,
            max(BIASED, statistical),
            "sample and density must describe one distribution: compare offsets, backgrounds, "
            "units (counts or logarithms)",
            "mean",
        )
    if bias > max(BIAS, statistical):
        return Finding(
            "warned",
            "nll is smallest a little beside the true signal (in standard deviations)",
            bias,
            max(BIAS, statistical),
            "usual for approximations at low counts; else compare offsets and backgrounds",
            "mean",
        )
    told = "nll is smallest at the true signal (in standard deviations)"
    return Finding("passed", told, bias, max(BIAS, statistical), about="mean")


def _variance(noise: Noise, clean: Tensor, y: Tensor, score: Tensor) -> Iterator[Finding]:
    sampled = _parts(y).var(0)
    information = _parts(score).square().mean(0)
    if not bool((sampled > 0).any()) or not bool((information > 0).any()):
        yield Finding("failed", "samples do not scatter", about="variance",
                      advice="draw noise in sample")  # fmt: skip
        return
    # Exact for Gaussian noise and for many photons; elsewhere the product is above 1.
    product = float((sampled * information).mean())
    try:
        with torch.no_grad():
            stated = noise.variance(clean)
    except NoiseError:
        stated = None
    if stated is not None:
        wide = stated.double()
        wide = wide[..., None].expand(sampled.shape) if clean.is_complex() else wide
        ratio = float(sampled.sum() / wide.sum())
        # Not of the same samples: at low counts those that scatter most count most, twice.
        product = float((wide * information).mean())
        if abs(ratio - 1) > SCALE:
            yield Finding(
                "failed",
                "samples scatter otherwise than variance says (ratio)",
                ratio,
                1 + SCALE,
                "a factor in one of the two: σ and σ², counts and gain, real and imaginary part",
                "variance",
            )
            return
        yield Finding("passed", "samples scatter as variance says (ratio)", ratio, 1 + SCALE,
                      about="variance")  # fmt: skip
    if not 1 - 2 * SCALE < product < 1 + 2 * SCALE:
        yield Finding(
            "failed",
            "nll is scaled otherwise than the samples scatter (E[score²] × variance)",
            product,
            1 + 2 * SCALE,
            "nll should be −log of the probability: |p − y|²/2σ² for Gaussian noise",
            "scale",
        )
    else:
        yield Finding("passed", "nll is scaled as the samples scatter (E[score²] × variance)",
                      product, 1 + 2 * SCALE, about="scale")  # fmt: skip
