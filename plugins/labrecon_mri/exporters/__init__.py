"""Formats in which a learned acquisition goes back to the scanner."""
