"""Whether an instrument drifts in a batch: a trend of the residuals from scan to scan."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

__all__ = ["FALSE_ALARMS", "FEWEST", "LIMIT", "Alarm", "Watched", "find_drift", "trend"]

#: Finished scans below which nothing is said.
FEWEST = 10
#: Standard deviations of Mann and Kendall's statistic beyond which there is an alarm, and the
#: probability that a batch without drift, of up to 10,000 scans, is ever beyond it in any of three
#: statistics, looked at after each scan (by simulation; tests/batch/test_drift.py).
LIMIT, FALSE_ALARMS = 4.25, 0.01
#: Names of what is watched, as `labrecon.batch.told` has them; the residual only without χ².
WATCHED = ("χ²", "residual σ", "lag-1 / bound")
#: Robust standard deviations at which values are cut off to find where a change began.
CUT = 3.0
#: Scans among which the begin of a change is searched.
CANDIDATES = 400
#: Points of a plot at most.
POINTS = 400

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Alarm:
    """A statistic that drifts.

    Attributes:
        statistic: its name.
        scan: the one with which it was certain.
        number: of that scan in the order of acquisition, from 1.
        since: the one with which it probably began.
        since_number: its number.
        before: median of the statistic before that.
        after: and over the last tenth of the scans since.
        z: the trend in standard deviations.
        text: in words, with what to do.
    """

    statistic: str
    scan: str
    number: int
    since: str
    since_number: int
    before: float
    after: float
    z: float
    text: str


@dataclass(frozen=True)
class Watched:
    """The statistics of the scans of one recipe, in the order in which they were acquired.

    Attributes:
        title: of the reconstruction.
        scans: how many there are.
        enough: whether they suffice to say anything.
        alarms: what drifts; nothing for most.
        curves: values by statistic, as shown: number of the scan, value, and the trend ``z``.
    """

    title: str
    scans: int
    enough: bool
    alarms: tuple[Alarm, ...]
    curves: Mapping[str, Mapping[str, list[float]]]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def find_drift(rows: Sequence[Row]) -> list[Watched]:
    """Whether residuals of a batch become larger, smaller or less white from scan to scan.

    The test of Mann 1945 and Kendall, after each scan: ``z = S / √Var S``, where ``S`` counts the
    pairs of scans of which the later has more, minus those of which it has less. It knows values by
    their order alone, so that one outlier is one scan and no more, whatever its value. The scans
    that came before are the reference; there is an alarm where ``|z|`` was ever beyond `LIMIT`.
    Scans must be independent where nothing drifts: that the sample changed is a change as well.

    Args:
        rows: of the batch, with ``acquired`` (any number that grows with the time) and ``recipe``;
            those that are not done count for nothing.

    Returns:
        One entry for each recipe, in the order of the first scan.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["acquired"], row["id"])):
        if row["state"] == "done":
            groups.setdefault((row["recipe"], row["title"]), []).append(row)
    return [_watched(title, group) for (_, title), group in groups.items()]


def _watched(title: str, rows: list[Row]) -> Watched:
    enough = len(rows) >= FEWEST
    alarms, curves = [], {}
    for name, numbers, values in _series(rows) if enough else ():
        z = trend(values)
        curves[name] = _thinned(numbers, values, z)
        first = next((i for i, one in enumerate(z) if abs(one) > LIMIT), None)
        if first is not None:
            names = [(i + 1, rows[i]["name"]) for i in numbers]
            alarms.append(_alarm(name, names, values, z, first))
    return Watched(title, len(rows), enough, tuple(alarms), curves)


def _series(rows: list[Row]) -> Iterator[tuple[str, list[int], list[float]]]:
    """Name, numbers of the scans and values, for each statistic that enough scans have."""
    seen = False
    for name in WATCHED:
        found = [(i, _number(row["numbers"].get(name))) for i, row in enumerate(rows)]
        kept = [(i, value) for i, value in found if value is not None]
        # χ² says it better than σ: it knows what each scan's noise should be.
        if len(kept) < FEWEST or (name == "residual σ" and seen):
            continue
        seen = True
        yield name, [i for i, _ in kept], [value for _, value in kept]


def trend(values: Sequence[float]) -> list[float]:
    """Mann and Kendall's ``z`` of the first ``n`` values, for each ``n``; 0 for fewer than ten.

    Without a trend ``S`` is a sum of independent terms, the ranks of each value among those before,
    of variance ``(i² − 1)/3``. Ties count as half, which makes ``z`` smaller.

    Example:
        >>> round(trend(range(12))[-1], 1)
        4.5
    """
    before: list[float] = []
    total = variance = 0.0
    z = []
    for i, value in enumerate(values, start=1):
        below, upto = bisect.bisect_left(before, value), bisect.bisect_right(before, value)
        total += below - (i - 1 - upto)
        variance += (i * i - 1) / 3
        before.insert(upto, value)
        z.append(total / math.sqrt(variance) if i >= FEWEST else 0.0)
    return z


def _alarm(
    name: str, names: list[tuple[int, str]], values: list[float], z: list[float], first: int
) -> Alarm:
    begin = _begin(values)
    tail = max(3, (len(values) - begin) // 10)
    before, after = median(values[: max(begin, 3)]), median(values[-tail:])
    now = z[-1] if abs(z[-1]) > LIMIT else z[first]
    way = "risen" if now > 0 else "fallen"
    (number, since), (certain, scan) = names[begin], names[first]
    text = (
        f"{name} has {way} since {since} (scan {number} of {names[-1][0]}), from {before:.3g} to "
        f"{after:.3g}; certain with {scan}. The instrument drifts, or what "
        "it measures has changed: calibrate it anew ([calibrate] of a recipe finds centre or "
        "shifts from the data); a trained network follows by `labrecon adapt RUN --scans …`"
    )
    return Alarm(name, scan, certain, since, number, before, after, now, text)


def _begin(values: list[float]) -> int:
    """Where a change began: a jump or a ramp fitted to the values, outliers cut off."""
    y = np.asarray(values)
    middle = np.median(y)
    scale = 1.4826 * np.median(np.abs(y - middle)) or float(np.abs(y - middle).mean()) or 1.0
    y = np.clip((y - middle) / scale, -CUT, CUT)
    n, t = len(y), np.arange(len(y), dtype=np.float64)
    best, found = math.inf, 0
    for k in np.unique(np.linspace(0, n - 3, min(CANDIDATES, n - 2)).round().astype(int)):
        ramp = np.maximum(t - k, 0)
        for shape in (ramp, (t >= k).astype(np.float64)) if k else (ramp,):
            shape = shape - shape.mean()
            left = -(float(shape @ y) ** 2) / float(shape @ shape)
            if left < best:
                best, found = left, int(k)
    return found


def _thinned(numbers: list[int], values: list[float], z: list[float]) -> dict[str, list[float]]:
    """Medians of neighbours, so that a page stays small."""
    size = -(-len(values) // POINTS)
    parts = [slice(i, i + size) for i in range(0, len(values), size)]
    return {
        "scan": [float(numbers[part][-1] + 1) for part in parts],
        "value": [float(median(values[part])) for part in parts],
        "z": [z[part][-1] for part in parts],
    }


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
