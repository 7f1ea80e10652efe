"""A coded-aperture spectrometer whose forward model is C, called through ctypes."""

import ctypes
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, Field

from labrecon import Gaussian, Instrument, Space
from labrecon.bridge import external
from labrecon.design import Binary

library = ctypes.CDLL(str(Path(__file__).with_name("coded_aperture.so")))
CODE = tuple(map(float, "1011001110001111100110100100001"))


class Geometry(BaseModel, extra="forbid"):
    code: tuple[float, ...] = Field(default=CODE, description="slits: 1 open, 0 closed")
    views: int = Field(default=16, ge=1, description="steps of the disc, by one slit each")
    bands: int = Field(default=64, ge=1, description="spectral bands of 2 nm")
    read_noise: float = Field(default=0.02, gt=0, description="standard deviation in counts")


def call(function, source, code, result, bands, views):
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (source, code, result)]
    library[function](*pointers, len(code), bands, views)
    return result


def project(x, code, views):
    y = np.zeros((views, len(code) + x.shape[1] - 1), np.float32)
    return call("project", x, code, y, x.shape[1], views)


def backproject(y, code):
    x = np.zeros((len(code), y.shape[1] - len(code) + 1), np.float32)
    return call("backproject", y, code, x, x.shape[1], len(y))


class Spectrometer(Instrument):
    name, title = "spectrometer", "Coded-aperture spectrometer"
    Geometry, unit, data_unit, limits = Geometry, "counts", "counts", (0.0, None)

    def example(self):
        return Geometry()

    def operator(self, geometry):
        positions, bands, views = len(geometry.code), geometry.bands, geometry.views
        domain = Space((positions, bands), axes=("position", "band"))
        data = Space((views, positions + bands - 1), axes=("view", "pixel"))
        forward = partial(project, views=views)
        designs = {"code": (torch.tensor(geometry.code), Binary())}
        gradient = {"x": "adjoint", "code": "finite-difference"}
        return external(
            forward,
            backproject,
            domain=domain,
            range=data,
            linear=True,
            designs=designs,
            gradient=gradient,
            threadsafe=True,
        )

    def noise(self, geometry):
        return Gaussian(geometry.read_noise)

    def objects(self, geometry, n, generator):
        line, width, height, place = torch.rand(4, n, 5, 1, 1, generator=generator)
        position = torch.linspace(0, 1, len(geometry.code))[:, None]
        band = torch.linspace(0, 1, geometry.bands)
        across = (position - place).abs() < 0.05 + 0.2 * width
        return (across * height * torch.exp(-(((band - line) / 0.03) ** 2))).sum(1)
