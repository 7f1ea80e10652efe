"""What `labrecon.learner.fit` is made of; none of it knows files."""

from labrecon.fitting.config import FitConfig, FitError
from labrecon.fitting.result import Best, FitResult

__all__ = ["Best", "FitConfig", "FitError", "FitResult"]
