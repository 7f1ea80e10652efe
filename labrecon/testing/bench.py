"""The bench: what is under test, and the probes put through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon.instrument import Instrument
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.testing.finding import Finding

__all__ = ["Bench", "BuildError", "Check", "check", "found_any", "instrument_of", "relative"]


class BuildError(RuntimeError):
    """The operator under test can not be built."""


Body = Callable[["Bench"], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """A named question to an operator or an instrument.

    Attributes:
        name: as on the command line.
        title: what it asks, in a line.
        body: yields findings.
        instrument: whether it needs an instrument, or does with an operator.
    """

    name: str
    title: str
    body: Body
    instrument: bool = False

    def __str__(self) -> str:
        return self.name


def check(name: str, *, instrument: bool = False) -> Callable[[Body], Check]:
    """Make a check of a function; its title is the first line of the docstring."""

    def make(body: Body) -> Check:
        title = (body.__doc__ or "").strip().partition("\n")[0].replace("`", "")
        return Check(name, title, body, instrument)

    return make


@dataclass
class Bench:
    """What is under test.

    Attributes:
        make: builds a fresh operator.
        instrument: where it comes from, if it is one's.
        geometry: of the instrument.
        device: where to compute.
        seed: of all probes.
        scan: a file that the instrument should read.
        calls: how often the check of memory calls the operator.
        points: ``points(n, generator)`` gives inputs ``(n, *domain.shape)`` of an operator that is
            not defined for white noise.
        spawn: whether pickling is tried in another process, too, which takes some seconds.
    """

    make: Callable[[], Operator]
    instrument: Instrument | None = None
    geometry: Any = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    scan: Path | None = None
    calls: int = 200
    points: Callable[[int, torch.Generator], Tensor] | None = None
    spawn: bool = False

    @cached_property
    def operator(self) -> Operator:
        """The operator that checks share: they leave it as it was.

        Raises:
            BuildError: it can not be built.
        """
        return self.fresh()

    @cached_property
    def noise(self) -> Noise:
        """The instrument's noise."""
        assert self.instrument is not None
        return self.instrument.noise(self.geometry).to(self.device)

    def fresh(self) -> Operator:
        """An operator of one's own.

        Raises:
            BuildError: it can not be built.
        """
        try:
            return self.make().to(self.device)
        except Exception as error:
            raise BuildError(f"{type(error).__name__}: {error}") from error

    def generator(self, stream: int = 0) -> torch.Generator:
        """A generator of its own for each stream of probes."""
        return torch.Generator().manual_seed(1000 * self.seed + stream)

    def random_x(self, *batch: int, stream: int = 1) -> Tensor:
        """White noise in the domain."""
        return self.operator.domain.random(
            *batch, generator=self.generator(stream), device=self.device
        )

    def random_y(self, *batch: int, stream: int = 2) -> Tensor:
        """White noise in the range."""
        return self.operator.range.random(
            *batch, generator=self.generator(stream), device=self.device
        )

    def point(self, *batch: int, stream: int = 3) -> Tensor:
        """Where derivatives are taken: sample objects if there are any, else white noise."""
        n = max(1, int(torch.Size(batch).numel()))
        if self.points is not None:
            x = self.points(n, self.generator(stream)).to(self.device)
        elif self.instrument is not None:
            x = self.instrument.objects(self.geometry, n, self.generator(stream)).to(self.device)
        else:
            return self.random_x(*batch, stream=stream)
        return x.reshape(*batch, *self.operator.domain.shape)

    def smooth(self, stream: int = 10) -> Tensor:
        """A sample object, blurred along its longer axes: σ is a sixteenth of the axis."""
        x = self.point(stream=stream)
        for axis, n in enumerate(x.shape):
            if self.instrument is not None and n >= 16:
                for _ in range(2 * (n // 16) ** 2):
                    x = 0.5 * x + 0.25 * (x.roll(1, axis) + x.roll(-1, axis))
        return x

    def residuals(self) -> list[Tensor]:
        """What data of smooth objects differ by: how a loss weights the data when learning."""
        with torch.no_grad():
            y = [self.operator(self.smooth(stream=s)) for s in (12, 13, 14, 15)]
        return [y[0] - y[1], y[2] - y[3], y[0] - y[2]]

    def simulate(self, stream: int) -> Any:
        """What the instrument gives as a simulated scan, once its operator can be built."""
        assert self.instrument is not None
        assert self.operator is not None
        return self.instrument.simulate(self.geometry, self.generator(stream))

    def learnable(self) -> dict[str, tuple[str, Tensor]]:
        """Designs and nuisances: "design" or "nuisance" and the value, by dotted name."""
        found = {}
        for kind, names in (
            ("design", self.operator.designs),
            ("nuisance", self.operator.nuisances),
        ):
            for name in names:
                found[name] = (kind, self.operator.get_parameter(name).detach().clone())
        return found

    @property
    def epsilon(self) -> float:
        """Rounding of the operator's range."""
        return float(torch.finfo(self.operator.range.real_dtype).eps)

    @property
    def exact(self) -> float:
        """Relative error up to which two computations of one thing are equal."""
        return min(300 * self.epsilon, 1e-2)

    @cached_property
    def unmatched(self) -> str:
        """What to say where an adjoint that is not the transpose explains a failure."""
        operator = self.operator
        if not operator.linear:
            return ""
        x, y = self.random_x(stream=18), self.random_y(stream=19)
        with torch.no_grad():
            ax = operator(x).to(torch.complex128)
            gap = torch.vdot(ax.flatten(), y.to(ax).flatten()) - torch.vdot(
                x.to(ax).flatten(), operator.adjoint(y).to(ax).flatten()
            )
        size = float(ax.abs().square().sum().sqrt())
        matched = abs(float(gap.real)) <= 1e-3 * size
        return "" if matched else "the adjoint is not matched: see the check adjoint first"

    @property
    def is_complex(self) -> bool:
        """Whether the map is linear over complex numbers: ``A(ix) = iA(x)``."""
        operator = self.operator
        if not (operator.domain.dtype.is_complex and operator.range.dtype.is_complex):
            return False
        x = self.random_x(stream=17)
        with torch.no_grad():
            return relative(operator(1j * x), 1j * operator(x)) <= 1e-3


def instrument_of(bench: Bench) -> Instrument:
    """The instrument of a check that is one of instruments."""
    assert bench.instrument is not None
    return bench.instrument


def relative(found: Tensor, expected: Tensor) -> float:
    """``‖found − expected‖ / ‖expected‖``; NaN and infinity count as infinite."""
    wide = torch.complex128 if expected.is_complex() or found.is_complex() else torch.float64
    a, b = found.detach().to("cpu", wide), expected.detach().to("cpu", wide)
    if a.shape != b.shape:
        return float("inf")
    error = float(torch.linalg.vector_norm(a - b))
    size = float(torch.linalg.vector_norm(b))
    if error == 0.0:
        return 0.0
    value = error / size if size > 0 else float("inf")
    return value if value == value else float("inf")


def found_any(findings: Iterable[Finding], otherwise: Finding) -> Iterator[Finding]:
    """The findings, or one that says that there was nothing to look at."""
    empty = True
    for finding in findings:
        empty = False
        yield finding
    if empty:
        yield otherwise
