"""Zarr stores: the zoo that holds activations, and the comparison that holds results.

Both are plain zarr v3 that anyone reads with xarray; what is here adds checks on the way in and speed on the way out.
"""
