"""What `external` is told, checked before anything is computed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping

from torch import Tensor

from labrecon.bridge.columns import Columns
from labrecon.bridge.gradients import Policy, Surrogate
from labrecon.bridge.model import Function
from labrecon.bridge.policies import SPSA, FiniteDifference
from labrecon.design import FeasibleSet
from labrecon.operator import GradientError

__all__ = ["Parameter", "check_parameters", "choose_policies", "name_of"]

Parameter = tuple[Tensor, FeasibleSet | None]
#: Names of arguments, and of the files of `command`.
_RESERVED = ("x", "y", "u", "v", "session", "input", "output", "cotangent")


def name_of(function: Function) -> str:
    """What messages call a function."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    return str(getattr(function, "__name__", type(function).__name__))


def check_parameters(
    name: str, parameters: Mapping[str, Parameter], known: Mapping[str, Function]
) -> None:
    """Raise `ValueError` for a name or value that can not be, or that a function does not take."""
    for key, (value, _) in parameters.items():
        if key in _RESERVED or key.startswith("gradient_") or not key.isidentifier():
            raise ValueError(
                f"{name}: a parameter can not be called {key!r}; {', '.join(_RESERVED)} and "
                "gradient_… have a meaning of their own"
            )
        if not value.is_floating_point():
            raise ValueError(
                f"{name}: the parameter {key!r} has dtype {value.dtype}, expected real floating "
                "point numbers"
            )
    for which, function in known.items():
        try:
            taken = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # compiled functions often have none
            continue
        if any(p.kind is p.VAR_KEYWORD for p in taken):
            continue
        names = [p.name for p in taken if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        missing = [key for key in parameters if key not in names]
        if missing:
            raise ValueError(
                f"{name}: {which} takes no argument {missing[0]!r}; every function gets all "
                f"parameters as keyword arguments: {', '.join(parameters)}"
            )


def choose_policies(
    name: str,
    gradient: str | Mapping[str, Policy] | None,
    parameters: tuple[str, ...],
    known: Mapping[str, Function],
    columns: Columns | None,
    surrogate: Surrogate | None,
) -> dict[str, Policy]:
    """Where the gradient of ``x`` and of each parameter comes from.

    Raises:
        GradientError: a policy that the functions given can not follow.
    """
    has_adjoint = "adjoint" in known or columns is not None
    usual: Policy = "vjp" if "vjp" in known else "surrogate" if surrogate is not None else None
    policies: dict[str, Policy] = {"x": "adjoint" if has_adjoint else usual}
    policies |= dict.fromkeys(parameters, usual)
    if isinstance(gradient, Mapping):
        unknown = set(gradient) - set(policies)
        if unknown:
            raise GradientError(
                f"{name}: gradient speaks of {sorted(unknown)}; there are {sorted(policies)}"
            )
        policies |= gradient
    elif gradient == "adjoint":
        policies["x"] = "adjoint"
    elif gradient == "finite-difference":
        # Where the exact derivative by x is known, differences would be a loss.
        policies = {key: p if p is not None else FiniteDifference() for key, p in policies.items()}
    elif gradient is not None:
        policies = dict.fromkeys(policies, gradient)
    for key, policy in policies.items():
        policies[key] = FiniteDifference() if policy == "finite-difference" else policy
        if not isinstance(policy, str | FiniteDifference | SPSA | None):
            raise GradientError(f"{name}: gradient of {key!r}: what is {policy!r}?")
        if policy == "adjoint" and key != "x":
            raise GradientError(f"{name}: the adjoint gives no gradient of {key!r}")
        needs = {"adjoint": has_adjoint, "vjp": "vjp" in known, "surrogate": surrogate is not None}
        if isinstance(policy, str) and policy != "finite-difference" and not needs.get(policy):
            raise GradientError(
                f"{name}: gradient of {key!r} by {policy!r}, but there is no {policy}=…"
                if policy in needs
                else f"{name}: no such gradient: {policy!r}; there are {', '.join(needs)}, "
                "finite-difference"
            )
    return policies
