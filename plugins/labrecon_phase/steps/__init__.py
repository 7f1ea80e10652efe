"""Preparation steps."""
