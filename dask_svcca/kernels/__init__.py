"""The mathematics: NumPy in, NumPy out, one chunk or one stack of pairs at a time.

Nothing here knows Dask, xarray, zarr, files or options. All kernels take *blocks*: a dense layer is one block; a
convolutional layer under the DFT has one block per spatial frequency, and counts a block as often as its multiplicity.
"""
