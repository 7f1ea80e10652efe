"""Resolution of CT scans by halves of their views, against theory and against the truth."""

from __future__ import annotations

import math

import pytest
import torch

from labrecon import Gaussian, Scan, posing, stages
from labrecon.fourier_shell import shell_correlation
from labrecon.halves import agreement, half_tasks
from labrecon.plan import make_plans
from labrecon.plugins import Host
from labrecon.recipe import load_recipe
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.instrument import CTInstrument
from labrecon_ct.phantoms import random_objects
from labrecon_ct.projector import CTProjector

CT = CTInstrument()
VIEWS = 240


def parallel(views: int) -> CTGeometry:
    angles = tuple(math.pi * i / views for i in range(views))
    return CTGeometry.model_validate({"angles": angles, "columns": 96, "column_pitch": 0.5})


@pytest.fixture(scope="module")
def lines() -> torch.Tensor:
    geometry = parallel(VIEWS)
    [truth] = random_objects(geometry, 1, torch.Generator().manual_seed(4))
    return CTProjector(geometry)(truth)


@pytest.fixture(scope="module")
def operator() -> CTProjector:
    return CTProjector(parallel(VIEWS))


def outcome(lines, operator, sigma, seed=0, solver=None):
    noise = torch.randn(lines.shape, generator=torch.Generator().manual_seed(seed))
    scan = Scan(lines + sigma * noise, operator.geometry, Gaussian(sigma or 1.0))
    recipe = load_recipe({"solver": solver or {"name": "direct"}}, CT)
    [plan] = make_plans(recipe, CT, Host(discover=False))
    task = posing.pose(CT, scan, plan, torch.device("cpu"), operator)
    return stages.judge(task, stages.run(task))


def halves(main):
    first, second = half_tasks(main, "angle")
    return stages.run(first).x, stages.run(second).x


@torch.no_grad()
def test_fbp_of_a_half_is_that_of_its_views_alone(lines, operator):
    """FBP knows no weights: views of the other half are 0, and it is linear."""
    main = outcome(lines, operator, 0.1)
    even, odd = halves(main)
    alone = CTProjector(parallel(VIEWS // 2)).initial(main.task.scan.data[::2])
    assert torch.allclose(2 * even, alone, atol=1e-4 * float(alone.abs().max()))
    assert torch.allclose(even + odd, main.solution.x, atol=1e-5 * float(alone.abs().max()))


@torch.no_grad()
@pytest.mark.slow
def test_the_halves_tell_how_near_all_views_are_to_the_truth(lines, operator):
    """``√(2F/(1 + F))``: Rosenthal and Henderson 2003; the truth is what noise-free data give."""
    clean = outcome(lines, operator, 0.0).solution.x
    between, against = [], []
    for seed in range(6):
        main = outcome(lines, operator, 0.4, seed)
        first, second = halves(main)
        between.append(shell_correlation(first, second).correlation)
        against.append(shell_correlation(main.solution.x, clean).correlation)
    f, c = torch.stack(between).mean(0), torch.stack(against).mean(0)
    seen = f > 0.15
    assert int(seen.sum()) > 10
    assert not bool(seen.all())
    expected = (2 * f / (1 + f)).sqrt()
    assert (c - expected)[seen].abs().max() < 0.08
    assert (c - expected)[seen].abs().mean() < 0.02


@torch.no_grad()
@pytest.mark.parametrize("solver", [{"name": "direct"}, {"name": "cg", "iterations": 15}])
def test_resolution_gets_worse_with_noise(lines, operator, solver):
    found = []
    for sigma in (0.05, 0.3, 1.5):
        main = outcome(lines, operator, sigma, solver=solver)
        told = agreement(CT, main, halves(main), "angle", "1/7")
        found.append(told.resolution)
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.5 * found[-1]
    assert told.length == pytest.approx(0.5 / found[-1])


@torch.no_grad()
def test_noise_alone_has_none(lines, operator):
    for seed in range(3):
        main = outcome(0 * lines, operator, 0.4, seed)
        both = halves(main)
        assert agreement(CT, main, both, "angle", "half-bit").resolution is None
        # Had one half seen all views, they would correlate by 1/√2, and noise pass for an object.
        leaking = shell_correlation(main.solution.x, both[0]).correlation
        assert float(leaking.mean()) == pytest.approx(2**-0.5, abs=0.05)
        assert abs(float(shell_correlation(*both).correlation.mean())) < 0.05


@pytest.mark.parametrize("rows", [None, 3])
def test_the_axis_of_views(rows):
    views = {"angles": (0.0, 1.0), "columns": 8, "column_pitch": 0.5}
    pitch = {} if rows is None else {"rows": rows, "row_pitch": 0.5}
    geometry = CTGeometry.model_validate({**views, **pitch})
    assert CT.acquisitions in CT.operator(geometry).range.axes
