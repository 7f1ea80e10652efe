"""Bursts with unknown motions: registration, joint estimation, what can not be told."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from burst_cases import F64, FRAMES, burst, drawn, noise, rms, scene, taken
from torch import Tensor

from labrecon.operators import Burst, Decimation, Identity, Matrix
from labrecon.priors import TV
from labrecon.problem import Problem, SolverError
from labrecon.solver import solve
from labrecon.solvers import LucasKanade
from labrecon.solvers.registration import Registration, RegistrationError, register
from labrecon.space import Space


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


# -- registration ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_burst_of_a_batch_has_motions_of_its_own() -> None:
    operator, frames, motion = taken(2, 3)
    found = register(operator, frames)
    assert found.motion.shape == (2, 3, FRAMES, 2)
    assert bool(found.trusted.all())
    assert rms(found.motion - motion) < 0.05
    alone = register(operator, frames[1, 2]).motion
    torch.testing.assert_close(found.motion[1, 2], alone, rtol=0, atol=5e-3)


def test_large_shifts_are_found_and_affine_motions() -> None:
    wide = burst(160, 1)
    motion = torch.tensor([[0, 0], [13, -9], [-15, 14], [3.5, 12.25], [-0.5, -14]], dtype=F64)
    frames = wide(scene(size=160), motion=motion)[:, 56:-56, 56:-56]
    found = register(burst(48, 1), frames + noise(frames))
    assert bool(found.trusted.all())
    assert rms(found.motion - motion) < 0.03
    operator = burst(64, 2, motion="affine")
    motion = drawn(FRAMES, 6, reach=1.0)
    frames = operator(scene(size=64), motion=motion)
    found = register(operator, frames + noise(frames, 0.003))
    assert bool(found.trusted.all())
    assert rms(found.motion - motion) < 0.1


def test_mosaics_and_complex_frames_are_registered() -> None:
    colours = torch.stack([scene(), 0.7 * scene(), 0.4 * scene()])
    camera = Decimation(Space((3, 48, 48), F64), 1, mosaic="rggb")
    operator, motion = Burst(camera, FRAMES), drawn(FRAMES, 2)
    found = register(operator, operator(colours, motion=motion))
    assert rms(found.motion - motion) < 0.1
    waves = Burst(Identity(Space((48, 48), torch.complex128)), FRAMES)
    wave = (0.3 + scene()) * torch.exp(2j * scene(seed=3))
    found = register(waves, waves(wave, motion=motion))
    assert rms(found.motion - motion) < 0.1


def test_bad_pixels_of_weight_zero_change_little() -> None:
    operator, frames, motion = taken()
    weights = torch.ones_like(frames)
    weights[:, 5, :] = weights[:, 10:12, 7] = 0
    spoilt = torch.where(weights > 0, frames, 50.0)
    assert rms(register(operator, spoilt, weights).motion - motion) < 0.05
    assert not bool(register(operator, spoilt).trusted.all()) or (
        rms(register(operator, spoilt).motion - motion) > 0.2
    )


# -- what can not be told --------------------------------------------------------------------------


def failing(what: str) -> Tensor:
    _, frames, _ = taken(2)
    if what == "flat":
        frames[1, 3] = 0.5
    elif what == "noise":
        frames[1, 3] = 0.5 + noise(frames[1, 3], 0.05)
    elif what == "another scene":
        frames[1, 3] = burst()(scene(seed=9))[0]
    elif what == "out of range":
        wide = burst(160, 1, 1)
        frames[1, 3] = wide(scene(1, size=160))[0, 0, :24, :24]
    elif what == "half as bright":
        frames[1, 3] *= 0.5
    elif what == "stray light":
        frames[1, 3] += 0.2
    return frames


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("flat", "it correlates by"),
        ("noise", "it correlates by"),
        ("another scene", "no texture .* or another scene"),
        ("out of range", "it correlates by"),
        ("half as bright", r"its contrast is 0.5\d of that of frame 0.*one exposure first"),
        ("stray light", r"its contrast is 1.0\d of .* mean off by \+1.\d\d of it"),
    ],
)
def test_a_frame_without_a_motion_is_named(what: str, reason: str) -> None:
    problem = Problem(burst(), failing(what))
    told = rf"frame 3 of batch element 1: {reason}.* weight 0, or set"
    with pytest.raises(RegistrationError, match=told):
        solve(LucasKanade(), problem, iterations=1)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("correlation", 0.4, "it correlates by 0.40 with frame 0"),
        ("overlap", 0.2, "it shares 20% of its field"),
        ("textured", 0.0, "no texture along a direction"),
        ("contrast", 0.7, r"its contrast is 0.70 of that of frame 0.* one exposure"),
        ("contrast", 1.4, "its contrast is 1.40"),
        ("brightness", -0.6, r".* its mean off by -0.60 of it"),
    ],
)
def test_each_sign_of_a_wrong_motion_is_enough(field: str, value: float, reason: str) -> None:
    fine = {"correlation": 0.99, "textured": 1.0, "overlap": 0.9, "contrast": 1, "brightness": 0}
    numbers = {k: torch.full((FRAMES,), v, dtype=F64) for k, v in fine.items()}
    numbers[field][2] = value
    numbers["textured"] = numbers["textured"] > 0
    found = Registration(motion=torch.zeros(FRAMES, 2), **numbers)
    assert found.trusted.tolist() == [True, True, False, True, True]
    assert re.match(f"frame 2: {reason}", found.told(torch.ones(FRAMES, dtype=torch.bool)))


@pytest.mark.parametrize("sigma", [0.0, 0.01])
def test_edges_in_one_direction_do_not_tell_the_motion_along_them(sigma: float) -> None:
    lines = scene()[:1].expand(48, 48).clone()
    operator = burst()
    frames = operator(lines, motion=drawn(FRAMES, 2))
    with pytest.raises(RegistrationError, match="no texture along a direction"):
        solve(LucasKanade(), Problem(operator, frames + noise(frames, sigma)), iterations=1)


@pytest.mark.slow
def test_left_out_frames_count_nothing_and_are_told() -> None:
    frames = failing("another scene")
    rest = [0, 1, 2, 4]
    solver = LucasKanade(prior=TV(0.003), lost="drop")
    found = solve(solver, Problem(burst(), frames), iterations=5)
    assert found.history[-1]["frames_left_out"] == 1
    expected = found.state.motion[1, rest]
    less = solve(solver, Problem(burst(frames=4), frames[1, rest]), iterations=5)
    torch.testing.assert_close(less.state.motion, expected, rtol=0, atol=0.02)
    weights = torch.ones_like(frames)
    weights[1, 3] = 0
    told = solve(LucasKanade(prior=TV(0.003)), Problem(burst(), frames, weights=weights),
                 iterations=5)  # fmt: skip
    torch.testing.assert_close(told.x, found.x, rtol=0, atol=1e-4)


def test_other_operators_and_options_are_refused() -> None:
    problem = Problem(Matrix(torch.eye(4)), torch.ones(4))
    with pytest.raises(SolverError, match="Describe the camera by an operator of one frame"):
        solve(LucasKanade(), problem, iterations=1)
    with pytest.raises(SolverError, match="start is one of register, given"):
        LucasKanade(start="zero")  # type: ignore[arg-type]
    with pytest.raises(SolverError, match="lost is one of raise, drop"):
        LucasKanade(lost="keep")  # type: ignore[arg-type]
    with pytest.raises(SolverError, match="inner"):
        LucasKanade(inner=0)


# -- joint estimation ------------------------------------------------------------------------------


@pytest.mark.slow
def test_joint_estimation_finds_motions_and_image_together() -> None:
    operator, frames, motion = taken(2)
    problem = Problem(operator, frames)
    truth = scene(2, size=64)[:, 8:-8, 8:-8]
    options: dict[str, Any] = {"prior": TV(0.001), "mu": 0.01, "growth": 1.1, "inner": 3}
    joint = solve(LucasKanade(**options), problem, iterations=40)
    first = solve(LucasKanade(joint=False, **options), problem, iterations=40)
    place = (..., slice(4, -4), slice(4, -4))
    assert rms(joint.state.motion - motion) < 0.01
    assert rms(joint.state.motion - motion) < 0.6 * rms(first.state.motion - motion)
    assert rms((joint.x - truth)[place]) < rms((first.x - truth)[place])
    assert bool((joint.state.motion[:, 0] == 0).all())
    alone = solve(LucasKanade(**options), Problem(operator, frames[1]), iterations=40)
    torch.testing.assert_close(alone.x, joint.x[1], rtol=0, atol=0.02)
    calibrated = LucasKanade().calibrated(problem, joint.state)
    seen = operator.inside(motion)
    residual = seen * (calibrated(joint.x) - frames)
    assert rms(residual) < 1.3 * 0.01


def test_a_solve_goes_on_from_its_state_with_the_same_bits() -> None:
    operator, frames, _ = taken()
    solver, problem = LucasKanade(prior=TV(0.003), growth=1.1), Problem(operator, frames)
    through = solve(solver, problem, iterations=6)
    half = solve(solver, problem, iterations=3)
    again = solve(solver, problem, state=half.state, iterations=6)
    for name, value in through.state.tensors().items():
        assert torch.equal(value, again.state.tensors()[name])


def test_given_motions_are_the_start_and_stay_where_they_are() -> None:
    operator, frames, motion = taken()
    operator.place({"motion": motion})
    solver = LucasKanade(start="given", joint=False)
    found = solve(solver, Problem(operator, frames), iterations=3)
    torch.testing.assert_close(found.state.motion, motion, rtol=0, atol=0)
