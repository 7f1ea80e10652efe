"""External models (NumPy, CuPy, CUDA, a vendor's library, a program) as operators.

`external` and `command` make an `Operator` whose gradients are right, or are refused: nothing is
silently constant. `from_sigpy`, `from_scipy`, `from_pylops` and `from_deepinv` take the operators
of other packages; `as_scipy` gives one back.
"""

from labrecon.bridge.adapters import as_scipy, from_deepinv, from_pylops, from_scipy, from_sigpy
from labrecon.bridge.columns import Columns
from labrecon.bridge.command import CommandError, command
from labrecon.bridge.errors import BridgeError
from labrecon.bridge.external import External, external
from labrecon.bridge.policies import SPSA, FiniteDifference
from labrecon.operator import GradientError

__all__ = [
    "SPSA",
    "BridgeError",
    "Columns",
    "CommandError",
    "External",
    "FiniteDifference",
    "GradientError",
    "as_scipy",
    "command",
    "external",
    "from_deepinv",
    "from_pylops",
    "from_scipy",
    "from_sigpy",
]
