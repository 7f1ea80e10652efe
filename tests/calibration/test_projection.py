"""Variable projection against scipy, dense linear algebra and the spread of its estimates."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from error_bars import assert_covered, scores, shares
from scipy.optimize import minimize
from torch import Tensor

from labrecon.calibration import (
    Calibration,
    Unknowns,
    calibrate,
    conclude,
    information,
    uncertainty,
)
from labrecon.calibration.derivatives import derivatives
from labrecon.calibration.linearised import linearised, quadratic
from labrecon.design import Box
from labrecon.noise import Gaussian, Noise, Poisson
from labrecon.operator import Operator
from labrecon.priors import Tikhonov
from labrecon.problem import Problem
from labrecon.solver import SolverError, solve
from labrecon.solvers import CG, Alternating
from labrecon.space import Space

F64, C128 = torch.float64, torch.complex128
ROWS, COLUMNS = 60, 20
TRUTH = (0.3, -0.5)
SIGMA = 0.1


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def draws(*shape: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Bent(Operator):
    """``A(p) = B₀ + sin(p₀) B₁ + p₁ B₂``; without gradients if ``outside``."""

    def __init__(
        self,
        dtype: torch.dtype = F64,
        *,
        outside: bool = False,
        allowed: Box | None = None,
        deaf: bool = False,
    ) -> None:
        super().__init__(Space((COLUMNS,), dtype), Space((ROWS,), dtype))
        self.register_buffer("parts", draws(3, ROWS, COLUMNS, seed=1, dtype=dtype))
        self.outside = outside
        self.nuisance("p", torch.zeros(2, dtype=F64), allowed or Box(unit="mm"))
        if deaf:
            self.nuisance("piston", torch.tensor(0.2, dtype=F64))

    def matrix(self) -> Tensor:
        p = self.p.detach() if self.outside else self.p
        return self.parts[0] + p[0].sin() * self.parts[1] + p[1] * self.parts[2]

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix().mT

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix().conj()


def truth(dtype: torch.dtype = F64) -> Tensor:
    return draws(COLUMNS, seed=2, dtype=dtype)


def measured(seed: int, dtype: torch.dtype = F64, *batch: int) -> Tensor:
    p = torch.tensor(TRUTH, dtype=F64)
    x = draws(*batch, COLUMNS, seed=2, dtype=dtype)
    clean = Bent(dtype)(x, p=p)
    return Gaussian(SIGMA).sample(clean, torch.Generator().manual_seed(seed))


def reduced(p: np.ndarray, y: Tensor, weight: float) -> float:
    """``min_x ½‖A(p) x − y‖²/σ² + ½ weight ‖x‖²`` in closed form."""
    a = Bent().at(p=torch.as_tensor(p, dtype=F64))(torch.eye(COLUMNS, dtype=F64)).mT
    x = torch.linalg.solve(a.mT @ a + SIGMA**2 * weight * torch.eye(COLUMNS, dtype=F64), a.mT @ y)
    return float((a @ x - y).square().sum() / SIGMA**2 + weight * x.square().sum()) / 2


@pytest.mark.parametrize("outside", [False, True], ids=["autograd", "differences"])
def test_the_minimum_is_that_of_scipy(outside: bool) -> None:
    y = measured(0)
    found = calibrate(
        Problem(Bent(outside=outside), y, Gaussian(SIGMA)), ["p"], weight=0.7, iterations=30
    )[1]
    expected = minimize(reduced, np.zeros(2), (y, 0.7), tol=1e-14).x
    errors = [e.error for e in found.estimates]
    # Ended by the convergence of steps to 0.02 standard errors.
    for e, value, error in zip(found.estimates, expected, errors, strict=True):
        assert error is not None
        assert abs(e.value - value) < 0.02 * error
    assert found.status == "converged"


@pytest.mark.parametrize("dtype", [F64, C128])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_the_schur_complement_is_that_of_dense_matrices(
    dtype: torch.dtype, batch: tuple[int, ...]
) -> None:
    operator, weight = Bent(dtype), 0.7
    unknowns = Unknowns(operator, ["p"])
    p = torch.tensor([0.2, -0.4], dtype=F64)
    problem = Problem(unknowns.placed(p), measured(0, dtype, *batch), Gaussian(SIGMA),
                      0.5 + draws(ROWS, seed=5).abs())  # fmt: skip
    x = draws(*batch, COLUMNS, seed=6, dtype=dtype)
    here = linearised(problem, x, quadratic(Tikhonov(weight)))
    columns, _ = derivatives(unknowns, p, x, here.predicted, torch.full((2,), 1e-2, dtype=F64))
    found = information(here, x, columns, 400)

    a = problem.operator(torch.eye(COLUMNS, dtype=dtype)).mT
    w = torch.diag(problem.weights / SIGMA**2).to(dtype)
    inverse = torch.linalg.inv(a.mH @ w @ a + weight * torch.eye(COLUMNS, dtype=dtype))
    total = torch.zeros(2, 2, dtype=F64)
    for one in x.reshape(-1, COLUMNS):
        j = torch.stack([p[0].cos() * operator.parts[1] @ one, operator.parts[2] @ one], 1)
        cross = a.mH @ w @ j
        total += (j.mH @ w @ j - cross.mH @ inverse @ cross).real
    torch.testing.assert_close(found.schur, total, rtol=1e-8, atol=0)
    assert found.settled
    assert bool((torch.linalg.eigvalsh(found.object_known - found.schur) > 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [SIGMA, 1.0], ids=["known level", "unknown level"])
def test_error_bars_cover_the_truth(sigma: float) -> None:
    """And those that take the object for known do not."""
    naive = []

    def draw(seed: int) -> Calibration:
        problem = Problem(Bent(), measured(seed), Gaussian(sigma))
        made, found = calibrate(problem, ["p"])
        posed = Problem(made, problem.data, Gaussian(SIGMA))
        unknowns, p = Unknowns(made, ["p"]), made.get_parameter("p").detach()
        here = linearised(posed, truth(), quadratic(Tikhonov(1.0)))
        columns, _ = derivatives(unknowns, p, truth(), here.predicted, torch.ones(2))
        known = information(here, truth(), columns, 100).object_known
        rows = zip(found.estimates, TRUTH, torch.linalg.inv(known).diagonal().sqrt(), strict=True)
        naive.append([(e.value - t) / float(small) for e, t, small in rows])
        return found

    found = scores(draw, TRUTH, 120)
    assert_covered(found)
    assert max(shares(naive)[1.96]) < min(shares(found)[1.96])
    with pytest.raises(AssertionError):
        assert_covered(naive)


def test_what_solves_nothing_has_no_errors() -> None:
    """The errors of the noise are nothing beside what a wrong model adds."""
    y = measured(0) + 0.5 * draws(ROWS, seed=9).sign()
    found = calibrate(Problem(Bent(), y, Gaussian(SIGMA)), ["p"])[1]
    assert found.chi2 > 10
    assert found.status == "misfit"
    assert found.statement.startswith("no solution of the model: χ² of the best object is")
    assert any("another minimum" in told for told in found.warnings)
    assert found.correlation == ((None, None), (None, None))
    for estimate in found.estimates:
        assert estimate.error is None
        assert "±" not in str(estimate)
        assert str(estimate).endswith("mm, no solution of the model")
    right = calibrate(Problem(Bent(), measured(0), Gaussian(SIGMA)), ["p"])[1]
    assert (right.status, right.warnings, right.inflation) == ("converged", (), 1.0)
    assert right.chi2 == pytest.approx(1.0, abs=0.6)


def test_errors_grow_by_the_root_of_a_small_misfit() -> None:
    """Noise of twice the stated level: its errors, not those of what is stated."""
    right = calibrate(Problem(Bent(), measured(0), Gaussian(SIGMA)), ["p"])[1]
    found = calibrate(Problem(Bent(), measured(0), Gaussian(SIGMA / 2)), ["p"])[1]
    assert found.chi2 == pytest.approx(4 * right.chi2, rel=0.05)
    assert found.inflation == pytest.approx(math.sqrt(found.chi2))
    for one, other in zip(found.estimates, right.estimates, strict=True):
        assert one.error is not None
        assert other.error is not None
        assert one.error == pytest.approx(other.error * math.sqrt(right.chi2), rel=0.05)
    assert any("more than their noise" in told for told in found.warnings)
    assert found.status == "converged"


def test_chi2_is_that_of_the_best_object() -> None:
    """And not of one that another prior has pulled away from the data."""
    unknowns, p = Unknowns(Bent(), ["p"]), torch.tensor(TRUTH, dtype=F64)
    problem = Problem(unknowns.placed(p), measured(0), Gaussian(SIGMA))
    found = conclude(
        problem,
        unknowns,
        p,
        0.8 * truth(),
        method="alternating",
        history=[{"step": 3.0}],
        last=torch.zeros_like(p),
        over=1,
        scales=torch.ones_like(p),
    )
    assert found.chi2 == pytest.approx(1.0, abs=0.6)
    assert found.residual_after.square().mean() < 1.5
    # The values at the start, with the best object there: in closed form.
    x = 0.8 * truth()
    weight = 1 / float(x.square().mean())
    ridge = SIGMA**2 * weight * torch.eye(COLUMNS, dtype=F64)
    left = []
    for at in (torch.zeros(2, dtype=F64), p):
        a = unknowns.placed(at).matrix()
        best = torch.linalg.solve(a.mT @ a + ridge, a.mT @ problem.data)
        left.append(float((problem.data - a @ best).square().sum()))
    assert found.chi2_before / found.chi2 == pytest.approx(left[0] / left[1], rel=1e-3)


def test_what_was_right_from_the_start_is_as_good_before_as_after() -> None:
    """Objects of the same prior: one with more freedom fits the noise, and looks better."""

    class Sunken(Bent):
        """Half of the object is hardly seen, so that its prior decides."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.seen * x)

        def adjoint(self, y: Tensor) -> Tensor:
            return self.seen * super().adjoint(y)

        seen = torch.logspace(0, -2, COLUMNS, dtype=F64)

    for seed in range(3):
        noise = draws(ROWS, seed=10 + seed)
        y = Sunken()(truth()) + noise
        found = calibrate(Problem(Sunken(), y, Gaussian(1.0)), ["p"])[1]
        moved = sum(((e.value - e.start) / e.error) ** 2 for e in found.estimates if e.error)
        # By the squared distance in standard errors, shared among the degrees of freedom.
        gain = (found.chi2_before - found.chi2) * (ROWS - COLUMNS)
        assert -0.1 < gain < 2 * moved + 0.1


def test_nuisances_that_stand_still_are_not_converged() -> None:
    """They never get their turn; the object would let them move."""
    problem = Problem(Bent(), measured(0), Gaussian(SIGMA))
    solver = Alternating(CG(), nuisances=["p"], after=1, every=1000)
    made = solve(solver, problem, iterations=60)
    found = solver.concluded(problem, made.state, made.history)
    assert found.status == "iterations"
    assert "by 0 standard errors, and the object would let them move by" in found.statement


def test_what_changes_nothing_has_no_error() -> None:
    found = calibrate(Problem(Bent(deaf=True), measured(0), Gaussian(SIGMA)), ["p", "piston"])[1]
    piston = found.estimates[2]
    assert (piston.value, piston.error) == (0.2, None)
    assert str(piston) == "piston: changes nothing in the data"
    assert found.correlation[2] == (None, None, None)
    assert found.estimates[0].error is not None


class Gain(Operator):
    """``y = g · B x``: the gain is the object's, and the data do not tell them apart."""

    def __init__(self) -> None:
        super().__init__(Space((COLUMNS,), F64), Space((ROWS,), F64))
        self.register_buffer("b", draws(ROWS, COLUMNS, seed=1))
        self.nuisance("g", torch.tensor(1.0, dtype=F64), Box(unit="V"))

    def forward(self, x: Tensor) -> Tensor:
        return self.g * (x @ self.b.mT)


def test_what_the_object_explains_is_not_determined() -> None:
    y = Gain()(truth()) + SIGMA * draws(ROWS, seed=3)
    (g,) = calibrate(Problem(Gain(), y, Gaussian(SIGMA)), ["g"], iterations=3)[1].estimates
    assert g.error is None
    assert g.reason == "not determined by these data"


def test_bounds_hold_and_the_others_are_found_for_them() -> None:
    y = measured(0)
    found = calibrate(
        Problem(Bent(), y, Gaussian(SIGMA)), ["p"], bounds={"p": [-0.4, 0.4]}, weight=0.7
    )[1]
    first, second = found.estimates
    assert second.value == -0.4
    assert (second.error, second.reason) == (None, "at its bound")
    expected = minimize(lambda q: reduced(np.array([q[0], -0.4]), y, 0.7), [0.0], tol=1e-14).x[0]
    assert first.value == pytest.approx(expected, abs=1e-3)


def test_a_scan_finds_the_right_one_of_several_minima() -> None:
    """A fringe of which the object does not know the order."""

    class Fringe(Operator):
        def __init__(self) -> None:
            super().__init__(Space((1,), F64), Space((40,), F64))
            self.nuisance("f", torch.tensor(1.0, dtype=F64))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.cos(self.f * torch.arange(40, dtype=F64) / 3)

    operator = Fringe()
    y = operator(torch.ones(1, dtype=F64), f=torch.tensor(3.3, dtype=F64)) + 0.01 * draws(
        40, seed=0
    )
    problem = Problem(operator, y, Gaussian(0.01))
    lost = calibrate(problem, ["f"])[1]
    found = calibrate(problem, ["f"], bounds={"f": [0.0, 6.0]}, scan=61)[1].estimates[0]
    assert abs(lost.estimates[0].value - 3.3) > 0.1
    assert (lost.status, lost.estimates[0].error) == ("misfit", None)
    assert found.value == pytest.approx(3.3, abs=0.01)


@pytest.mark.slow
def test_poisson_noise_is_weighted_by_its_information() -> None:
    class Bright(Bent):
        def __init__(self) -> None:
            super().__init__()
            self.parts = self.parts.abs()

    x = 20 + 5 * draws(COLUMNS, seed=2).abs()
    p = torch.tensor([0.1, 0.2], dtype=F64)
    noise: Noise = Poisson(1.0)

    def draw(seed: int) -> Calibration:
        data = noise.sample(Bright()(x, p=p), torch.Generator().manual_seed(seed))
        return calibrate(Problem(Bright(), data, noise), ["p"])[1]

    assert_covered(scores(draw, p.tolist(), 40))


def test_covariance_without_a_calibration() -> None:
    """`uncertainty` is the inverse of the Schur complement where nothing is degenerate."""
    operator = Bent()
    unknowns = Unknowns(operator, ["p"])
    problem = Problem(operator, measured(0), Gaussian(SIGMA))
    here = linearised(problem, truth(), quadratic(Tikhonov(1.0)))
    columns, _ = derivatives(unknowns, unknowns.start, truth(), here.predicted, torch.ones(2))
    told = information(here, truth(), columns, 200)
    found = uncertainty(told, unknowns, unknowns.start)
    inverse = torch.linalg.inv(told.schur)
    np.testing.assert_allclose(found.errors, inverse.diagonal().sqrt(), rtol=1e-10)
    assert found.correlation[0][1] == pytest.approx(
        float(inverse[0, 1] / (inverse[0, 0] * inverse[1, 1]).sqrt())
    )


class TestBadInput:
    @staticmethod
    def refused(match: str, names: Any, operator: Operator | None = None, **options: Any) -> None:
        problem = Problem(operator or Bent(), measured(0), Gaussian(SIGMA))
        with pytest.raises(ValueError, match=match):
            calibrate(problem, names, **options)

    def test_unknown_name(self) -> None:
        self.refused(r"Bent has no nuisance 'q'; it has p$", ["q"])
        operator = Bent(deaf=True)
        self.refused(r"no nuisance 'pistn'; it has p, piston \(did you mean 'piston'", ["pistn"],
                     operator)  # fmt: skip

    def test_nothing_or_twice(self) -> None:
        self.refused("one or more different nuisances", [])
        self.refused("one or more different nuisances", ["p", "p"])

    def test_bounds(self) -> None:
        self.refused("outside of its bounds 1 to 2", ["p"], bounds={"p": [1.0, 2.0]})
        self.refused("two finite numbers, low < high", ["p"], bounds={"p": [2.0, 1.0]})
        self.refused("two finite numbers, low < high", ["p"], bounds={"p": [float("nan"), 1.0]})
        self.refused("no nuisance 'q'", ["p"], bounds={"q": [0.0, 1.0]})
        operator = Bent(deaf=True)
        self.refused("piston, which is not estimated", ["p"], operator,
                     bounds={"piston": [0.0, 1.0]})  # fmt: skip

    def test_a_start_that_is_not_finite(self) -> None:
        operator = Bent()
        operator.p[0] = float("nan")
        self.refused("not finite", ["p"], operator)

    def test_data_that_are_not_finite(self) -> None:
        y = measured(0)
        y[3] = float("nan")
        with pytest.raises(SolverError, match="1 of 60 measured samples are NaN"):
            calibrate(Problem(Bent(), y, Gaussian(SIGMA)), ["p"])

    def test_too_many_numbers(self) -> None:
        class Wide(Bent):
            def __init__(self) -> None:
                super().__init__()
                self.nuisance("map", torch.zeros(8, 9, dtype=F64))

        self.refused(r"map \(8, 9\) hold 72 numbers; at most 64", ["map"], Wide())

    def test_numbers(self) -> None:
        self.refused("iterations must be a whole number", ["p"], iterations=0)
        self.refused("weight must be a number", ["p"], weight=-1.0)
        self.refused("a scan needs bounds of p.0, p.1", ["p"], scan=5)
