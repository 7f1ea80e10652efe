"""File formats of LED-array microscopes."""
