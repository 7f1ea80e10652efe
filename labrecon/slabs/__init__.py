"""Scans whose slices do not see each other, reconstructed a slab of slices at a time."""

from labrecon.slabs.reconstruct import SlabsResult, reconstruct_in_slabs

__all__ = ["SlabsResult", "reconstruct_in_slabs"]
