"""Solver states in files."""

from __future__ import annotations

import errno
import pickle

import pytest
import torch
from solver_cases import CASES, Case, nominal_data

from labrecon.io import states
from labrecon.io.states import StateError, load_state, save_state
from labrecon.solver import solve


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_state_comes_back_as_it_went(case: Case, tmp_path) -> None:
    solver = case.solver()
    state = solve(solver, case.problem(nominal_data(2)), iterations=3).state
    save_state(tmp_path / "state", state)
    read = load_state(tmp_path / "state", solver.state_type)
    assert type(read) is type(state)
    assert read.numbers() == state.numbers()
    assert read.tensors().keys() == state.tensors().keys()
    for name, tensor in state.tensors().items():
        assert read.tensors()[name].dtype == tensor.dtype
        assert torch.equal(read.tensors()[name], tensor)


def state(name: str = "fista"):
    case = next(c for c in CASES if c.name == name)
    solver = case.solver()
    return solver.state_type, solve(solver, case.problem(), iterations=2).state


def test_the_state_of_another_solver_is_refused(tmp_path) -> None:
    save_state(tmp_path / "state", state("cg")[1])
    with pytest.raises(StateError, match="expected"):
        load_state(tmp_path / "state", state("fista")[0])


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_a_truncated_file_is_refused(kept: int, tmp_path) -> None:
    kind, value = state()
    save_state(tmp_path / "state", value)
    whole = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(whole[:kept])
    with pytest.raises(StateError, match="damaged"):
        load_state(tmp_path / "state", kind)


def test_a_missing_file_and_a_pickle_are_refused(tmp_path) -> None:
    with pytest.raises(StateError):
        load_state(tmp_path / "none", state()[0])
    (tmp_path / "pickle").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(StateError):
        load_state(tmp_path / "pickle", state()[0])


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    kind, value = state()
    save_state(tmp_path / "state", value)

    def full(*_, **__) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(states, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_state(tmp_path / "state", value.replace(k=99))
    assert load_state(tmp_path / "state", kind).k == value.k
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
