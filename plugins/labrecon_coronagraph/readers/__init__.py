"""Readers of FITS cubes."""
