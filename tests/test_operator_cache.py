"""Operators kept for scans of equal geometry."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from toy_instrument import Toy, ToyGeometry, ToyOperator

from labrecon.job import assemble_job
from labrecon.operator_cache import OperatorCache
from labrecon.plan import find_instrument
from labrecon.plugins import host
from labrecon.recon import compute

CPU = torch.device("cpu")


def test_equal_geometries_share_an_operator_and_others_do_not():
    toy, cache = Toy(), OperatorCache(size=4)
    first = cache.get(toy, ToyGeometry(), {}, CPU)
    assert cache.get(toy, ToyGeometry(), {}, CPU) is first
    assert cache.get(toy, ToyGeometry(offset=1e-12), {}, CPU) is not first
    assert cache.get(toy, ToyGeometry(), {"delay": 0.0}, CPU) is not first
    assert (cache.built, cache.reused) == (3, 1)


def test_what_only_the_noise_looks_at_does_not_count():
    class Quiet(Toy):
        noise_fields = ("offset",)

    cache = OperatorCache()
    first = cache.get(Quiet(), ToyGeometry(), {}, CPU)
    assert cache.get(Quiet(), ToyGeometry(offset=0.5), {}, CPU) is first
    assert cache.get(Quiet(), ToyGeometry(offset=0.5, every=2), {}, CPU) is not first


def test_the_old_operator_is_gone_before_the_new_one_is_built():
    alive = []

    class Counting(Toy):
        def operator(self, geometry, *, delay: float = 0.0):
            gc.collect()
            alive.append(sum(one() is not None for one in made))
            operator = ToyOperator(geometry)
            made.append(weakref.ref(operator))
            return operator

    made: list[weakref.ref] = []
    toy, cache = Counting(), OperatorCache()
    for size in (8, 10, 12):
        cache.get(toy, ToyGeometry(size=size), {}, CPU)
    assert alive == [0, 0, 0]


def test_size_nought_keeps_nothing():
    toy, cache = Toy(), OperatorCache(0)
    assert cache.get(toy, ToyGeometry(), {}, CPU) is not cache.get(toy, ToyGeometry(), {}, CPU)
    assert cache.built == 2
    with pytest.raises(ValueError, match="0 operators or more, not -1"):
        OperatorCache(-1)


TV = {
    "prepare": [{"step": "flat_field"}],
    "solver": {"name": "fista", "iterations": 5},
    "prior": {"name": "tv", "weight": 0.01},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe", "overrides"),
    [
        # Without a centre of its own for each scan.
        ("ct", TV, []),
        (
            "phase",
            "nonlinear",
            [
                "calibrate.nuisances=['led_shift']",
                "calibrate.method='alternating'",
                "solver.iterations=3",
            ],
        ),
        ("wavefront", "recon", ["solver.iterations=3"]),
    ],
)
def test_a_scan_after_another_comes_out_to_the_bit_as_it_would_alone(name, recipe, overrides):
    """Nothing of a scan stays in the operator: not even nuisances that were estimated."""
    instrument = find_instrument(name, host())
    scans = [
        instrument.simulate(instrument.example(), torch.Generator().manual_seed(i)) for i in (0, 1)
    ]
    alone = assemble_job(name, recipe=recipe, overrides=overrides)
    together = assemble_job(name, recipe=recipe, overrides=overrides)
    compute(together, scans[0], None)
    second = compute(together, scans[1], None)[0].solution.x
    assert together.operators.reused == 1
    assert torch.equal(second, compute(alone, scans[1], None)[0].solution.x)
