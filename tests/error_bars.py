"""Do error bars cover the truth as often as they say?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scipy.stats import binom

from labrecon.calibration import Calibration

#: Intervals of so many standard errors, and the share of draws of a Gaussian that they cover.
INTERVALS = {1.0: 0.6827, 1.96: 0.95}
#: Probability that a right error bar fails.
RISK = 1e-3


def scores(
    draw: Callable[[int], Calibration], truth: Sequence[float], draws: int
) -> list[list[float]]:
    """``(estimate − truth) / error`` of each number, in each draw of the noise."""
    found = []
    for seed in range(draws):
        made = draw(seed)
        assert made.status == "converged", made.statement
        rows = zip(made.estimates, truth, strict=True)
        found.append([(e.value - t) / e.error for e, t in rows])
    return found


def shares(found: list[list[float]]) -> dict[float, list[float]]:
    """Share of draws in each interval, of each number."""
    columns = list(zip(*found, strict=True))
    return {
        width: [sum(abs(z) <= width for z in column) / len(column) for column in columns]
        for width in INTERVALS
    }


def allowed(width: float, draws: int) -> tuple[float, float]:
    """Shares that a right error bar has but for `RISK`."""
    low, high = binom.interval(1 - RISK, draws, INTERVALS[width])
    return low / draws, high / draws


def assert_covered(found: list[list[float]]) -> None:
    """The shares are within binomial bounds of what they should be."""
    for width, values in shares(found).items():
        low, high = allowed(width, len(found))
        for share in values:
            assert low <= share <= high, f"±{width} standard errors cover {share:.0%}"
