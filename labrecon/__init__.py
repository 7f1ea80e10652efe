"""labrecon: describe an instrument once, get reconstruction, learning and design.

Names are loaded when they are first used: ``import labrecon`` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labrecon.algebra import block as block
    from labrecon.algebra import stack as stack
    from labrecon.arrays import Array as Array
    from labrecon.functional import linear_function as linear_function
    from labrecon.instrument import Instrument as Instrument
    from labrecon.instrument import Scan as Scan
    from labrecon.learner import FitConfig as FitConfig
    from labrecon.learner import Learner as Learner
    from labrecon.learner import fit as fit
    from labrecon.noise import Gaussian as Gaussian
    from labrecon.noise import Noise as Noise
    from labrecon.noise import Poisson as Poisson
    from labrecon.noise import PoissonGaussian as PoissonGaussian
    from labrecon.operator import Operator as Operator
    from labrecon.plugins import hookimpl as hookimpl
    from labrecon.prior import Prior as Prior
    from labrecon.problem import Problem as Problem
    from labrecon.solver import Solver as Solver
    from labrecon.solver import solve as solve
    from labrecon.space import Space as Space

__version__ = "0.1.0"

_HOME = {
    "Array": "arrays",
    "FitConfig": "learner",
    "Gaussian": "noise",
    "Instrument": "instrument",
    "Learner": "learner",
    "Noise": "noise",
    "Operator": "operator",
    "Poisson": "noise",
    "PoissonGaussian": "noise",
    "Prior": "prior",
    "Problem": "problem",
    "Scan": "instrument",
    "Solver": "solver",
    "Space": "space",
    "block": "algebra",
    "fit": "learner",
    "hookimpl": "plugins",
    "linear_function": "functional",
    "solve": "solver",
    "stack": "algebra",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'labrecon' has no attribute {name!r}")
    return getattr(importlib.import_module(f"labrecon.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
