"""Programs as operators: files, exit codes, timeouts."""

from __future__ import annotations

import os
import pickle
import sys
import time

import numpy as np
import pytest
import torch
from operator_cases import dense

from labrecon.bridge import BridgeError, Columns, CommandError, command
from labrecon.space import Space

SPACES = {"domain": Space((4,), torch.float64), "range": Space((3,), torch.float64)}
MATRIX = np.random.RandomState(0).randn(3, 4)

NPY = """
import sys, numpy as np
matrix = np.load({matrix!r})
which, source, target = sys.argv[1:4]
x = np.load(source)
np.save(target, matrix @ x if which == "forward" else matrix.T @ x)
"""
HDF5 = """
import sys, h5py
import numpy as np
which, source, target = sys.argv[1:4]
matrix = np.load({matrix!r})
with h5py.File(source) as file, h5py.File(target, "w") as out:
    x, t = file["input"][()], file["t"][()]
    if which == "forward":
        out["output"] = np.sin(matrix @ x) * t
    else:
        v = file["cotangent"][()]
        out["output"] = matrix.T @ (np.cos(matrix @ x) * t * v)
        out["t"] = np.sin(matrix @ x) * v
"""


@pytest.fixture
def script(tmp_path):
    np.save(tmp_path / "matrix.npy", MATRIX)

    def write(text: str) -> list[str]:
        path = tmp_path / "model.py"
        path.write_text(text.format(matrix=str(tmp_path / "matrix.npy")))
        return [sys.executable, str(path)]

    return write


def failing(code: str, **options):
    line = [sys.executable, "-c", code, "{input}", "{output}"]
    return command(line, **SPACES, linear=True, **options)


X = torch.ones(4, dtype=torch.float64)


def test_npy_program_is_its_matrix(script):
    program = script(NPY)
    a = command(
        [*program, "forward", "{input}", "{output}"],
        [*program, "adjoint", "{input}", "{output}"],
        **SPACES,
        linear=True,
    )
    a = pickle.loads(pickle.dumps(a))
    torch.testing.assert_close(dense(a), torch.from_numpy(MATRIX))
    torch.testing.assert_close(a.adjoint(a(X)), torch.from_numpy(MATRIX.T @ MATRIX) @ X)


def test_hdf5_program_with_a_vjp_and_a_parameter(script):
    program = script(HDF5)
    t = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    a = command(
        [*program, "forward", "{input}", "{output}"],
        vjp=[*program, "vjp", "{input}", "{output}"],
        **SPACES,
        linear=False,
        format="hdf5",
        nuisances={"t": (t, None)},
    )
    inputs = X.clone().requires_grad_(), t.clone().requires_grad_()
    found = torch.autograd.grad(a(inputs[0], t=inputs[1]).prod(), inputs)
    y = torch.sin(torch.from_numpy(MATRIX) @ inputs[0]) * inputs[1]
    torch.testing.assert_close(found, torch.autograd.grad(y.prod(), inputs))


def test_npy_gradient_of_a_parameter(tmp_path):
    code = (
        "import sys, numpy as np; x, v, t = map(np.load, sys.argv[1:4]);"
        "np.save(sys.argv[4], t * v); np.save(sys.argv[5], x * v)"
    )
    forward = (
        "import sys, numpy as np; np.save(sys.argv[3], np.load(sys.argv[1]) * np.load(sys.argv[2]))"
    )
    python = [sys.executable, "-c"]
    t = 2 * X
    space = Space((4,), torch.float64)
    a = command(
        [*python, forward, "{input}", "{t}", "{output}"],
        vjp=[*python, code, "{input}", "{cotangent}", "{t}", "{output}", "{gradient_t}"],
        domain=space,
        range=space,
        linear=False,
        nuisances={"t": (t, None)},
    )
    inputs = X.clone().requires_grad_(), t.clone().requires_grad_()
    gx, gt = torch.autograd.grad(a(inputs[0], t=inputs[1]).sum(), inputs)
    torch.testing.assert_close((gx, gt), (t, X))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no licence')", r"exit code 1; it said:\s+no licence"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV; it said nothing"),
        ("pass", "ended without an error .* wrote no output.npy"),
        ("import sys; open(sys.argv[2], 'w').write('hello')", "can not be read"),
        ("import sys; open(sys.argv[2], 'w')", "can not be read"),
    ],
)
def test_failures_tell_what_the_program_said(code, message):
    with pytest.raises(CommandError, match=message):
        failing(code)(X)


def test_wrong_shape_of_a_program():
    code = "import sys, numpy as np; np.save(sys.argv[2], np.zeros(7))"
    with pytest.raises(BridgeError, match=r"returned shape \(7,\), expected \(3,\)"):
        failing(code)(X)


def test_pickled_arrays_are_never_loaded():
    code = (
        "import sys, numpy as np; np.save(sys.argv[2], np.array([print, 1], dtype=object), "
        "allow_pickle=True)"
    )
    with pytest.raises(CommandError, match="can not be read"):
        failing(code)(X)


def test_timeout_kills_the_children_too(tmp_path):
    child = tmp_path / "child"
    code = (
        "import os, subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(child)!r}, 'w').write(str(p.pid)); print('started', flush=True); time.sleep(60)"
    )
    begin = time.perf_counter()
    with pytest.raises(CommandError, match=r"killed after 2 s[\s\S]*started"):
        failing(code, timeout=2.0)(X)
    assert time.perf_counter() - begin < 20
    pid = int(child.read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        # A killed child whose parent is gone stays a zombie until init looks.
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().split()[2] == "Z":
                return
        time.sleep(0.05)
    pytest.fail("the child lives on")


def test_command_lines_are_checked_before_any_work():
    for line, message in (
        (["no-such-program", "{input}", "{output}"], "there is no program 'no-such-program'"),
        ([sys.executable, "{input}"], "has no {output}"),
        ([sys.executable, "{output}"], "has no {input}"),
    ):
        with pytest.raises(CommandError, match=message):
            command(line, **SPACES, linear=True)
    with pytest.raises(ValueError, match="timeout must be positive"):
        failing("", timeout=0)
    with pytest.raises(ValueError, match="format is npy or hdf5"):
        failing("", format="mat")
    with pytest.raises(CommandError, match=r"speaks of \{angle\}"):
        command([sys.executable, "{input}", "{output}", "{angle}"], **SPACES, linear=True)(X)


def test_environment_and_folder(tmp_path):
    code = (
        "import os, sys, numpy as np;"
        "assert os.environ['LICENCE'] == 'yes';"
        f"assert os.getcwd() == {str(tmp_path)!r}, os.getcwd();"
        "np.save(sys.argv[2], np.zeros(3))"
    )
    a = failing(code, environment={"LICENCE": "yes"}, folder=tmp_path)
    assert not a(X).any()


def test_a_program_beside_the_caller_and_relative_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "copy.sh"
    program.write_text("#!/bin/sh\ntest -f here.txt && cp $1 $2\n")
    program.chmod(0o755)
    (tmp_path / "here.txt").write_text("beside the program")
    space = Space((4,), torch.float64)
    a = command(["./copy.sh", "{input}", "{output}"], domain=space, range=space, linear=True)
    monkeypatch.chdir("/")
    assert torch.equal(a(X), X)
    b = command(
        ["./copy.sh", "{input}", "{output}"], folder=str(tmp_path), domain=space, range=space,
        linear=True,
    )  # fmt: skip
    assert torch.equal(b(X), X)


def test_what_a_program_leaves_running_is_not_waited_for(tmp_path):
    code = (
        "import subprocess, sys, numpy as np;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)'],"
        " start_new_session=True); np.save(sys.argv[2], np.zeros(3))"
    )
    begin = time.perf_counter()
    failing(code, timeout=6.0)(X)
    assert time.perf_counter() - begin < 6


def test_braces_and_columns():
    code = "import sys, numpy as np; d = {{}}; np.save(sys.argv[2], np.load(sys.argv[1])[:3])"
    line = [sys.executable, "-c", code, "{input}", "{output}"]
    a = command(line, Columns(), **SPACES, linear=True)
    torch.testing.assert_close(a.adjoint(a(X)), torch.tensor([1.0, 1, 1, 0]).double())
