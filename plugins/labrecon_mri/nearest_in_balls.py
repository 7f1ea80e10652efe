"""The nearest sequences whose differences stay in balls: a primal-dual interior-point method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpbtrf, dpbtrs

__all__ = ["Ball", "nearest_in_balls"]

Values = NDArray[np.float64]
#: Certified distance from the nearest sequence at which it ends, relative to the sequence.
ENOUGH = 1e-6
#: Most Newton steps; 10 to 25 are usual, however far the sequence is outside.
ROUNDS = 80
#: Share of the way to the boundary that a step goes.
SHY = 0.99
#: Least product of slack and multiplier relative to the mean, for steps to stay long.
CENTRAL = 1e-2
#: Numbers that are solved for at once.
CHUNK = 1 << 18
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Ball:
    """``|Σ_t c_t k_{j+t}| ≤ limit`` for every row ``j`` of each sequence.

    Attributes:
        stencil: ``c``, such as (−1, 1) for differences.
        limit: positive, a number or one per axis.
        together: whether the length of the vector is meant, or each axis for itself.
    """

    stencil: tuple[float, ...]
    limit: float | Values
    together: bool = True

    def rows(self, k: Values) -> Values:
        """``D k / limit``: (shot, row, axis)."""
        count = k.shape[1] - len(self.stencil) + 1
        total = sum(c * k[:, t : t + count] for t, c in enumerate(self.stencil))
        return np.asarray(total / self.limit)

    def back(self, rows: Values) -> Values:
        """``Dᵀ rows / limit``: (shot, sample, axis)."""
        shots, count, axes = rows.shape
        out = np.zeros((shots, count + len(self.stencil) - 1, axes))
        for t, c in enumerate(self.stencil):
            out[:, t : t + count] += c * (rows / self.limit)
        return out

    def dot(self, a: Values, b: Values) -> Values:
        """Inner product per constraint: (shot, row, 1), or (shot, row, axis)."""
        return (a * b).sum(-1, keepdims=True) if self.together else a * b

    def reach(self, y: Values, d: Values, slack: Values) -> Values:
        """The largest step for each shot with ``|y + step · d| ≤ 1``, slack being ``½(1 − |y|²)``.

        The root of the quadratic, inverted, in the form without cancellation.
        """
        a, b = self.dot(d, d), self.dot(y, d)
        root = np.sqrt(b * b + 2 * a * slack)
        inverse = np.where(b > 0, (b + root) / (2 * slack), a / np.maximum(root - b, TINY))
        return _longest(inverse)

    def add_stiffness(self, band: Values, y: Values, slack: Values, dual: Values) -> None:
        """Add ``Dᵀ(λ + (λ/s) y yᵀ)D`` to the lower band of a matrix, (offset, shot, sample, axis).

        Entry ``[b · axes + q − p, shot, i, p]`` couples axis ``p`` of sample ``i`` with axis ``q``
        of sample ``i + b``.
        """
        axes, count, c = y.shape[-1], y.shape[1], self.stencil
        scale = np.broadcast_to(np.asarray(self.limit), (axes,))
        pairs = [(q, p) for q in range(axes) for p in range(q + 1) if self.together or p == q]
        for q, p in pairs:
            own = 0 if self.together else q
            pull, room = dual[..., own], slack[..., own]
            weight = pull / room * y[..., q] * y[..., p] + (pull if p == q else 0.0)
            weight = weight / (scale[p] * scale[q])
            for b in range(len(c)):
                for t in range(len(c) - b):
                    part = c[t] * c[t + b] * weight
                    band[b * axes + q - p, :, t : t + count, p] += part
                    if b and p < q:
                        band[b * axes + p - q, :, t : t + count, q] += part


def nearest_in_balls(
    target: Values, balls: Sequence[Ball], centre: Values, held: int = 0
) -> Values:
    """The sequences ``k`` that minimise ``½‖k − target‖²`` within all balls.

    Newton's method on ``k − v + Σ λ Dᵀy = 0``, ``λ s = μ`` with ``y = D k / limit`` and
    ``s = ½(1 − |y|²)``, with Mehrotra's predictor and corrector. The matrix is banded, so that a
    step costs as much as a few passes over the data. All iterates are inside, and since the
    objective is strongly convex, ``‖k − k*‖² ≤ 2 Σ λ s + ‖residual‖²`` tells when to end: at 1e-6
    of ``‖k‖``, or where rounding ends it if the target is thousands of times outside.

    Args:
        target: (shot, sample, axis).
        balls: at least one.
        centre: strictly inside, (shot, sample, axis).
        held: how many samples at the start stay as they are in ``centre``.

    Returns:
        (shot, sample, axis), inside to rounding.
    """
    found = np.empty_like(target)
    size = max(1, CHUNK // max(target[0].size, 1))
    for first in range(0, len(target), size):
        part = slice(first, first + size)
        found[part] = _chunk(target[part], balls, centre[part], held)
    return found


def _chunk(target: Values, balls: Sequence[Ball], centre: Values, held: int) -> Values:
    found, left = np.empty_like(target), np.arange(len(target))
    at = _start(target, balls, centre, held)
    for _ in range(ROUNDS):
        found[left] = at.k
        goes_on = ~at.near_enough()
        at, left = at.of(goes_on), left[goes_on]
        if len(left) == 0:
            break
        factor, failed = at.factored()
        if failed is not None:
            # Rounding: this shot has come as near as double precision lets it.
            goes_on = np.arange(len(left)) != failed
            at, left = at.of(goes_on), left[goes_on]
            if len(left) == 0:
                break
            continue
        at.advance(factor)
    return found


def _start(target: Values, balls: Sequence[Ball], centre: Values, held: int) -> _Shots:
    """Most of the way from the centre to the target, as far as all balls let it."""
    way = target - centre
    step = np.ones(len(target))
    for ball in balls:
        rows = ball.rows(centre)
        room = 0.5 * (1 - ball.dot(rows, rows))
        step = np.minimum(step, 0.9 * ball.reach(rows, ball.rows(way), room))
    k = centre + step[:, None, None] * way
    y = [ball.rows(k) for ball in balls]
    slack = [0.5 * (1 - ball.dot(rows, rows)) for ball, rows in zip(balls, y, strict=True)]
    off = (k - target)[:, held:]
    count = sum(s[0].size for s in slack)
    mu = (0.5 * np.square(off).sum((1, 2)) / count + TINY)[:, None, None]
    return _Shots(balls, target, held, k, y, slack, [mu / s for s in slack])


@dataclass
class _Shots:
    """Iterates of several sequences at once: ``slack`` and ``dual`` have an entry per ball."""

    balls: Sequence[Ball]
    target: Values
    held: int
    k: Values
    y: list[Values]
    slack: list[Values]
    dual: list[Values]

    def of(self, chosen: NDArray[np.bool_]) -> _Shots:
        if chosen.all():
            return self
        return _Shots(
            self.balls,
            self.target[chosen],
            self.held,
            self.k[chosen],
            *([rows[chosen] for rows in group] for group in (self.y, self.slack, self.dual)),
        )

    def residual(self) -> Values:
        pulls = zip(self.balls, self.dual, self.y, strict=True)
        r = self.k - self.target + sum(ball.back(dual * y) for ball, dual, y in pulls)
        r[:, : self.held] = 0
        return np.asarray(r)

    def gap(self) -> Values:
        return _total([s * z for s, z in zip(self.slack, self.dual, strict=True)])

    def near_enough(self) -> NDArray[np.bool_]:
        bound = 2 * self.gap() + np.square(self.residual()).sum((1, 2))
        size = np.square(self.k[:, self.held :]).sum((1, 2))
        moved = np.square((self.k - self.target)[:, self.held :]).sum((1, 2))
        return np.asarray(bound <= ENOUGH**2 * np.maximum(size, 1e-6 * moved))

    def factored(self) -> tuple[Values, int | None]:
        """Cholesky factor of ``I + Σ Dᵀ(λ + (λ/s) y yᵀ)D``, or the shot at which it fails."""
        shots, samples, axes = self.k.shape
        band = np.zeros((3 * axes, shots, samples, axes))
        band[0] = 1.0
        for ball, y, s, z in zip(self.balls, self.y, self.slack, self.dual, strict=True):
            ball.add_stiffness(band, y, s, z)
        rows = (samples - self.held) * axes
        wide = min(3 * axes, rows)
        factor, info = dpbtrf(band[:wide, :, self.held :].reshape(wide, shots * rows), lower=1)
        return factor, (info - 1) // rows if info > 0 else None

    def direction(
        self, factor: Values, curve: Values | float, excess: list[Values]
    ) -> tuple[Values, list[Values], list[Values]]:
        """Changes of ``k``, ``y`` and ``λ`` that bring ``λ s`` down by ``excess``."""
        rhs = -self.residual() - curve
        for ball, y, s, e in zip(self.balls, self.y, self.slack, excess, strict=True):
            rhs = rhs + ball.back(y * (e / s))
        free = rhs[:, self.held :]
        solved, _ = dpbtrs(factor, free.reshape(-1), lower=1)
        step = np.zeros_like(self.k)
        step[:, self.held :] = solved.reshape(free.shape)
        moves = [ball.rows(step) for ball in self.balls]
        duals = [
            (z * ball.dot(y, d) - e) / s
            for ball, y, s, z, d, e in zip(
                self.balls, self.y, self.slack, self.dual, moves, excess, strict=True
            )
        ]
        return step, moves, duals

    def slack_after(self, length: Values, moves: list[Values]) -> list[Values]:
        """``s − t y·d − ½ t² |d|²``: unlike ``½(1 − |y|²)``, exact where it is tiny."""
        return [
            s - length * ball.dot(y, d) - 0.5 * length**2 * ball.dot(d, d)
            for ball, y, s, d in zip(self.balls, self.y, self.slack, moves, strict=True)
        ]

    def longest(self, moves: list[Values], duals: list[Values]) -> Values:
        """The step at which a slack or a multiplier reaches 0: (shot, 1, 1)."""
        length = np.full(len(self.k), np.inf)
        parts = zip(self.balls, self.y, self.slack, self.dual, moves, duals, strict=True)
        for ball, y, s, z, d, dz in parts:
            length = np.minimum(length, ball.reach(y, d, s))
            length = np.minimum(length, _longest(-dz / z))
        return np.asarray(length[:, None, None])

    def advance(self, factor: Values) -> None:
        """One step of the method."""
        products = [s * z for s, z in zip(self.slack, self.dual, strict=True)]
        gap = _total(products)
        _, moves, duals = self.direction(factor, 0.0, products)
        length = np.minimum(self.longest(moves, duals), 1.0)
        after = self._products(length, moves, duals)
        count = sum(p[0].size for p in products)
        mu = (np.clip(_total(after) / gap, 0, 1) ** 3 * gap / count)[:, None, None]
        # What the linear model left out, at the length that the predictor could go.
        pulls = zip(self.balls, moves, duals, strict=True)
        curve = sum(ball.back(length**2 * dz * d) for ball, d, dz in pulls)
        excess = [
            p - mu - length**2 * (dz * ball.dot(y, d) + 0.5 * z * ball.dot(d, d))
            for ball, p, y, z, d, dz in zip(
                self.balls, products, self.y, self.dual, moves, duals, strict=True
            )
        ]
        step, moves, duals = self.direction(factor, curve, excess)
        length = self._central(np.minimum(SHY * self.longest(moves, duals), 1.0), moves, duals)
        self.k = self.k + length * step
        self.slack = self.slack_after(length, moves)
        self.dual = [z + length * dz for z, dz in zip(self.dual, duals, strict=True)]
        self.y = [ball.rows(self.k) for ball in self.balls]

    def _products(self, length: Values, moves: list[Values], duals: list[Values]) -> list[Values]:
        slack = self.slack_after(length, moves)
        return [s * (z + length * dz) for s, z, dz in zip(slack, self.dual, duals, strict=True)]

    def _central(self, length: Values, moves: list[Values], duals: list[Values]) -> Values:
        """A shorter step where a product would fall far below the mean of all."""
        for _ in range(20):
            after = self._products(length, moves, duals)
            least = np.minimum.reduce([p.reshape(len(p), -1).min(1) for p in after])
            mean = _total(after) / sum(p[0].size for p in after)
            off = least < CENTRAL * mean
            if not off.any():
                break
            length = np.where(off[:, None, None], 0.7 * length, length)
        return length


def _longest(inverse: Values) -> Values:
    """The longest step of each shot, from the inverse steps that its constraints allow."""
    return np.asarray(1 / np.maximum(inverse.reshape(len(inverse), -1).max(1), TINY))


def _total(groups: list[Values]) -> Values:
    """Sums over all constraints of each shot."""
    return np.asarray(sum(group.sum((1, 2)) for group in groups))
