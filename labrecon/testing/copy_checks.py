"""The check of copies: by pickling, as workers get them, and by a file of the state."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from labrecon.operator import Operator
from labrecon.testing.bench import Bench, check, relative
from labrecon.testing.finding import Finding


@check("serialisation")
def serialisation(bench: Bench) -> Iterator[Finding]:
    """The operator survives pickling (workers) and its state survives a file (checkpoints)."""
    operator = bench.operator
    x = bench.point()
    with torch.no_grad():
        expected = operator(x)
    try:
        again: Operator = pickle.loads(pickle.dumps(operator))
        with torch.no_grad():
            error = relative(again(x), expected)
    except Exception as raised:
        yield Finding(
            "failed",
            f"can not be pickled: {type(raised).__name__}: {raised}",
            about="pickle",
            advice="define functions at the top level of a module; drop handles in __getstate__ "
            "and make them again when they are needed (setup= of labrecon.bridge.external)",
        )
    else:
        if bench.spawn and (told := _elsewhere(operator, x, expected, bench.exact)):
            yield Finding(
                "failed",
                f"a pickled copy does not work in another process: {told}",
                about="pickle",
                advice="handles and pointers mean nothing there: make them again when they are "
                "needed (setup= of labrecon.bridge.external)",
            )
            return
        same = error <= bench.exact
        yield Finding(
            "passed" if same else "failed",
            "a pickled copy gives the same" if same else "a pickled copy gives another answer",
            error,
            bench.exact,
            "" if same else "everything that forward uses must travel with it",
            "pickle",
        )
    # A fresh operator may share memory with constants of its module.
    other = copy.deepcopy(bench.fresh())
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.zero_()
        with contextlib.suppress(Exception):
            # What it computes now from zeros must not outlive the state.
            other(x)
    other.load_state_dict(_through_a_file(operator.state_dict()))
    with torch.no_grad():
        error = relative(other(x), expected)
    if error > bench.exact:
        yield Finding(
            "failed",
            "an operator with the loaded state gives another answer",
            error,
            bench.exact,
            "keep nothing that was computed from parameters, or compute it anew when they change",
            "state",
        )
    else:
        yield Finding("passed", "the state carries the parameters", error, bench.exact, "", "state")


_CHILD = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
operator, x = pickle.load(sys.stdin.buffer)
import numpy, torch
with torch.no_grad():
    y = operator(x)
numpy.save(sys.argv[1], y.cpu().resolve_conj().numpy())
"""


def _elsewhere(operator: Operator, x: Tensor, expected: Tensor, tolerance: float) -> str:
    """What is wrong with a pickled copy in a fresh process; nothing if it works."""
    with tempfile.TemporaryDirectory(prefix="labrecon-") as folder:
        result = Path(folder) / "result.npy"
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(result)],
            input=pickle.dumps([*sys.path, os.getcwd()]) + pickle.dumps((operator, x)),
            capture_output=True,
            check=False,
        )
        if done.returncode != 0 or not result.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            return said[-1] if said else f"it ended with {done.returncode}"
        error = relative(torch.from_numpy(np.load(result)), expected)
    return f"its answer differs by {error:.3g}" if error > tolerance else ""


def _through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors keeps them, which knows no complex numbers and no sharing."""
    kept = {k: torch.view_as_real(v) if v.is_complex() else v for k, v in state.items()}
    kept = {k: v.clone(memory_format=torch.contiguous_format) for k, v in kept.items()}
    read = safetensors.torch.load(safetensors.torch.save(kept))
    return {k: torch.view_as_complex(v) if state[k].is_complex() else v for k, v in read.items()}
