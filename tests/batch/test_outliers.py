"""Flags of a batch: few where nothing is wrong, all that was planted, none where few are done."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from labrecon.batch.outliers import flag_outliers


def batch(count, seed=0, **numbers):
    """Rows of a night in which nothing is wrong."""
    rng = np.random.default_rng(seed)
    return [
        {
            "state": "done",
            "status": "converged",
            "seconds": float(rng.lognormal(1.0, 0.2)),
            "timings": {"solve": float(rng.lognormal(0.5, 0.2))},
            "numbers": {
                "χ²": float(rng.normal(1.05, 0.05)),
                "residual σ": float(rng.lognormal(0, 0.3)),
                "lag-1 / bound": float(abs(rng.normal(0, 0.5))),
                "resolution (mm)": float(rng.normal(0.2, 0.01)),
                "centre": float(rng.normal(511.5, 0.2)),
                "planets": int(rng.random() < 0.1),
                "brightest": "b Pic" if rng.random() < 0.5 else "none",
                **numbers,
            },
        }
        for _ in range(count)
    ]


def test_a_normal_night_has_next_to_no_flags():
    flagged = sum(bool(f) for seed in range(20) for f in flag_outliers(batch(200, seed)))
    assert flagged < 0.01 * 20 * 200


PLANTED = [
    ({"χ²": 12.3}, "χ² 12.3, 12 times the batch's median 1.05"),
    ({"χ²": 0.021}, "χ² 0.021, 1/50 of the batch's median 1.05"),
    ({"resolution (mm)": 0.8}, "resolution (mm) 0.8, 4 times the batch's median 0.2"),
    ({"centre": 480.0}, "centre 480, the batch's median is 511.5"),
    ({"resolution (mm)": None}, "its halves agree on nothing"),
]


@pytest.mark.parametrize(("change", "words"), PLANTED)
@pytest.mark.parametrize("count", [12, 200])
def test_what_is_planted_is_found_and_said(change, words, count):
    rows = batch(count)
    before = flag_outliers(rows)
    changed = copy.deepcopy(rows)
    changed[5]["numbers"].update(change)
    flags = flag_outliers(changed)
    assert any(words.partition(" the batch")[0].partition(",")[0] in text for text in flags[5])
    if count == 200:
        [text] = flags[5]
        assert text.startswith(words[:24])
    # One that is far off does not change what is said of the others.
    assert [f for i, f in enumerate(flags) if i != 5] == [f for i, f in enumerate(before) if i != 5]


def test_a_tenth_of_the_batch_is_found():
    rows = batch(100)
    for row in rows[:10]:
        row["numbers"]["χ²"] = 30.0
    flagged = {i for i, f in enumerate(flag_outliers(rows)) if any("χ²" in text for text in f)}
    assert flagged == set(range(10))


def test_the_residual_stands_in_where_there_is_no_chi2():
    rows = batch(50, **{"χ²": None})
    rows[3]["numbers"]["residual σ"] = 90.0
    [text] = flag_outliers(rows)[3]
    assert text.startswith("residual σ 90")
    known = batch(50)
    known[3]["numbers"]["residual σ"] = 90.0
    assert flag_outliers(known)[3] == []


def test_limits_and_times():
    rows = batch(50)
    rows[1]["status"] = "iterations"
    rows[2]["status"] = "time"
    rows[3]["timings"]["solve"] = 40.0
    rows[4]["timings"]["solve"] = 1e-4
    # Building an operator, or another scan beside it, is no fault of the scan.
    rows[5]["seconds"] = 100.0
    flags = flag_outliers(rows)
    assert flags[1] == ["stopped at its iteration limit; most others converged"]
    assert flags[2] == ["stopped at its time limit; most others converged"]
    assert flags[3][0].startswith("seconds of the solve 40, ")
    assert flags[4] == flags[5] == []
    for row in rows:
        row["status"] = "iterations"
    assert not any("limit" in text for f in flag_outliers(rows) for text in f)


def test_a_batch_of_copies():
    """The same scan over and over: no scatter, and one that differs."""
    rows = [copy.deepcopy(batch(1)[0]) for _ in range(20)]
    assert flag_outliers(rows) == [[]] * 20
    rows[7]["numbers"]["χ²"] *= 1.05
    rows[8]["numbers"]["χ²"] *= 3
    rows[9]["numbers"]["centre"] += 30
    for row in rows:
        row["numbers"]["shift"] = 0.0
    rows[10]["numbers"]["shift"] = 0.4
    flags = flag_outliers(rows)
    assert [i for i, f in enumerate(flags) if f] == [8, 9, 10]


def test_what_rounding_does_is_no_outlier():
    rows = [copy.deepcopy(batch(1)[0]) for _ in range(20)]
    for i, row in enumerate(rows):
        row["numbers"]["χ²"] *= 1 + 1e-6 * i
        row["numbers"]["centre"] *= 1 + 1e-9 * i
    rows[3]["numbers"]["χ²"] *= 1.05
    rows[4]["numbers"]["χ²"] *= 1.3
    rows[5]["numbers"]["centre"] += 1e-2
    assert [i for i, f in enumerate(flag_outliers(rows)) if f] == [4]


def test_counts_that_are_mostly_the_same_are_no_measurements():
    rows = batch(100)
    for i, row in enumerate(rows):
        row["numbers"]["planets"] = int(i == 4)
    assert flag_outliers(rows)[4] == []


def test_few_scans_and_those_not_done_get_none():
    rows = batch(7)
    rows[0]["numbers"]["χ²"] = 1e6
    assert flag_outliers(rows) == [[]] * 7
    failed = {"state": "failed", "status": "", "seconds": None, "timings": {}, "numbers": {}}
    assert flag_outliers([*rows, failed]) == [[]] * 8
    flags = flag_outliers([failed, *rows, *batch(5, 1), failed])
    assert flags[0] == flags[-1] == []
    assert flags[1]
    assert flag_outliers([]) == []


def test_what_is_no_number_is_passed_over():
    rows = batch(20, odd="nan", flag=True, missing=None, zero=0)
    rows[3]["numbers"]["χ²"] = 0.0
    rows[4]["numbers"]["centre"] = float("inf")
    del rows[5]["numbers"]["centre"]
    assert not any(f for i, f in enumerate(flag_outliers(rows)) if i in (3, 4, 5))
