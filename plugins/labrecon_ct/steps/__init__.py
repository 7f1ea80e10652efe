"""Preparation steps, one file each: functions ``step(scan, **options) -> scan``."""
