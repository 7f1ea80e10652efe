"""The drift alarm: false alarms within their bound, what drifts found, outliers ignored."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from labrecon.batch.drift import FALSE_ALARMS, LIMIT, find_drift, trend
from labrecon.batch.manifest import FILE, Manifest, now
from labrecon.batch.view import status
from labrecon.report.gallery import write_data


def night(chi2, *, lag=None, recipe="a", shuffled=None, **extra):
    """Rows of finished scans, in the order of acquisition."""
    rows = []
    for i, value in enumerate(chi2):
        numbers = {"χ²": None if value is None else float(value), "residual σ": 1.0, **extra}
        if lag is not None:
            numbers["lag-1 / bound"] = float(lag[i])
        told = {"id": i, "name": f"scan_{i:03}", "state": "done", "title": "FISTA with TV"}
        rows.append({**told, "recipe": recipe, "acquired": 1000 * i, "numbers": numbers})
    if shuffled is not None:
        shuffled.shuffle(rows)
    return rows


def alarms(rows):
    return [alarm for group in find_drift(rows) for alarm in group.alarms]


def test_the_statistic_is_kendalls():
    rng = np.random.default_rng(0)
    y = rng.normal(size=57) + np.linspace(0, 1, 57)
    z = trend(list(y))
    for n in (10, 31, 57):
        tau = stats.kendalltau(np.arange(n), y[:n]).statistic
        s = tau * n * (n - 1) / 2
        assert z[n - 1] == pytest.approx(s / math.sqrt(n * (n - 1) * (2 * n + 5) / 18))
    assert z[:9] == [0.0] * 9


def test_stationary_nights_have_few_false_alarms():
    """600 nights of 150 scans with three statistics, heavy tails, looked at after each scan."""
    rng = np.random.default_rng(1)
    loud = 0
    for _ in range(600):
        values = rng.standard_t(2, size=(3, 150))
        loud += any(abs(z) > LIMIT for series in values for z in trend(list(series)))
    # 0.1 % are expected; with a limit of 3.5 it would be 2.7 %.
    assert loud <= FALSE_ALARMS * 600


@pytest.mark.slow
def test_the_bound_holds_for_ten_thousand_scans():
    """Without a trend, the ranks of scans among those before are independent and uniform."""
    rng = np.random.default_rng(2)
    count, length = 20_000, 10_000
    total, variance = np.zeros(count), 0.0
    largest = np.zeros(count)
    for i in range(1, length + 1):
        total += 2 * rng.integers(0, i, count) - (i - 1)
        variance += (i * i - 1) / 3
        if i >= 10:
            largest = np.maximum(largest, np.abs(total) / math.sqrt(variance))
    assert 3 * (largest > LIMIT).mean() < FALSE_ALARMS
    # And it is not far below: a tighter one would miss drifts.
    assert 3 * (largest > LIMIT - 0.5).mean() > FALSE_ALARMS


def test_a_slow_drift_of_one_sigma_is_found():
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(40):
        chi2 = np.exp(rng.normal(0, 0.05, 400) + np.linspace(0, 0.05, 400))
        found += bool(alarms(night(chi2)))
    assert found >= 34


def test_the_scan_is_told_since_which_it_drifts():
    rng = np.random.default_rng(4)
    jump = rng.normal(1.0, 0.05, 120)
    jump[70:] += 0.15
    [alarm] = alarms(night(jump, shuffled=rng))
    assert abs(alarm.since_number - 71) <= 3
    assert 71 < alarm.number <= 110
    assert alarm.before == pytest.approx(1.0, abs=0.03)
    assert alarm.after == pytest.approx(1.15, abs=0.06)
    assert alarm.text.startswith(f"χ² has risen since {alarm.since} (scan {alarm.since_number} of")
    assert "labrecon adapt" in alarm.text
    assert "[calibrate]" in alarm.text

    ramp = rng.normal(1.0, 0.05, 200)
    ramp[100:] -= np.linspace(0, 0.3, 100)
    [alarm] = alarms(night(ramp))
    assert "has fallen" in alarm.text
    assert 85 <= alarm.since_number <= 130


@pytest.mark.parametrize("value", [50.0, 1e12, 1e-9])
@pytest.mark.parametrize("place", [0, 30, 59])
def test_an_outlier_is_no_drift(value, place):
    chi2 = np.random.default_rng(5).normal(1.0, 0.05, 60)
    assert alarms(night(chi2)) == []
    chi2[place] = value
    assert alarms(night(chi2)) == []


def test_outliers_do_not_hide_a_drift():
    rng = np.random.default_rng(6)
    chi2 = rng.normal(1.0, 0.05, 100) + np.linspace(0, 0.3, 100)
    chi2[::9] = 1e6
    assert alarms(night(chi2))


def test_outliers_do_not_move_the_begin():
    chi2 = np.random.default_rng(11).normal(1.0, 0.05, 120)
    chi2[70:] += 0.2
    chi2[5:12] = 40.0
    [alarm] = alarms(night(chi2))
    assert abs(alarm.since_number - 71) <= 6


def test_short_nights_are_too_few():
    [group] = find_drift(night(np.linspace(1, 2, 9)))
    assert (group.enough, group.scans, group.alarms, group.curves) == (False, 9, (), {})
    [group] = find_drift(night(np.linspace(1, 2, 12)))
    assert group.enough
    # Twelve in perfect order have a probability of 1 in 12! to be so by chance.
    assert [a.statistic for a in group.alarms] == ["χ²"]
    assert find_drift([]) == []


def test_recipes_are_watched_apart():
    rng = np.random.default_rng(7)
    first = night(rng.normal(1.0, 0.05, 60))
    second = night(rng.normal(3.0, 0.05, 60), recipe="b")
    for row in second:
        row["acquired"] += 10**6
    assert [g.scans for g in find_drift([*first, *second])] == [60, 60]
    assert alarms([*first, *second]) == []
    for row in second:
        row["recipe"] = "a"
    assert alarms([*first, *second])


def test_what_counts_for_nothing():
    rising = night(np.linspace(1, 2, 40))
    for row in rising:
        row["state"] = "failed"
    assert find_drift(rising) == []
    odd = night([None] * 40, **{"residual σ": 1.0, "lag-1 / bound": "nan"})
    [group] = find_drift(odd)
    # Copies of one scan: nothing but ties.
    assert list(group.curves) == ["residual σ"]
    assert set(group.curves["residual σ"]["z"]) == {0.0}
    assert group.alarms == ()


def test_whiteness_and_the_residual_are_watched():
    rng = np.random.default_rng(8)
    quiet = rng.normal(1.0, 0.05, 100)
    lag = rng.normal(1.0, 0.2, 100) + np.linspace(0, 2, 100)
    [alarm] = alarms(night(quiet, lag=lag))
    assert alarm.statistic == "lag-1 / bound"
    rows = night([None] * 100)
    for i, row in enumerate(rows):
        row["numbers"]["residual σ"] = 1.0 + 0.01 * i
    [alarm] = alarms(rows)
    assert alarm.statistic == "residual σ"


def test_the_page_has_a_plot_with_the_alarm(tmp_path):
    rng = np.random.default_rng(9)
    rows = night(rng.normal(1.0, 0.05, 60) + np.linspace(0, 0.4, 60))
    groups = [group.plain() for group in find_drift(rows)]
    write_data(tmp_path, {"drift": groups}, rows)
    told = (tmp_path / "scans.js").read_text(encoding="utf-8")
    assert ">since\\u003c" in told
    assert "\\u003csvg" in told
    assert '"acquired"' not in told


def test_status_tells_the_alarm_in_the_order_of_acquisition(tmp_path):
    """Scans that were added in another order than their files were written."""
    rng = np.random.default_rng(12)
    count = 60
    setup = {"instrument": "toy", "recipe": {}}
    facts = {"created": now(), "messages": [], "setup": setup, "options": {}, "labrecon": ""}
    with Manifest.create(tmp_path / FILE, facts) as manifest:
        order = rng.permutation(count)
        manifest.add([(tmp_path / f"s{i}.toy", f"s{i}") for i in order])
        for scan, i in enumerate(order, start=1):
            numbers = {"χ²": 1.0 + 0.01 * float(i) + 0.05 * rng.normal()}
            told = {"title": "FISTA", "status": "converged", "numbers": numbers, "timings": {}}
            done = {"state": "done", "seconds": 1.0, "recipe": "a", "told": told}
            manifest.change(scan, **done, seen={"bytes": 1, "changed": int(i)})
    told = status(tmp_path)
    [group] = told["drift"]
    assert group["scans"] == count
    [alarm] = group["alarms"]
    assert told["messages"][-1].endswith(alarm["text"])
    assert alarm["since_number"] <= 25


@pytest.mark.parametrize("count", [12, 399, 401, 2500])
def test_curves_stay_small(count):
    [group] = find_drift(night(np.random.default_rng(10).normal(1, 0.1, count)))
    curve = group.curves["χ²"]
    assert len(curve["scan"]) == len(curve["value"]) == len(curve["z"]) <= 400
    assert curve["scan"][-1] == count
