"""Resolution by split halves, on an instrument that takes frames of one object."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from pydantic import BaseModel

from labrecon import (
    Gaussian,
    Instrument,
    Operator,
    Problem,
    Scan,
    Space,
    hookimpl,
    posing,
    solve,
    stages,
)
from labrecon.errors import Interrupted, RecipeError, ReconstructionError
from labrecon.fourier_shell import shell_correlation
from labrecon.halves import agreement, half_tasks
from labrecon.plan import make_plans
from labrecon.priors import TV
from labrecon.recipe import load_recipe
from labrecon.recon import reconstruct, reconstruct_scan
from labrecon.solver import Solver
from labrecon.solvers import FISTA
from labrecon.solvers.direct import DirectState
from labrecon.solvers.trained import Trained

SIZE = 64


class Exposures(BaseModel):
    count: int = 8
    sigma: float = 0.5


class Repeated(Operator):
    """The same image in each frame."""

    def __init__(self, count: int, power: int = 1) -> None:
        super().__init__(
            Space((SIZE, SIZE), torch.float64, ("y", "x")),
            Space((count, SIZE, SIZE), torch.float64, ("frame", "y", "x")),
        )
        self.power = power
        self.linear = power == 1

    def forward(self, x):
        image = x if self.linear else x**self.power
        return image.unsqueeze(-3).expand(*image.shape[:-2], *self.range.shape).clone()


def low_pass(seed: int = 0) -> torch.Tensor:
    """A texture with frequencies below 0.25."""
    k = torch.fft.fftfreq(SIZE, dtype=torch.float64)
    amplitude = torch.exp(-10 * (k[:, None] ** 2 + k**2).sqrt())
    white = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=random(seed))
    return torch.fft.ifft2(torch.fft.fft2(white) * amplitude).real * 5


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Camera(Instrument):
    """Frames of one image."""

    name = "camera"
    Geometry = Exposures
    unit = "1/mm"
    acquisitions = "frame"

    def example(self):
        return Exposures()

    def operator(self, geometry, *, power: int = 1):
        return Repeated(geometry.count, power)

    def objects(self, geometry, n, generator):
        return low_pass().expand(n, -1, -1)

    def noise(self, geometry):
        return Gaussian(geometry.sigma)

    def voxel_size(self, geometry):
        return (0.2, 0.2)


CG = {"solver": {"name": "cg", "iterations": 3}}


def scan_of(count=8, sigma=0.5, seed=0, **changes):
    camera = Camera()
    return camera.simulate(Exposures(count=count, sigma=sigma), random(seed)).replace(**changes)


def solved(host, scan, recipe=CG, **changes):
    """The main outcome, with a plan that has been changed."""
    [plan, *_] = make_plans(load_recipe(recipe, Camera()), Camera(), host)
    plan = dataclasses.replace(plan, **changes)
    task = posing.pose(Camera(), scan, plan, torch.device("cpu"))
    return stages.judge(task, stages.run(task))


def halves_of(main, threshold="half-bit"):
    with torch.no_grad():
        first, second = (stages.run(task).x for task in half_tasks(main, "frame"))
        return agreement(Camera(), main, (first, second), "frame", threshold), first, second


def test_how_acquisitions_are_dealt(toy_host):
    scan = scan_of(count=7)
    # The second frame does not count, and one pixel of the fourth.
    weights = torch.ones(7, SIZE, SIZE, dtype=torch.float64)
    weights[1] = 0
    weights[3, 5, 5] = 0
    main = solved(toy_host, scan.replace(weights=weights))
    even, odd = (task.problem for task in half_tasks(main, "frame"))
    assert even.weights[:, 0, 0].tolist() == [2, 0, 0, 2, 0, 2, 0]
    assert odd.weights[:, 0, 0].tolist() == [0, 0, 2, 0, 2, 0, 2]
    assert float(even.weights[3, 5, 5]) == 0
    assert torch.equal(even.data[3, :5], scan.data[3, :5])
    assert not even.data[[1, 2, 4, 6]].any()
    unequal = solved(toy_host, scan_of(count=5))
    even, odd = (task.problem for task in half_tasks(unequal, "frame"))
    assert even.weights.flatten().tolist() == pytest.approx([5 / 3, 0, 5 / 3, 0, 5 / 3])
    assert odd.weights.flatten().tolist() == pytest.approx([0, 5 / 2, 0, 5 / 2, 0])


def test_a_half_is_what_its_frames_alone_give_with_half_the_prior(toy_host):
    scan = scan_of()
    recipe = {
        "solver": {"name": "fista", "iterations": 30},
        "prior": {"name": "tv", "relative_weight": 0.02},
    }
    main = solved(toy_host, scan, recipe)
    _, *halves = halves_of(main)
    for i, half in enumerate(halves):
        problem = Problem(Repeated(4), scan.data[i::2], Gaussian(0.5))
        alone = solve(FISTA(prior=TV(weight=main.task.weight / 2)), problem, iterations=30).x
        difference = torch.linalg.vector_norm(half - alone)
        assert difference < 1e-3 * torch.linalg.vector_norm(alone)


@pytest.mark.parametrize("solver", ["cg", "direct"])
def test_the_curve_is_that_of_the_noise(toy_host, solver):
    """``SNR/(1 + SNR)`` of half the frames, whatever solver finds their mean."""
    curves = []
    k = torch.fft.fftfreq(SIZE, dtype=torch.float64)
    radius = ((k[:, None] ** 2 + k**2).sqrt() * SIZE).round()
    power = torch.fft.fft2(low_pass()).abs().square()
    for seed in range(8):
        main = solved(toy_host, scan_of(seed=seed), {"solver": {"name": solver, "iterations": 3}})
        told, first, second = halves_of(main)
        # Without the window, which mixes rings.
        curves.append(shell_correlation(first, second, window="none").correlation)
    mean = torch.stack(curves).mean(0)
    for ring, found in enumerate(mean.tolist(), start=1):
        inside = radius == ring
        snr = float(power[inside].mean()) / (SIZE**2 * 0.5**2 / 4)
        assert found == pytest.approx(snr / (1 + snr), abs=4.5 / math.sqrt(8 * int(inside.sum())))
    assert told.length == pytest.approx(0.2 / told.resolution)


def test_resolution_gets_worse_with_noise_and_is_none_of_noise_alone(toy_host):
    found = [halves_of(solved(toy_host, scan_of(sigma=s)))[0] for s in (0.1, 0.3, 1.0, 3.0)]
    resolutions = [told.resolution for told in found]
    assert resolutions == sorted(resolutions, reverse=True)
    assert resolutions[0] > 2 * resolutions[-1]
    for seed in range(5):
        noise = torch.randn(8, SIZE, SIZE, dtype=torch.float64, generator=random(seed))
        told, *_ = halves_of(solved(toy_host, scan_of(data=noise)))
        assert told.resolution is None
        assert told.numbers()["resolution_mm"] is None
    clean = scan_of().truth.expand(8, -1, -1) + 1e-9 * noise
    told, *_ = halves_of(solved(toy_host, scan_of(data=clean)))
    assert told.limited_by_sampling
    assert told.numbers()["resolution_mm"] == pytest.approx(0.4)


class Careless(Solver):
    """The mean of all frames, whatever their weights."""

    state_type = DirectState

    def __init__(self, careful: bool = False) -> None:
        super().__init__()
        self.careful = careful

    def init(self, problem, x0=None):
        return DirectState(0, self.start(problem, x0))

    def step(self, problem, state):
        weights = problem.weights if self.careful and problem.weights is not None else 1.0
        return DirectState(state.k + 1, (weights * problem.data).abs().mean(-3)), {}


class Stubborn(Careless):
    """The same image of any data."""

    def step(self, problem, state):
        return DirectState(state.k + 1, low_pass()), {}


def test_a_method_that_does_not_obey_weights_is_refused(toy_host):
    main = solved(toy_host, scan_of(), build=lambda weight, problem=None: Careless())
    with pytest.raises(ReconstructionError, match=r"without weight.*cg or fista"):
        half_tasks(main, "frame")
    half_tasks(solved(toy_host, scan_of(), build=lambda w, p=None: Careless(True)), "frame")
    same = solved(toy_host, scan_of(), build=lambda weight, problem=None: Stubborn())
    with pytest.raises(ReconstructionError, match="the very same result"):
        halves_of(same)


class Counting(Repeated):
    """Notes how many elements it is given at a time."""

    def __init__(self) -> None:
        super().__init__(8)
        self.seen: list[int] = []

    def forward(self, x):
        self.seen.append(math.prod(x.shape[:-2]))
        return super().forward(x)


def stack_of(host, count=6, recipe=CG, batch=2, **changes):
    """The main outcome of a stack that is solved a few elements at a time, and its operator."""
    scan = scan_of()
    frames = scan.data * torch.arange(count, dtype=torch.float64)[:, None, None, None]
    limits = {**recipe["solver"], "batch": batch}
    [plan, *_] = make_plans(load_recipe({"solver": limits}, Camera()), Camera(), host)
    plan, operator = dataclasses.replace(plan, **changes), Counting()
    posed = scan.replace(data=frames)
    task = posing.pose(Camera(), posed, plan, torch.device("cpu"), operator)
    main = stages.judge(task, stages.run(task))
    operator.seen.clear()
    return main, operator


def test_of_a_stack_in_chunks_one_chunk_is_looked_at(toy_host):
    main, operator = stack_of(toy_host)
    halves = half_tasks(main, "frame")
    assert max(operator.seen) == 2
    assert [half.size for half in halves] == [2, 2]
    assert [len(half.problem.data) for half in halves] == [6, 6]
    # One whose memory ran out in the solve has the size in its state.
    whole = dataclasses.replace(main, task=dataclasses.replace(main.task, size=None))
    operator.seen.clear()
    half_tasks(whole, "frame")
    assert max(operator.seen) == 2
    # The first slice is blank, and tells nothing.
    careless, _ = stack_of(toy_host, batch=1, build=lambda weight, problem=None: Careless())
    with pytest.raises(ReconstructionError, match="without weight"):
        half_tasks(careless, "frame")


@pytest.mark.parametrize(
    ("name", "options", "obeys"),
    [
        ("unrolled", {"start": "zero"}, True),
        ("tikhonov", {}, True),
        ("unrolled", {"start": "initial"}, False),
        ("fbp-convnet", {}, False),
    ],
)
def test_trained_networks(toy_host, name, options, obeys):
    make = toy_host.get("networks", name)

    def build(weight, problem=None):
        return Trained(make(problem, scale=1.0, seed=0, **options))

    scan = scan_of()
    single = scan.replace(data=scan.data.float())

    class Single(Repeated):
        def __init__(self):
            super().__init__(8)
            self.domain = dataclasses.replace(self.domain, dtype=torch.float32)
            self.range = dataclasses.replace(self.range, dtype=torch.float32)

    [plan, *_] = make_plans(load_recipe(CG, Camera()), Camera(), toy_host)
    plan = dataclasses.replace(plan, build=build)
    with torch.no_grad():
        task = posing.pose(Camera(), single, plan, torch.device("cpu"), Single())
        main = stages.judge(task, stages.run(task))
        if obeys:
            told, *_ = halves_of(main)
            assert 0.05 < told.resolution < 0.5
            return
        with pytest.raises(ReconstructionError, match="without weight"):
            half_tasks(main, "frame")


class CameraPlugin:
    @hookimpl
    def labrecon_instruments(self):
        return {"camera": Camera}


def reconstructed(host, scan, out, recipe, instrument=None):
    return reconstruct_scan(instrument or Camera(), scan, out, recipe={**CG, **recipe}, host=host)


def test_in_summary_provenance_and_report(toy_host, tmp_path):
    recipe = {"quality": {"split": True, "threshold": "1/7"}}
    result = reconstructed(toy_host, scan_of(), tmp_path / "out", recipe)
    assert result.warnings == []
    [told] = result.summary["reconstructions"]
    split = told["quality"]["split_half"]
    assert split["axis"] == "frame"
    assert split["threshold"] == "1/7"
    assert 0.1 < split["resolution_cycles_per_pixel"] < 0.4
    assert split["resolution_mm"] == pytest.approx(0.2 / split["resolution_cycles_per_pixel"])
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["reconstructions"][0]["quality"]["split_half"] == split
    assert provenance["recipe"]["quality"] == recipe["quality"]
    assert "halves" in provenance["timings_seconds"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Resolution</h2>" in page
    assert f"{split['resolution_mm']:.3g} mm" in page
    # The volume is that of all data.
    plain = reconstructed(toy_host, scan_of(), tmp_path / "plain", {})
    assert torch.equal(result.volume, plain.volume)
    assert "split_half" not in plain.summary["reconstructions"][0]["quality"]
    assert "<h2>Resolution</h2>" not in (tmp_path / "plain" / "report.html").read_text()


def test_no_length_where_the_pixel_size_was_assumed(toy_host, tmp_path):
    scan = scan_of(assumed={"pixel size": "1 mm"})
    result = reconstructed(toy_host, scan, tmp_path / "out", {"quality": {"split": "frame"}})
    split = result.summary["reconstructions"][0]["quality"]["split_half"]
    assert split["resolution_mm"] is None
    assert split["resolution_cycles_per_pixel"] > 0.1


@pytest.mark.parametrize(
    ("split", "names", "message"),
    [
        ("angle", "frame", "no axis 'angle'; their axes are frame, y, x"),
        ("", "frame", "no axis ''"),
        (True, "", "names none: give the axis .* the data have frame, y, x"),
        (True, "shot", "along 'shot', which these data have not"),
    ],
)
def test_an_axis_that_there_is_not_is_refused_before_the_solve(
    toy_host, tmp_path, monkeypatch, split, names, message
):
    class Other(Camera):
        acquisitions = names

    monkeypatch.setattr(stages, "run", None)
    (tmp_path / "recipe.toml").write_text(f"[quality]\nsplit = {json.dumps(split)}\n")
    with pytest.raises(RecipeError, match=rf"recipe.toml, line 2.*{message}"):
        reconstruct_scan(
            Other(), scan_of(), tmp_path / "out", recipe=tmp_path / "recipe.toml", host=toy_host
        )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("split = 3", "quality.split: expected true, false or the name of an axis, got 3"),
        ('threshold = "0.143"', "quality.threshold: .*'half-bit', '1/7' or '1/2', got '0.143'"),
        ("splitt = true", "no key 'splitt' .did you mean 'split'"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path, line, message):
    (tmp_path / "recipe.toml").write_text(f"[quality]\n{line}\n")
    with pytest.raises(RecipeError, match=f"line 2.*{message}") as raised:
        load_recipe(tmp_path / "recipe.toml", Camera())
    assert "\n" not in str(raised.value)


def test_one_acquisition_is_a_warning(toy_host, tmp_path):
    weights = torch.zeros(8, 1, 1, dtype=torch.float64)
    weights[3] = 1
    result = reconstructed(
        toy_host, scan_of(weights=weights), tmp_path / "out", {"quality": {"split": "frame"}}
    )
    [warning] = result.warnings
    assert "have 1 acquisitions along 'frame' that count" in warning
    assert "split_half" not in result.summary["reconstructions"][0]["quality"]
    assert (tmp_path / "out" / "volume.h5").exists()


def test_the_first_estimate_of_a_nonlinear_operator_is_shared_and_said(toy_host, tmp_path):
    class Squares(Camera):
        def operator(self, geometry, *, power: int = 2):
            class First(Repeated):
                def initial(self, y):
                    return y[..., 0, :, :].clamp_min(0).sqrt() + 0.1

            return First(geometry.count, power)

    truth = 3 + low_pass().abs()
    data = (truth**2).expand(8, -1, -1) + 0.5 * torch.randn(
        8, SIZE, SIZE, dtype=torch.float64, generator=random(1)
    )
    recipe = {
        "solver": {"name": "gradient", "iterations": 40, "start": "initial", "step_size": 1e-4},
        "quality": {"split": True},
    }
    scan = scan_of(data=data, truth=None)
    result = reconstruct_scan(Squares(), scan, tmp_path / "out", recipe=recipe, host=toy_host)
    [warning] = result.warnings
    assert "start from the first estimate of all data" in warning
    assert result.summary["reconstructions"][0]["quality"]["split_half"]["axis"] == "frame"


def test_ctrl_c_in_a_half_saves_the_main_solve(toy_host, tmp_path, monkeypatch):
    class Reader:
        def matches(self, path):
            return True

        def read(self, path):
            return Scan(scan_of().data, Exposures(), Gaussian(0.5))

    class WithFile(Camera):
        readers = {"any": Reader()}  # noqa: RUF012

    path = tmp_path / "scan.any"
    path.write_text("frames")
    recipe = {**CG, "quality": {"split": True}}
    usual = stages.run

    def interrupted(task, *args, **options):
        solution = usual(task, *args, **options)
        half = "odd half" in task.plan.title
        return dataclasses.replace(solution, status="interrupted") if half else solution

    monkeypatch.setattr(stages, "run", interrupted)
    with pytest.raises(Interrupted, match="odd half"):
        reconstruct(WithFile(), path, tmp_path / "out", recipe=recipe, host=toy_host)
    monkeypatch.undo()
    result = reconstruct(WithFile(), path, tmp_path / "out", host=toy_host, resume=True)
    assert result.summary["reconstructions"][0]["quality"]["split_half"]["axis"] == "frame"
