"""Noise: how measured data scatter around ``A(x)``, for simulation and for the data term."""

from labrecon.noise.amplitude import Amplitude
from labrecon.noise.counts import LogPoisson, Poisson, PoissonGaussian
from labrecon.noise.gaussian import Gaussian
from labrecon.noise.model import Noise, NoiseError
from labrecon.noise.scaled import Scaled

__all__ = [
    "Amplitude",
    "Gaussian",
    "LogPoisson",
    "Noise",
    "NoiseError",
    "Poisson",
    "PoissonGaussian",
    "Scaled",
]
