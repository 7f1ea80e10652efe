"""``[calibrate]`` from the recipe to the report, on a camera that drifts between frames."""

import json
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel

from labrecon import plugins
from labrecon.design import Box
from labrecon.errors import RecipeError, ReconstructionError
from labrecon.instrument import Instrument, Scan
from labrecon.job import assemble_job
from labrecon.noise import Gaussian
from labrecon.operator import Operator
from labrecon.plan import make_plans
from labrecon.recipe import load_recipe
from labrecon.recon import compute, reconstruct_scan
from labrecon.space import Space

SIDE, FRAMES, DRIFT, SIGMA = 8, 4, 0.3, 0.02
CG = {"name": "cg", "iterations": 15}
DRIFTING = {"nuisances": ["drift"]}


class Geometry(BaseModel):
    drift: float = 0.0


class Frames(Operator):
    """Frame ``i`` is the image ``i · drift`` pixels further, linear between pixels."""

    def __init__(self, drift: float) -> None:
        super().__init__(
            Space((SIDE, SIDE), axes=("y", "x")),
            Space((FRAMES, SIDE, SIDE), axes=("frame", "row", "column")),
        )
        self.nuisance("drift", torch.tensor(drift), Box(-1.0, 1.0, unit="pixels"))
        self.nuisance("idle", torch.zeros(()))

    def forward(self, x):
        weights = [self.drift * i / 2 for i in range(FRAMES)]
        return torch.stack([(1 - w) * x + w * x.roll(1, -1) for w in weights], -3)


class Camera(Instrument):
    name: ClassVar[str] = "camera"
    title: ClassVar[str] = "A camera that drifts"
    Geometry: ClassVar[type[BaseModel]] = Geometry
    unit: ClassVar[str] = "V"
    data_unit: ClassVar[str] = "V"

    def example(self) -> Geometry:
        return Geometry(drift=DRIFT)

    def operator(self, geometry: Any) -> Operator:
        return Frames(geometry.drift)

    def noise(self, geometry: Any) -> Gaussian:
        return Gaussian(SIGMA)

    def objects(self, geometry: Any, n: int, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(n, SIDE, SIDE, generator=generator)


class Tilted(Camera):
    """The same, which may be tilted if it drifts."""

    def operator(self, geometry: Any) -> Operator:
        made = Frames(geometry.drift)
        if geometry.drift:
            made.nuisance("tilt", torch.zeros(()))
        return made


def taken(*batch: int) -> Scan:
    """Images of a camera that drifts, which its geometry does not know."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(*batch, SIDE, SIDE, generator=generator)
    with torch.no_grad():
        data = Gaussian(SIGMA).sample(Frames(DRIFT)(x), generator)
    return Scan(data, Geometry(), Gaussian(SIGMA), truth=x)


def outcome(*batch: int, **recipe: Any) -> Any:
    job = assemble_job(Camera(), recipe={"solver": CG, **recipe})
    return job, compute(job, taken(*batch), None)


def test_the_solve_has_the_calibrated_operator() -> None:
    job, (main,) = outcome(calibrate=DRIFTING)
    (drift,) = main.calibration.estimates
    assert drift.value == pytest.approx(DRIFT, abs=4 * drift.error)
    assert drift.error < 0.02
    assert float(main.task.problem.operator.drift) == pytest.approx(drift.value)
    assert main.quality.chi2 < 1.5
    _, (blind,) = outcome()
    assert blind.calibration is None
    assert blind.quality.chi2 > 3 * main.quality.chi2
    # The operator that is kept for the next scan is as the geometry says.
    kept = job.operators.get(job.instrument, Geometry(), {}, job.device)
    assert job.operators.reused == 1
    assert float(kept.drift) == 0.0


@pytest.mark.slow
def test_alternating_with_any_solver() -> None:
    """Its errors are those of variable projection, not of a known object."""
    _, (main,) = outcome(calibrate=DRIFTING)
    for solver in ({"name": "fista", "iterations": 80}, {"name": "cg", "iterations": 60}):
        table = {**DRIFTING, "method": "alternating"}
        _, (other,) = outcome(calibrate=table, solver=solver)
        (drift,), (reference,) = other.calibration.estimates, main.calibration.estimates
        assert drift.value == pytest.approx(reference.value, abs=0.5 * reference.error)
        assert drift.error == pytest.approx(reference.error, rel=0.05)
        assert other.calibration.status == "converged"
        assert other.quality.chi2 == pytest.approx(main.quality.chi2, rel=0.1)


def test_a_solve_that_is_too_short_is_told() -> None:
    table = {**DRIFTING, "method": "alternating"}
    job, (main,) = outcome(calibrate=table, solver={"name": "fista", "iterations": 4})
    assert main.calibration.status == "iterations"
    assert any(told.startswith("calibration: not converged") for told in job.warnings)


def test_comparisons_and_halves_share_the_calibration() -> None:
    compare = [{"title": "FISTA", "solver": {"name": "fista", "iterations": 40}}]
    _, (main, other) = outcome(calibrate=DRIFTING, compare=compare, quality={"split": "frame"})
    assert other.calibration is main.calibration
    assert other.task.problem.operator is main.task.problem.operator
    assert main.quality.split_half is not None


def test_a_stack_is_calibrated_by_some_of_its_images() -> None:
    _, (main,) = outcome(6, calibrate=DRIFTING, solver={**CG, "batch": 2})
    (drift,) = main.calibration.estimates
    assert main.calibration.elements == (2, 6)
    assert drift.value == pytest.approx(DRIFT, abs=4 * drift.error)
    assert main.solution.x.shape == (6, SIDE, SIDE)


@pytest.mark.slow
def test_report_summary_and_provenance_tell_it(tmp_path) -> None:
    recipe = {"solver": CG, "calibrate": DRIFTING}
    made = reconstruct_scan(Camera(), taken(), tmp_path / "out", recipe=recipe)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Calibration</h2>" in page
    assert "residual before" in page
    estimate, statement = made.summary["calibration"]
    assert estimate.startswith("drift 0.3")
    assert estimate.endswith("pixels")
    assert "±" in estimate
    assert statement.startswith("converged after")
    assert statement in page
    told = json.loads((tmp_path / "out" / "provenance.json").read_text(encoding="utf-8"))
    found = told["reconstructions"][0]["calibration"]["estimates"]["drift"]
    assert found["unit"] == "pixels"
    assert 0 < found["error"] < 0.02
    both = told["reconstructions"][0]["calibration"]
    assert both["chi2_before"] > 3 * both["chi2"]
    assert (
        "best object of a quadratic prior, which is not the image: "
        f"{both['chi2_before']:.3g} with the values before, {both['chi2']:.3g} with the estimates"
    ) in page
    assert found["start"] == 0.0


def test_what_is_not_determined_is_not_printed_as_a_number(tmp_path) -> None:
    recipe = {"solver": CG, "calibrate": {"nuisances": ["drift", "idle"]}}
    made = reconstruct_scan(Camera(), taken(), tmp_path / "out", recipe=recipe)
    assert "idle: changes nothing in the data" in made.summary["calibration"]


class TestRecipe:
    @staticmethod
    def refused(match: str, **table: Any) -> None:
        with pytest.raises(RecipeError, match=match):
            load_recipe({"calibrate": table}, Camera())

    def test_keys_and_values(self) -> None:
        self.refused(r"\[calibrate\] has no key 'nuisance' \(did you mean 'nuisances'", nuisance=[])
        self.refused("method", nuisances=["drift"], method="guess")
        self.refused("bounds of drift are two finite numbers", bounds={"drift": [1.0, 0.0]})
        self.refused(
            "bounds of drift are two finite numbers", bounds={"drift": [0.0, float("nan")]}
        )
        self.refused("a scan needs bounds", scan=5)
        self.refused("inner", inner=0)

    def test_nuisances_of_a_solver_moved(self) -> None:
        recipe = load_recipe({"solver": {"name": "gauss-newton", "nuisances": ["drift"]}}, Camera())
        with pytest.raises(RecipeError, match=r"no option 'nuisances'; .* table \[calibrate\]"):
            make_plans(recipe, Camera(), plugins.host())

    @pytest.mark.parametrize("method", ["projection", "alternating"])
    def test_unknown_nuisance(self, method: str) -> None:
        """Told before anything is read, as the camera has no kind of acquisition with it."""
        match = r"the recipe: .* no nuisance 'drft'; it has drift, idle .*'drift'\?"
        with pytest.raises(RecipeError, match=match):
            assemble_job(Camera(), recipe={"calibrate": {"nuisances": ["drft"], "method": method}})
        table = {**DRIFTING, "method": method, "bounds": {"drft": [0.0, 1.0]}}
        with pytest.raises(RecipeError, match="no nuisance 'drft'"):
            assemble_job(Camera(), recipe={"calibrate": table})

    def test_a_nuisance_of_other_acquisitions(self) -> None:
        """An error of the recipe, told as soon as there is an operator, and not after the solve."""
        table = {"nuisances": ["drift", "tilt"], "bounds": {"tilt": [0.0, 1.0]}}
        job = assemble_job(Tilted(), recipe={"solver": CG, "calibrate": table})
        with pytest.raises(RecipeError, match=r"calibrate\.nuisances: .* no nuisance 'tilt'"):
            compute(job, taken(), None)
        assert "calibrate" not in job.clock.seconds

    def test_a_start_outside_of_the_bounds(self) -> None:
        with pytest.raises(ReconstructionError, match="starts at 0 pixels, outside of its bounds"):
            outcome(calibrate={**DRIFTING, "bounds": {"drift": [0.1, 0.5]}})
