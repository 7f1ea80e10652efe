"""Preparation steps of MRI data."""
