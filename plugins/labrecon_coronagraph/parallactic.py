"""Parallactic angles from time, direction and site."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["mean_sidereal_angle", "of_date", "parallactic_angles"]

Values = NDArray[np.float64]


def parallactic_angles(
    julian_dates: Values, ra: float, dec: float, latitude: float, longitude: float
) -> Values:
    """``q = atan2(sin H, tan φ cos δ − sin δ cos H)``, unwrapped, in degrees.

    ``H`` is the hour angle by mean sidereal time and ``δ`` the declination, of the equinox of date:
    right ascension and declination are precessed from J2000. Nutation, aberration and UT1 − UTC are
    left out, which matters by less than 0.02° where the angle changes by less than 1° per minute.

    Args:
        julian_dates: UTC, one per frame.
        ra: right ascension, J2000, in degrees.
        dec: declination, J2000, in degrees.
        latitude: north is positive, in degrees.
        longitude: east is positive, in degrees.
    """
    now_ra, now_dec = of_date(float(np.mean(julian_dates)), ra, dec)
    hour = np.radians(mean_sidereal_angle(julian_dates) + longitude - now_ra)
    declination, site = np.radians(now_dec), np.radians(latitude)
    angle = np.arctan2(
        np.sin(hour),
        np.tan(site) * np.cos(declination) - np.sin(declination) * np.cos(hour),
    )
    return np.degrees(np.unwrap(angle))


def mean_sidereal_angle(julian_dates: Values) -> Values:
    """Greenwich mean sidereal time in degrees (Meeus, Astronomical Algorithms, eq. 12.4)."""
    days = julian_dates - 2451545.0
    centuries = days / 36525
    angle = 280.46061837 + 360.98564736629 * days + 0.000387933 * centuries**2
    return np.mod(angle, 360.0)


def of_date(julian_date: float, ra: float, dec: float) -> tuple[float, float]:
    """Right ascension and declination in degrees, precessed from J2000 (Meeus, eq. 21.3, 21.4)."""
    t = (julian_date - 2451545.0) / 36525
    zeta, z, theta = (
        np.radians((a * t + b * t * t + c * t**3) / 3600)
        for a, b, c in (
            (2306.2181, 0.30188, 0.017998),
            (2306.2181, 1.09468, 0.018203),
            (2004.3109, -0.42665, -0.041833),
        )
    )
    alpha, delta = np.radians(ra), np.radians(dec)
    a = np.cos(delta) * np.sin(alpha + zeta)
    b = np.cos(theta) * np.cos(delta) * np.cos(alpha + zeta) - np.sin(theta) * np.sin(delta)
    c = np.sin(theta) * np.cos(delta) * np.cos(alpha + zeta) + np.cos(theta) * np.sin(delta)
    return float(np.degrees(np.arctan2(a, b) + z) % 360), float(np.degrees(np.arcsin(c)))
