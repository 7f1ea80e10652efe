"""Readers of CT file formats, one file each."""
