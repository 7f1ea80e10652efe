"""Everything that labrecon ships passes its own suite, and the suite is usable in all its ways."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from good import Good, GoodInstrument
from operator_cases import DTYPES, INSTANCES, NAMES
from toy_instrument import Toy

from labrecon import Operator, Space, testing
from labrecon.design import Box
from labrecon.plugins import host
from labrecon.testing import ConformanceError, check_instrument, check_operator, checks
from labrecon.testing.bench import Check
from labrecon.testing.finding import Finding
from labrecon.testing.runner import run_one


@pytest.mark.parametrize(("case", "kind"), INSTANCES, ids=NAMES)
def test_every_bundled_operator_passes(case, kind):
    # That nothing piles up takes thousands of calls: it is looked for once per kind, below.
    check_operator(lambda: case.make(DTYPES[kind]), skip=("memory", "cost"))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(host().names("instruments")))
def test_every_bundled_instrument_passes(name):
    report = check_instrument(host().get("instruments", name)())
    assert report.of("memory").status == "passed"
    assert report.counts()["warned"] == 0


@pytest.mark.parametrize("check", checks(GoodInstrument(), only=("adjoint", "noise")), ids=str)
def test_one_test_per_check(check):
    assert check().status == "passed"


def test_a_failing_check_raises_in_pytest():
    class Wrong(Good):
        def adjoint(self, y):
            return 2 * super().adjoint(y)

    _, bound = checks(Wrong(), only=("adjoint",))
    with pytest.raises(ConformanceError, match=r"adjoint: unmatched[\s\S]*what to do: it is 2"):
        bound()
    with pytest.raises(ConformanceError, match="unmatched"):
        check_operator(Wrong(), only=("adjoint", "batch"))
    report = check_operator(Wrong(), only=("adjoint", "batch"), raises=False)
    assert report.failures == ["adjoint"]


def test_unknown_checks_are_refused():
    with pytest.raises(ValueError, match="no check is called 'adjiont'; there are build"):
        checks(Good(), only=("adjiont",))


def test_a_slow_check_does_not_hide_the_others():
    def body(bench):
        yield Finding("passed", "so far")
        time.sleep(30)

    bench = checks(Good())[0].bench
    begin = time.perf_counter()
    outcome = run_one(Check("slow", "", body), bench, timeout=0.2)
    assert time.perf_counter() - begin < 5
    assert [f.verdict for f in outcome.findings] == ["so far", "takes more than 0.2 s"]
    assert outcome.status == "failed"


def test_a_declared_mismatch_is_accepted_and_judged():
    class Near(Good):
        adjoint_mismatch = 0.02

        def adjoint(self, y):
            return 1.01 * super().adjoint(y)

    class Far(Near):
        adjoint_mismatch = 1e-4

    near = check_operator(Near(), only=("adjoint",))
    assert near.of("adjoint").findings[0].verdict == "unmatched, as declared (0.02)"
    assert check_operator(Far(), only=("adjoint",), raises=False).failures == ["adjoint"]


def test_an_adjoint_matched_to_a_thousandth_is_a_warning():
    class Matched(Good):
        def adjoint(self, y):
            return 1.0005 * super().adjoint(y)

    outcome = check_operator(Matched(), only=("adjoint",)).of("adjoint")
    assert outcome.status == "warned"
    assert outcome.findings[0].verdict == "matched to 1e-3, not exact"
    assert 4e-4 < outcome.findings[0].value < 6e-4


def test_a_measured_file_is_checked(tmp_path, toy_scan):
    report = check_instrument(Toy(), only=("readers",), scan=toy_scan)
    assert report.of("readers").findings[-1].verdict == "read as npz: (24, 24)"
    (tmp_path / "broken.toy").write_bytes(b"nonsense")
    report = check_instrument(Toy(), only=("readers",), scan=tmp_path / "broken.toy", raises=False)
    assert "is damaged" in report.of("readers").findings[-1].verdict


def test_a_check_leaves_the_process_as_it_was():
    class Meddles(Good):
        def forward(self, x):
            torch.set_default_dtype(torch.float64)
            torch.manual_seed(0)
            return super().forward(x)

    state = torch.get_rng_state()
    check_operator(Meddles(), raises=False, skip=("memory",))
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)


def test_every_check_has_a_name_and_a_question():
    names = [check.name for check in testing.SUITE]
    assert len(set(names)) == len(names) == 27
    assert all(check.title.endswith(".") and "\n" not in check.title for check in testing.SUITE)


def test_the_page_lists_every_check():
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()
    listed = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert sorted(set(listed) - {"check"}) == sorted(check.name for check in testing.SUITE)


class Phase(Operator):
    """A phase ramp over a shift in metres, which is zero."""

    def __init__(self, unit: float = 500e-9) -> None:
        super().__init__(Space((8,), torch.complex128), Space((8,), torch.complex128))
        self.nuisance("shift", torch.zeros(2, dtype=torch.float64))
        self.unit = unit

    def forward(self, x):
        ramp = torch.linspace(0, 1, 8, dtype=torch.float64)
        return x * torch.exp(2j * torch.pi * (self.shift[0] * ramp + self.shift[1]) / self.unit)


class Mixed(Operator):
    """Parameters of very different size in one vector."""

    def __init__(self) -> None:
        super().__init__(Space((8,)), Space((8,)))
        self.nuisance("p", torch.tensor([1e4, 1e-3]))

    def forward(self, x):
        return x * (self.p[0] * 1e-4 + self.p[1] * 1e3)


class Power(Operator):
    """A power law, which ends at 0, with a factor at the bound of what the hardware can do."""

    linear = False

    def __init__(self) -> None:
        super().__init__(Space((16,), torch.float64), Space((16,), torch.float64))
        self.design("t", torch.tensor([0.0, 1.0], dtype=torch.float64), Box(0, 1))

    def forward(self, x):
        return x**2.2 * (1 + self.t[0] + self.t[1])


class Conjugates(Operator):
    """Linear over the reals only, with lazily conjugated results."""

    def __init__(self) -> None:
        super().__init__(Space((8,), torch.complex64), Space((8,), torch.complex64))

    def forward(self, x):
        return 2 * x.conj()


def positive(n, generator):
    x = torch.rand(n, 16, dtype=torch.float64, generator=generator)
    return x * (x > 0.3)


@pytest.mark.parametrize("kind", [Phase, Mixed, Power, Conjugates])
def test_right_ones_that_are_hard_to_judge(kind):
    points = positive if kind is Power else None
    report = check_operator(kind, points=points, skip=("memory", "cost"))
    assert report.counts()["warned"] == 0


def test_nothing_checked_is_not_passed():
    def broken():
        raise ValueError("no licence")

    assert check_operator(broken, only=("adjoint",), raises=False).failures == ["build"]
    with pytest.raises(ValueError, match="'noise' is one of instruments"):
        check_operator(Good(), only=("noise",))


def test_a_check_that_is_left_behind_changes_nothing_later(monkeypatch):
    def body(bench):
        time.sleep(0.5)
        yield Finding("passed", "late")

    bench = checks(Good())[0].bench
    run_one(Check("slow", "", body), bench, timeout=0.05)
    monkeypatch.setenv("SET_MEANWHILE", "1")
    time.sleep(0.8)
    assert os.environ["SET_MEANWHILE"] == "1"


HANDLES: dict[int, torch.Tensor] = {}


class Handle(Good):
    """Holds the number of something that is in this process only."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 7
        HANDLES[7] = torch.ones(())

    def forward(self, x):
        return HANDLES[self.number] * super().forward(x)


@pytest.mark.slow
def test_pickling_is_tried_in_another_process(monkeypatch):
    # Tests are no importable modules; there, the class is found under another name.
    monkeypatch.setattr(Handle, "__module__", "good")
    monkeypatch.setattr("good.Handle", Handle, raising=False)
    report = check_operator(Handle, only=("serialisation",), spawn=True, raises=False)
    assert "another process" in report.of("serialisation").findings[0].verdict
    assert check_operator(Good, only=("serialisation",), spawn=True).passed
