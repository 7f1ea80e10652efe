"""Image formats of MRI."""
