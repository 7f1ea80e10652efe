"""DCEA: photon counts as a sparse sum of learned atoms, in the logarithm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from labrecon.networks.unrolled import Unrolled
from labrecon.noise import LogPoisson
from labrecon.operator import Operator
from labrecon.operators.convolutional_dictionary import ConvolutionalDictionary
from labrecon.operators.pointwise import Identity
from labrecon.options import flag, number, whole
from labrecon.priors.one_sided import OneSided
from labrecon.problem import Problem, SolverError
from labrecon.reconstructor import Reconstruction, Reconstructor
from labrecon.solvers.proximal import ISTA
from labrecon.space import Space

__all__ = ["DCEA", "make_dcea"]


class DCEA(Reconstructor):
    """Deep convolutional exponential auto-encoder (Tolooshams, Song, Temereanca and Ba 2020).

    Counts are ``y ~ Poisson(exp(H s))`` with a convolutional dictionary ``H`` and sparse codes
    ``s ≥ 0``. The encoder is ``T`` steps of ISTA, ``s ← relu(s + Wₑᵀ elu(y − exp(H s)) − b)``, the
    decoder ``exp(W_d s)``. Tied (DCEA-C), ``Wₑ = W_d = H`` is all that is learned beside ``b``, and
    the network is a sparse coding of its data, which can be learned without truth; untied
    (DCEA-UC), it denoises better. With a stride above 1 the image is seen at all offsets of the
    stride, mirrored at its rim, and the logarithms are averaged.

    It denoises: the operator of the problem is an `Identity` of real images. It knows no weights.

    Args:
        atoms: ``H (atom, *size)``, of one to three axes; leading axes of images are treated one
            by one.
        bias: ``b (atom)``.
        depth: ``T``.
        stride: of the dictionary, along each axis.
        clip: ``α`` of the elu, the counts of the brightest pixels or so; None: no elu.
        analysis: ``Wₑ``, of the shape of ``atoms``; None: tied.
        decoder: ``W_d``, likewise.
        gain: counts per unit of the data.

    Raises:
        SolverError: shapes do not agree, or a number is wrong.
    """

    def __init__(
        self,
        atoms: Tensor,
        bias: Tensor,
        *,
        depth: int = 15,
        stride: int = 1,
        clip: float | None = 4.0,
        analysis: Tensor | None = None,
        decoder: Tensor | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        axes = atoms.ndim - 1
        if not 1 <= axes <= 3 or bias.shape != atoms.shape[:1]:
            raise SolverError(
                "DCEA needs atoms (atom, *size) of one to three axes and a bias (atom), got "
                f"shapes {tuple(atoms.shape)} and {tuple(bias.shape)}"
            )
        for name, given in (("analysis", analysis), ("decoder", decoder)):
            if given is not None and given.shape != atoms.shape:
                raise SolverError(
                    f"DCEA: {name} has the shape of the atoms, {tuple(atoms.shape)}, got "
                    f"{tuple(given.shape)}"
                )
        self.axes = axes
        self.stride = whole("DCEA: stride", stride, error=SolverError)
        self.clip = None if clip is None else number("DCEA: clip", clip, above=0, error=SolverError)
        self.gain = number("DCEA: gain", gain, above=0, error=SolverError)
        self.atoms = nn.Parameter(atoms.clone())
        self.analysis = None if analysis is None else nn.Parameter(analysis.clone())
        self.decoder = None if decoder is None else nn.Parameter(decoder.clone())
        # Step sizes are in the scale of the atoms.
        self.encoder = Unrolled(ISTA(prior=OneSided(bias, axes), step_size=1.0), depth)

    def reconstruct(
        self, problem: Problem, x0: Tensor | None = None, *, trace: bool = False
    ) -> Reconstruction:
        """The mean counts over the gain; ``x0`` has no say."""
        self.check(problem)
        shape = problem.operator.domain.shape[-self.axes :]
        images = self.gain * problem.data.reshape(-1, *shape)
        coded = self.coding_problem(images)
        made = self.encoder.reconstruct(coded, trace=trace)

        def decoded(codes: Tensor) -> Tensor:
            mean = self._decoded(coded, codes, shape).exp() / self.gain
            return mean.reshape(problem.data.shape)

        steps = tuple(decoded(codes) for codes in made.trace)
        return Reconstruction(decoded(made.x), told=made.told, trace=steps)

    def check(self, problem: Problem) -> None:
        """Raise `SolverError` where the problem is no denoising of real images without weights."""
        operator = problem.operator
        domain = operator.domain
        if not isinstance(operator, Identity) or domain.dtype.is_complex:
            raise SolverError(
                f"DCEA denoises counts: its operator is an Identity of real images, got "
                f"{operator.name} of {domain.dtype}"
            )
        if problem.weights is not None:
            raise SolverError("DCEA knows no weights: give bad pixels a plausible count")
        least = max(max(self.atoms.shape[1:]), 0 if self.stride == 1 else self.stride * 3)
        if domain.ndim < self.axes or min(domain.shape[-self.axes :]) < least:
            raise SolverError(
                f"DCEA with atoms of {tuple(self.atoms.shape[1:])} every {self.stride} pixels "
                f"needs images of {least} pixels at least, got {domain.shape}"
            )

    def coding_problem(self, counts: Tensor) -> Problem:
        """The sparse coding of images ``(batch, *image)``, seen at all offsets ``(batch, offset)``.

        With `LogPoisson` without a bound as its noise it is convex, and any solver's.
        """
        seen = torch.stack(
            [_padded(counts, pads) for pads in self._pads(tuple(counts.shape[1:]))], 1
        )
        space = Space(tuple(seen.shape[2:]), seen.dtype)
        back = None if self.analysis is None else self._dictionary(space, self.analysis).adjoint
        dictionary = self._dictionary(space, self.atoms)
        return Problem(dictionary, seen, LogPoisson(clip=self.clip), back=back)

    def _dictionary(self, space: Space, atoms: Tensor) -> Operator:
        # Gradients reach the atoms through `at`.
        made = ConvolutionalDictionary(space, atoms, self.stride)
        return made.at(atoms=atoms)

    def _decoded(self, coded: Problem, codes: Tensor, shape: tuple[int, ...]) -> Tensor:
        dictionary = coded.operator
        if self.decoder is not None:
            dictionary = self._dictionary(dictionary.range, self.decoder)
        logs = dictionary(codes)
        kept = []
        for log, pads in zip(logs.unbind(1), self._pads(shape), strict=True):
            for axis, ((before, _), size) in enumerate(zip(pads, shape, strict=True)):
                log = log.narrow(axis - self.axes, before, size)
            kept.append(log)
        return torch.stack(kept).mean(0)

    def _pads(self, shape: tuple[int, ...]) -> Iterator[list[tuple[int, int]]]:
        """Pixels to add before and behind along each axis, for each offset of the stride."""
        s = self.stride
        if s == 1:
            yield [(0, 0)] * len(shape)
            return
        # One stride on either side, and what is lacking to a whole number of strides.
        lacking = [-(n + s - k) % s for n, k in zip(shape, self.atoms.shape[1:], strict=True)]
        for shifts in itertools.product(range(s), repeat=len(shape)):
            yield [(s - i, s + more + i) for i, more in zip(shifts, lacking, strict=True)]


def _padded(images: Tensor, pads: list[tuple[int, int]]) -> Tensor:
    if not any(map(any, pads)):
        return images
    # `pad` counts axes from the last, and mirrors images with a channel axis only.
    flat = [n for pair in reversed(pads) for n in pair]
    return nn.functional.pad(images.unsqueeze(1), flat, mode="reflect").squeeze(1)


def make_dcea(
    problem: Problem,
    *,
    atoms: int = 64,
    size: int = 9,
    depth: int = 15,
    stride: int = 4,
    weight: float = 0.1,
    clip: float = 4.0,
    tied: bool = True,
    gain: float = 1.0,
    scale: float = 1.0,
    seed: int = 0,
) -> DCEA:
    """DCEA for counts of this problem's size, from random atoms.

    Args:
        problem: an example, whose operator is an `Identity`.
        atoms: how many.
        size: of the atoms along each axis.
        depth: steps of the encoder.
        stride: of the dictionary.
        weight: ``b`` before training.
        clip: counts of the brightest pixels or so.
        tied: DCEA-C, or DCEA-UC with its own encoder and decoder.
        gain: counts per unit of the data.
        scale: not used: counts have their own.
        seed: of the first atoms.

    Raises:
        SolverError: a number is wrong, or the operator is no `Identity`.
    """
    axes = min(2, problem.operator.domain.ndim)
    count = whole("DCEA: atoms", atoms, error=SolverError)
    size = whole("DCEA: size", size, error=SolverError)
    stride = whole("DCEA: stride", stride, error=SolverError)
    clip = number("DCEA: clip", clip, above=0, error=SolverError)
    weight = number("DCEA: weight", weight, error=SolverError)
    generator = torch.Generator().manual_seed(seed)
    dtype = problem.operator.domain.real_dtype
    start = torch.randn(count, *(size,) * axes, generator=generator, dtype=dtype)
    start = start / start.flatten(1).norm(dim=1).reshape(-1, *(1,) * axes)
    # The curvature of exp at counts of `clip`, in each of the atoms that cover a pixel.
    start = start / math.sqrt(clip * count * math.ceil(size / stride) ** axes)
    untied = not flag("DCEA: tied", tied, error=SolverError)
    network = DCEA(
        start,
        torch.full((count,), weight, dtype=dtype),
        depth=depth,
        stride=stride,
        clip=clip,
        gain=gain,
        analysis=start if untied else None,
        decoder=start if untied else None,
    )
    network.check(problem)
    return network
